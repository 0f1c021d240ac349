//! Runs a real Envoy Gateway outside of Kubernetes, with the Envoy that it configures.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::{Request, Response};
use crate::envoy;
use crate::error::StartError;
use crate::process::{self, Process};

/// The version that `scripts/fetch-envoy-gateway` builds.
pub const VERSION: &str = "1.9.1";
/// The names by which Envoy finds Envoy Gateway.
pub const NAMES: &str = "envoy-gateway envoy-gateway.envoy-gateway-system.svc.cluster.local";

/// The port of the Gateway's listener.
const PORT: u16 = 80;
const CONTROLLER: &str = "gateway.envoyproxy.io/gatewayclass-controller";
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A running Envoy Gateway and its Envoy. They stop when dropped.
pub struct EnvoyGateway {
    objects: PathBuf,
    process: Process,
}

impl EnvoyGateway {
    /// Starts Envoy Gateway with these objects (YAML) and waits until the Gateway accepts connections. `environment` is that of Envoy.
    ///
    /// It must be called in `scripts/in-gateway-pod`: the ports are fixed, and Envoy reads its certificates in `/certs`.
    ///
    /// # Errors
    /// When Envoy Gateway is not built, or the Gateway does not start.
    pub fn start(objects: &str, environment: &[(String, String)]) -> Result<Self, StartError> {
        let binary = process::installed(
            &format!(".tools/envoy-gateway-{VERSION}/envoy-gateway"),
            "scripts/fetch-envoy-gateway",
        )?;
        let folder = process::folder()?;
        let home = folder.path().to_owned();
        let resources = home.join("resources");
        prepare(&home).map_err(StartError::io("preparing the folder of Envoy Gateway"))?;
        let output = Command::new(&binary).args(["certgen", "--local", "--config-home"]).arg(&home).output();
        let output = output.map_err(StartError::io("running envoy-gateway certgen"))?;
        if !output.status.success() {
            return Err(StartError::Administration(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        copy_certificates(&home.join("certs/envoy")).map_err(StartError::io("copying Envoy's certificates"))?;
        let cluster = cluster(Path::new("/certs")).map_err(StartError::io("reading Envoy's certificates"))?;
        let write = |name: &str, text: &str| fs::write(resources.join(name), text);
        write("cluster.yaml", &cluster).map_err(StartError::io("writing the cluster's objects"))?;
        write("objects.yaml", objects).map_err(StartError::io("writing the objects"))?;

        let mut command = Command::new(binary);
        command.arg("server").arg("--config-path").arg(home.join("envoy-gateway.json")).current_dir(&home);
        command.env_clear().env("HOME", &home).envs(environment.iter().map(|(name, value)| (name, value)));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let process =
            Process::start("Envoy Gateway", folder, command, START_TIMEOUT, || TcpStream::connect(address).is_ok())?;
        Ok(Self { objects: resources.join("objects.yaml"), process })
    }

    /// Replaces the objects. Envoy Gateway notices the new file, and Envoy gets the new configuration a moment later.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn apply(&self, objects: &str) -> Result<(), StartError> {
        fs::write(&self.objects, objects).map_err(StartError::io("writing the objects"))
    }

    /// Sends a request to the Gateway.
    ///
    /// # Errors
    /// When there is no response.
    pub fn send(&self, request: &Request) -> std::io::Result<Response> {
        request.send(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))
    }

    /// Returns the log of Envoy Gateway, Envoy and the filter.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Writes Envoy Gateway's own configuration, and puts the Envoy of the tests where it would install one.
fn prepare(home: &Path) -> std::io::Result<()> {
    let [version, _] = envoy::VERSIONS;
    let installed = home.join(format!("envoy-versions/{version}/bin"));
    fs::create_dir_all(home.join("resources"))?;
    fs::create_dir_all(&installed)?;
    symlink(envoy::binary(), installed.join("envoy"))?;
    // The version that it runs.
    fs::write(home.join(".envoy-version"), version)?;
    let folders = json!({ "configHome": home, "dataHome": home, "stateHome": home.join("state"), "runtimeDir": home.join("run") });
    let configuration = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": { "controllerName": CONTROLLER },
        "provider": { "type": "Custom", "custom": {
            "resource": { "type": "File", "file": { "paths": [home.join("resources")] } },
            "infrastructure": { "type": "Host", "host": folders },
        } },
        "extensionApis": { "enableEnvoyPatchPolicy": true, "enableBackend": true },
    });
    fs::write(home.join("envoy-gateway.json"), configuration.to_string())
}

/// In a cluster, the pod mounts the Secret `envoy` there.
fn copy_certificates(from: &Path) -> std::io::Result<()> {
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        fs::copy(from.join(name), Path::new("/certs").join(name))?;
    }
    Ok(())
}

/// The objects that a cluster has besides those of the manifest: the GatewayClass, and the Secret with Envoy's certificate.
fn cluster(certificates: &Path) -> std::io::Result<String> {
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": { "name": "envoy-gateway" },
        "spec": { "controllerName": CONTROLLER },
    });
    let mut secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "envoy", "namespace": "envoy-gateway-system" },
        "type": "kubernetes.io/tls",
        "data": {},
    });
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        secret["data"][name] = Value::from(STANDARD.encode(fs::read(certificates.join(name))?));
    }
    Ok(format!("{class}\n---\n{secret}\n"))
}
