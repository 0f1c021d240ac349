//! Runs a real Envoy with a fake Entra, an upstream and a projected token volume, for tests, demo and benchmarks.
//!
//! ```no_run
//! let stack = stack::Stack::start(stack::Options::default())?;
//! let response = stack.get(stack::LISTED_HOST, "/secrets", &[]);
//! assert!(response.seen_header("authorization").is_some_and(|value| value.starts_with("Bearer ")));
//! # Ok::<(), stack::StartError>(())
//! ```
//!
//! Envoy runs `envoy/sidecar/envoy.yaml`, the file that operators deploy, with the changes of [`sidecar::substitutions`]. Tests that
//! need another Envoy configuration use [`envoy::Envoy`]: no other code in this repository starts Envoy.

mod child;
pub mod client;
pub mod document;
pub mod envoy;
pub mod envoy_gateway;
mod error;
pub mod example;
mod folder;
pub mod forwarder;
pub mod keycloak;
mod listeners;
mod mesh;
mod options;
mod process;
pub mod sidecar;
pub mod source_cluster;
mod sources;
pub mod spire;
mod token_directory;
pub mod upstream;
pub mod vault;
mod workload;
mod workspace;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use fake_entra::{Directory, Issuer, Server};
use serde_json::json;

pub use client::{Request, Response};
pub use envoy::Envoy;
pub use envoy_gateway::EnvoyGateway;
pub use error::{NoSuchPath, PushError, StartError};
pub use example::Example;
pub use forwarder::{DropMode, Forwarder};
pub use keycloak::Keycloak;
pub use mesh::Mesh;
pub use options::{Edit, Options};
pub use spire::Spire;
pub use token_directory::{Layout, TokenDirectory};
pub use upstream::Upstream;
pub use vault::Vault;
pub use workload::{
    AUDIENCE, AUTHORITY_HOST, CLIENT_ID, HEALTH_HOST, IDENTITY_HEADER, IMDS_HOST, ISSUER_URL, LISTED_HOST, NAMESPACE,
    RESOURCES, SERVICE_ACCOUNT, SUBJECT, TENANT_ID, TOKEN_LIFETIME, UNLISTED_HOST, credential,
};
pub use workspace::{module, module_sources, next_module, root};

use envoy::Launch;
use folder::Folder;
use listeners::Listeners;
use sidecar::Substitutes;

const ENTRA_CA: &str = "entra-ca.pem";
const UPSTREAM_CA: &str = "upstream-ca.pem";

/// A running stack. Dropping it stops everything and removes the working files; a panicking thread keeps the files.
pub struct Stack {
    // Fields are dropped in this order: Envoy before its upstreams, and the folder last.
    /// Envoy.
    pub envoy: Envoy,
    /// The upstream of listed and unlisted hosts.
    pub upstream: Upstream,
    /// The projected token volume.
    pub token_directory: TokenDirectory,
    /// The Kubernetes issuer that signs projected tokens; the fake Entra trusts it.
    pub issuer: Issuer,
    entra: Server,
    outbound: SocketAddr,
    managed_identity: SocketAddr,
    health: SocketAddr,
    listeners: Option<Mutex<Listeners>>,
    concurrency: u32,
    folder: Folder,
}

impl Stack {
    /// Starts everything and waits until Envoy is ready. Keeps the log and the working files when Envoy does not become ready.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let mut folder = Folder::create().map_err(StartError::io("creating the working folder"))?;
        let files = folder.path().to_owned();

        let issuer = Issuer::new(ISSUER_URL);
        let directory = Directory::new();
        workload::register(&directory, &issuer).map_err(StartError::Registration)?;
        let entra = Server::start(directory).map_err(StartError::io("starting the fake Entra"))?;
        let upstream = Upstream::start().map_err(StartError::io("starting the upstream"))?;

