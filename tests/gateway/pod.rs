//! What is around Envoy Gateway: the pod's files and names, a fake Entra, the service, and a registry with the module.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode};
use std::time::SystemTime;
use std::{env, fs};

use fake_entra::{Credential, Directory, Issuer, Server};
use operator::Source;
use operator::render::{Settings, Target, render};
use stack::{
    AUDIENCE, CLIENT_ID, EnvoyGateway, ISSUER_URL, LISTED_HOST, Layout, RESOURCES, Request, Response, StartError,
    TENANT_ID, TOKEN_LIFETIME, TokenDirectory, Upstream, credential, envoy_gateway, root,
};

use crate::registry::Registry;

/// The variable with the folder that `scripts/in-gateway-pod` got.
const FOLDER: &str = "GATEWAY_POD";
const ENTRA: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SERVICE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// The service account of Envoy's pods.
const ACCOUNT: (&str, &str) = ("envoy-gateway-system", "entra-exchange");

/// Runs this test again as in a pod, and returns its exit code; `None` if it runs so already, or if no test is selected.
pub(crate) fn enter() -> Option<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let is_selected = arguments.iter().any(|argument| matches!(argument.as_str(), "--ignored" | "--include-ignored"));
    if !is_selected || arguments.iter().any(|argument| argument == "--list") || env::var_os(FOLDER).is_some() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let names = format!(
        "127.0.0.1 localhost {}\n{ENTRA} login.microsoftonline.com\n{SERVICE} {LISTED_HOST}\n",
        envoy_gateway::NAMES
    );
    fs::write(folder.path().join("hosts"), names).expect("the names");
    fs::write(folder.path().join("ca.pem"), "").expect("the CAs");
    let mut command = Command::new(root().join("scripts/in-gateway-pod"));
    command.arg(folder.path()).arg(env::current_exe().expect("this program")).args(arguments);
    let status = command.env(FOLDER, folder.path()).status().expect("scripts/in-gateway-pod");
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A running Envoy Gateway with everything that it needs.
pub(crate) struct Pod {
    // Dropped first.
    gateway: EnvoyGateway,
    /// The objects, as `render` made them.
    pub(crate) objects: String,
    /// The fake Entra.
    pub(crate) entra: Directory,
    _entra: Server,
    _service: Upstream,
    _registry: Registry,
    _token: TokenDirectory,
}

impl Pod {
    pub(crate) fn start() -> Result<Self, StartError> {
        let administration = |error: &dyn std::fmt::Display| StartError::Administration(error.to_string());
        let directory = Directory::new();
        let issuer = Issuer::new(ISSUER_URL);
        directory.trust_issuer(ISSUER_URL, issuer.jwks());
        RESOURCES.iter().for_each(|resource| directory.register_resource(resource));
        let (namespace, account) = ACCOUNT;
        let subject = format!("system:serviceaccount:{namespace}:{account}");
        let own = Credential { subject, ..credential(CLIENT_ID) };
        directory.register_credential(own).map_err(StartError::Registration)?;

        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let entra =
            Server::start_on(directory.clone(), (ENTRA, 443).into(), free).map_err(|error| administration(&error))?;
        let service = Upstream::start_on((SERVICE, 443).into()).map_err(|error| administration(&error))?;
        let registry = Registry::start().map_err(|error| administration(&error))?;
        fs::write("/etc/ssl/certs/ca-certificates.crt", format!("{}{}", entra.ca_pem(), service.ca_pem()))
            .map_err(|error| administration(&error))?;
        let token = issuer.service_account_token(namespace, account, AUDIENCE, SystemTime::now(), TOKEN_LIFETIME);
        let token = TokenDirectory::create("/var/run/secrets/azure/wi", Layout::Webhook160, &token)
            .map_err(|error| administration(&error))?;

        let settings = Settings {
            image: registry.image.clone(),
            digest: registry.digest.clone(),
            tenant_id: TENANT_ID.to_owned(),
            client_id: CLIENT_ID.to_owned(),
            ..Settings::of(Target::Gateway)
        };
        let configuration = fs::read_to_string(root().join("envoy/configuration/gateway.yaml"));
        let configuration = configuration.map_err(|error| administration(&error))?;
        let source = Source::new("gateway.yaml", configuration);
        let objects = render(&source, Target::Gateway, &settings).map_err(|error| administration(&error))?;
        let gateway = EnvoyGateway::start(&objects, &variables(&objects))?;
        Ok(Self {
            gateway,
            objects,
            entra: directory,
            _entra: entra,
            _service: service,
            _registry: registry,
            _token: token,
        })
    }

    pub(crate) fn send(&self, request: &Request) -> Response {
        self.gateway.send(request).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    pub(crate) fn apply(&self, objects: &str) {
        self.gateway.apply(objects).unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn log(&self) -> String {
        self.gateway.log()
    }
}

/// The variables of Envoy's container in the EnvoyProxy, which Envoy Gateway sets in a cluster only.
fn variables(objects: &str) -> Vec<(String, String)> {
    let lines = objects.lines().filter_map(|line| line.trim().strip_prefix("- { name: AZURE_")?.strip_suffix(" }"));
    let pairs = lines.filter_map(|pair| pair.split_once(", value: "));
    pairs.map(|(name, value)| (format!("AZURE_{name}"), value.trim_matches('"').to_owned())).collect()
}
