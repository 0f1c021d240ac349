//! Runs a real Keycloak with the realm of `tests/keycloak/workloads.json`.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use fake_entra::Issuer;
use fake_http::{Endpoint, Response};
use serde_json::Value;

use crate::client::Request;
use crate::error::StartError;
use crate::process::{self, Process};

/// The version that `scripts/fetch-keycloak` installs.
pub const VERSION: &str = "26.7.3";
/// The `iss` of its tokens.
pub const ISSUER: &str = "https://keycloak.example/realms/workloads";
/// The path of the token endpoint.
pub const TOKEN_PATH: &str = "/realms/workloads/protocol/openid-connect/token";
/// The secret of every client. Its characters differ from their form-encoded ones. It protects only test servers.
pub const SECRET: &str = "s+cret: %/&=é";
/// The client whose tokens are for Entra alone.
pub const CLIENT: &str = "payments";
/// The same with an id that must be form-encoded.
pub const CLIENT_WITH_COLON: &str = "payments:eu west";
/// A client as an administrator creates it who only adds an audience: its tokens have a second one.
pub const CLIENT_WITH_DEFAULTS: &str = "payments-defaults";
/// The client whose tokens are subject tokens for [`EXCHANGE_CLIENT`].
pub const SUBJECT_CLIENT: &str = "orders";
/// The client that exchanges tokens (RFC 8693).
pub const EXCHANGE_CLIENT: &str = "sts";
/// The client that authenticates with a token of [`Keycloak::cluster`].
pub const FEDERATED_CLIENT: &str = "federated";
/// The `sub` of that token.
pub const FEDERATED_SUBJECT: &str = "system:serviceaccount:payments:payments";

/// The time limit for its start. It takes 15 s on two idle cores.
const START_TIMEOUT: Duration = Duration::from_secs(240);
/// The heap; the process uses 400 MB in total.
const HEAP: &str = "-Xmx320m";

/// A running Keycloak. It stops when dropped.
pub struct Keycloak {
    address: SocketAddr,
    cluster: Issuer,
    process: Process,
    _jwks: fake_http::Server,
}

impl Keycloak {
    /// Starts Keycloak on a free port of 127.0.0.1, in plaintext, with the issuer of a Kubernetes cluster that it trusts.
    ///
    /// # Errors
    /// When Keycloak or Java is not installed, or it is not ready after four minutes.
    pub fn start() -> Result<Self, StartError> {
        let home = process::installed(&format!(".tools/keycloak-{VERSION}"), "scripts/fetch-keycloak")?;
        let folder = process::folder()?;
        let data = folder.path().join("keycloak");
        create_home(&home, &data).map_err(StartError::io("creating Keycloak's folder"))?;
        let cluster = Issuer::new("https://issuer.example/cluster");
        let jwks = serve_jwks(&cluster).map_err(StartError::io("serving the cluster's keys"))?;
        let jwks_address = jwks.addresses().first().copied().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = SocketAddr::from(([127, 0, 0, 1], process::free_port()?));
        let mut command = java(&home, &data);
        command
            .args(["start", "--optimized", "--cache=local", "--import-realm", "--http-enabled=true"])
            .args(["--http-host=127.0.0.1".to_owned(), format!("--http-port={}", address.port())])
            .arg("--hostname=https://keycloak.example")
            .env("CLIENT_SECRET", SECRET)
            .env("CLUSTER_ISSUER", cluster.url())
            .env("CLUSTER_JWKS_URL", format!("http://{jwks_address}/keys"));
        let discovery = Request::get("keycloak.example", "/realms/workloads/.well-known/openid-configuration");
        let discovery = discovery.timeout(Duration::from_secs(5));
        let is_ready = || discovery.send(address).is_ok_and(|response| response.status == 200);
        let process = Process::start("Keycloak", folder, command, START_TIMEOUT, is_ready)?;
        Ok(Self { address, cluster, process, _jwks: jwks })
    }

    /// The address of the HTTP port.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The issuer whose tokens authenticate [`FEDERATED_CLIENT`]. Their `aud` must be [`ISSUER`].
    pub fn cluster(&self) -> &Issuer {
        &self.cluster
    }

    /// Returns the realm's keys (JWKS), which Entra must know.
    ///
    /// # Errors
    /// When Keycloak does not respond with them.
    pub fn jwks(&self) -> io::Result<Value> {
        let response =
            Request::get("keycloak.example", "/realms/workloads/protocol/openid-connect/certs").send(self.address)?;
        Ok(serde_json::from_slice(&response.body)?)
    }

    /// Returns Keycloak's log.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Creates a home folder with the installation's files and the realm, so that a run changes nothing in the installation.
fn create_home(installation: &Path, home: &Path) -> io::Result<()> {
    let import = home.join("data/import");
    fs::create_dir_all(&import)?;
    for part in ["lib", "conf", "providers", "themes"] {
        symlink(installation.join(part), home.join(part))?;
    }
    fs::copy(crate::root().join("tests/keycloak/workloads.json"), import.join("workloads.json"))?;
    Ok(())
}

/// Returns the command that `kc.sh` would run, with less memory and a faster start. Run directly, its process is the server itself.
fn java(installation: &Path, home: &Path) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xms64m", HEAP, "-XX:MaxMetaspaceSize=256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command.args(["-XX:+ExitOnOutOfMemoryError", "-Dfile.encoding=UTF-8", "-Duser.language=en"]);
    for package in ["java.util", "java.util.concurrent", "java.security", "java.lang"] {
        command.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    }
    command
        .arg("-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory")
        .args(["-Djava.util.logging.manager=org.jboss.logmanager.LogManager", "-Dpicocli.disable.closures=true"])
        .arg(format!("-Dkc.home.dir={}", home.display()))
        .arg(format!("-Djboss.server.config.dir={}", home.join("conf").display()))
        .arg("-cp")
        .arg(installation.join("lib/quarkus-run.jar"))
        .arg("io.quarkus.bootstrap.runner.QuarkusEntryPoint");
    command
}

/// Serves the issuer's keys, which Keycloak fetches.
fn serve_jwks(issuer: &Issuer) -> io::Result<fake_http::Server> {
    let jwks = issuer.jwks().to_string();
    let handler = Arc::new(move |_: &fake_http::Request| Response::json(200, jwks.clone()));
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    fake_http::Server::start("jwks", vec![Endpoint { address, tls: None, handler }])
}