        let token = options.token.unwrap_or_else(|| workload::valid_token(&issuer));
        let token_directory = TokenDirectory::create(files.join("wi"), options.layout, &token)
            .map_err(StartError::io("creating the token volume"))?;
        let (entra_ca, upstream_ca) = (files.join(ENTRA_CA), files.join(UPSTREAM_CA));
        fs::write(&entra_ca, entra.ca_pem()).map_err(StartError::io("writing the fake Entra's CA"))?;
        fs::write(&upstream_ca, upstream.ca_pem()).map_err(StartError::io("writing the upstream's CA"))?;

        let module = options.module.clone().unwrap_or_else(|| root().join(workspace::MODULE));
        let mut bootstrap = sidecar::document()?;
        sidecar::adapt(
            &mut bootstrap,
            &Substitutes {
                entra: entra.https_addr(),
                entra_ca: &entra_ca,
                upstream: upstream.addr(),
                upstream_ca: &upstream_ca,
                instance_metadata: upstream.plaintext_addr(),
                token_file: &token_directory.file(),
                watched: token_directory.watched(),
                module: &module,
                configuration: options.configuration.as_deref(),
            },
        )?;
        if let Some(edit) = options.edit {
            edit(&mut bootstrap);
        }
        // The edit may have removed the filter, in which case the module is not required.
        if bootstrap.to_string().contains(&json!(module).to_string()) {
            match options.module {
                Some(module) if !module.is_file() => return Err(StartError::ModuleMissing(module)),
                Some(_) => {}
                None => drop(workspace::module()?),
            }
        }
        let listeners = options.lds.then(|| Listeners::move_out(&mut bootstrap, &files)).transpose()?;

        let envoy = Envoy::start(&Launch {
            binary: &options.envoy.unwrap_or_else(envoy::binary),
            bootstrap: &bootstrap,
            folder: &files,
            concurrency: options.concurrency,
            environment: &options.environment,
            log_level: &options.log_level,
            listeners: &sidecar::WITH_FILTER,
        })
        .inspect_err(|error| {
            if matches!(error, StartError::EnvoyExited { .. } | StartError::EnvoyNotReady { .. }) {
                folder.keep();
            }
        })?;
        let address = |name: &str| match envoy.listener(name) {
            Ok(Some(address)) => Ok(address),
            Ok(None) => Err(StartError::io(format!("getting the address of listener `{name}` from Envoy"))(
                io::ErrorKind::NotFound.into(),
            )),
            Err(error) => Err(StartError::io(format!("getting the address of listener `{name}` from Envoy"))(error)),
        };
        Ok(Self {
            outbound: address(sidecar::OUTBOUND)?,
            managed_identity: address(sidecar::MANAGED_IDENTITY)?,
            health: address(sidecar::HEALTH)?,
            envoy,
            upstream,
            token_directory,
            issuer,
            entra,
            listeners: listeners.map(Mutex::new),
            concurrency: options.concurrency,
            folder,
        })
    }

    /// The URL to which the application sends its requests.
    pub fn outbound_url(&self) -> String {
        format!("http://{}", self.outbound)
    }

    /// The URL to which calls to IMDS are redirected.
    pub fn imds_url(&self) -> String {
        format!("http://{}", self.managed_identity)
    }

    /// The value of `IDENTITY_ENDPOINT` for applications; [`IDENTITY_HEADER`] is their secret.
    pub fn app_service_url(&self) -> String {
        format!("{}/msi/token", self.imds_url())
    }

    /// The URL of Envoy's admin port.
    pub fn envoy_admin_url(&self) -> String {
        format!("http://{}", self.envoy.admin_addr())
    }

    /// The address of the listener `outbound`.
    pub fn outbound_addr(&self) -> SocketAddr {
        self.outbound
    }

    /// The address of the listener `managed_identity`.
    pub fn imds_addr(&self) -> SocketAddr {
        self.managed_identity
    }

    /// The address of the listener `health`.
    pub fn health_addr(&self) -> SocketAddr {
        self.health
    }

    /// The fake Entra.
    pub fn entra(&self) -> &Server {
        &self.entra
    }

    /// The fake Entra's directory, with its counters and faults.
    pub fn directory(&self) -> Directory {
        self.entra.directory()
    }

    /// Returns the log of Envoy and the filter.
    pub fn log(&self) -> String {
        self.envoy.log()
    }

    /// Returns log lines that must not occur: the capability list blocked a call of the module, the module trapped, an assertion in
    /// Envoy failed, or a token was logged.
    pub fn forbidden_log_lines(&self) -> Vec<String> {
        let forbidden = ["restricted", "panicked", "Function: proxy_on", "eyJ", "assert failure"];
        self.log().lines().filter(|line| forbidden.iter().any(|text| line.contains(text))).map(str::to_owned).collect()
    }

    /// Creates a valid token of the workload that differs from all others.
    pub fn new_token(&self) -> String {
        workload::valid_token(&self.issuer)
    }

    /// Rotates a new valid token into the volume, as the kubelet does, and returns it. Envoy reads it within about 0.3 s.
    pub fn rotate_token(&self) -> io::Result<String> {
        let token = self.new_token();
        self.rotate_token_with(&token)?;
        Ok(token)
    }

    /// Rotates this token into the volume, whether or not it is valid.
    pub fn rotate_token_with(&self, token: &str) -> io::Result<()> {
        self.token_directory.rotate(token)
    }

    /// Replaces the filter's configuration in the running Envoy and returns when every worker has it. When it is rejected, the former one
    /// stays active. Requires [`Options::lds`]. Open connections keep the former configuration.
    pub fn push_configuration(&self, json: &str) -> Result<(), PushError> {
        let listeners = self.listeners.as_ref().ok_or(PushError::LdsDisabled)?;
        let mut listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(&self.envoy, self.concurrency, json)
    }

    /// Sends a GET through the listener `outbound`.
    ///
    /// # Panics
    /// When there is no response; [`Stack::send`] returns an error instead.
    pub fn get(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        expect(self.outbound, &with_headers(Request::get(host, path), headers))
    }

    /// Sends a GET to IMDS as the application does.
    ///
    /// # Panics
    /// When there is no response; [`Stack::send_imds`] returns an error instead.
    pub fn get_imds(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        expect(self.managed_identity, &with_headers(Request::get(IMDS_HOST, path), headers))
    }

    /// Sends a request through the listener `outbound`.
    pub fn send(&self, request: &Request) -> io::Result<Response> {
        request.send(self.outbound)
    }

    /// Sends a request to the listener `managed_identity`.
    pub fn send_imds(&self, request: &Request) -> io::Result<Response> {
        request.send(self.managed_identity)
    }

    /// Sends a request to the listener `health`.
    pub fn send_health(&self, request: &Request) -> io::Result<Response> {
        request.send(self.health)
    }

    /// Returns all addresses and files as environment variables, for shells and other processes.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("OUTBOUND_URL", self.outbound_url()),
            ("IMDS_URL", self.imds_url()),
            ("APP_SERVICE_URL", self.app_service_url()),
            ("IDENTITY_HEADER", IDENTITY_HEADER.to_owned()),
            ("HEALTH_URL", format!("http://{}", self.health)),
            ("ENTRA_URL", format!("https://{}", self.entra.https_addr())),
            ("ENTRA_CA", self.folder.path().join(ENTRA_CA).display().to_string()),
            ("ENTRA_ADMIN_URL", format!("http://{}", self.entra.admin_addr())),
            ("ENVOY_ADMIN_URL", self.envoy_admin_url()),
            ("ENVOY_LOG", self.folder.path().join("envoy.log").display().to_string()),
            ("ENVOY_PID", self.envoy.pid().to_string()),
            ("TOKEN_FILE", self.token_directory.file().display().to_string()),
            ("LISTED_HOST", LISTED_HOST.to_owned()),
            ("UNLISTED_HOST", UNLISTED_HOST.to_owned()),
            ("TENANT_ID", TENANT_ID.to_owned()),
            ("CLIENT_ID", CLIENT_ID.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// Waits until `condition` holds, and returns whether it did within this time.
pub fn eventually(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn with_headers(request: Request, headers: &[(&str, &str)]) -> Request {
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

fn expect(addr: SocketAddr, request: &Request) -> Response {
    match request.send(addr) {
        Ok(response) => response,
        Err(error) => panic!("no response from {addr}: {error}"),
    }
}
