//! Runs a real SPIRE: a server, an agent on the same machine, and the provider that publishes the server's keys.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{Request, Response};
use crate::error::StartError;
use crate::process::{self, Process};

/// The version that `scripts/fetch-spire` builds.
pub const VERSION: &str = "1.13.3";
/// The `iss` of its JWT-SVIDs with [`FOR_ENTRA`].
pub const ISSUER: &str = "https://oidc.example.org";
/// The settings of the server that Entra requires, as `docs/sources.md` shows them.
pub const FOR_ENTRA: &str = "  jwt_key_type = \"rsa-2048\"\n  jwt_issuer   = \"https://oidc.example.org\"\n";
/// The SPIFFE ID of the workload.
pub const ID: &str = "spiffe://example.org/ns/payments/sa/payments";
/// The SPIFFE ID of another entry for the same processes, whose hint is `audit`.
pub const AUDIT_ID: &str = "spiffe://example.org/audit";

const TRUST_DOMAIN: &str = "example.org";
const NODE: &str = "spiffe://example.org/node";
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running SPIRE whose agent attests the processes of this user. It stops when dropped.
pub struct Spire {
    // Dropped before the server.
    agent: Process,
    _provider: Process,
    server: Process,
    keys: SocketAddr,
    // The path of a Unix socket is at most 107 bytes long, so the sockets are not below the repository.
    folder: TempDir,
}

impl Spire {
    /// Starts SPIRE with the settings [`FOR_ENTRA`] and the entries [`ID`] and [`AUDIT_ID`].
    ///
    /// # Errors
    /// As [`with_settings`](Self::with_settings).
    pub fn start() -> Result<Self, StartError> {
        Self::with_settings(FOR_ENTRA)
    }

    /// Starts SPIRE with these lines in the server's configuration.
    ///
    /// # Errors
    /// When SPIRE is not built, one of its processes is not ready after a minute, or the server rejects an entry.
    pub fn with_settings(settings: &str) -> Result<Self, StartError> {
        let folder = tempfile::tempdir().map_err(StartError::io("creating the folder of the sockets"))?;
        let port = process::free_port()?;
        let server = start_server(folder.path(), port, settings)?;
        let token = administer(folder.path(), &["token", "generate", "-spiffeID", NODE])?;
        let token = token.trim().strip_prefix("Token: ").unwrap_or_default();
        let agent = start_agent(folder.path(), port, token)?;
        let keys = SocketAddr::from(([127, 0, 0, 1], process::free_port()?));
        let provider = start_provider(folder.path(), keys)?;
        let spire = Self { agent, _provider: provider, server, keys, folder };
        spire.register(ID, "")?;
        spire.register(AUDIT_ID, "audit")?;
        Ok(spire)
    }

    /// The socket of the Workload API.
    pub fn socket(&self) -> PathBuf {
        agent_socket(self.folder.path())
    }

    /// Creates an entry for the processes of this user. The agent knows it some seconds later.
    ///
    /// # Errors
    /// When the server rejects it.
    pub fn register(&self, id: &str, hint: &str) -> Result<(), StartError> {
        let user = format!("unix:uid:{}", rustix::process::getuid().as_raw());
        let entry = ["entry", "create", "-parentID", NODE, "-spiffeID", id, "-selector", &user, "-hint", hint];
        administer(self.folder.path(), &entry).map(drop)
    }

    /// Reads a path of the OIDC discovery provider.
    ///
    /// # Errors
    /// When there is no response.
    pub fn read(&self, path: &str) -> std::io::Result<Response> {
        Request::get("oidc.example.org", path).send(self.keys)
    }

    /// Returns the logs of the server and the agent.
    pub fn log(&self) -> String {
        self.server.log() + &self.agent.log()
    }
}

fn start_server(folder: &Path, port: u16, settings: &str) -> Result<Process, StartError> {
    let (socket, data) = (server_socket(folder), folder.join("server"));
    let configuration = format!(
        r#"server {{
  bind_address = "127.0.0.1"
  bind_port    = {port}
  socket_path  = "{socket}"
  trust_domain = "{TRUST_DOMAIN}"
  data_dir     = "{data}"
{settings}}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{data}.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#,
        socket = socket.display(),
        data = data.display(),
    );
    let command = run(folder, "spire-server", &configuration)?;
    start("the SPIRE server", command, || is_healthy("spire-server", &socket))
}

fn start_agent(folder: &Path, port: u16, join_token: &str) -> Result<Process, StartError> {
    let (socket, data) = (agent_socket(folder), folder.join("agent"));
    let configuration = format!(
        r#"agent {{
  server_address     = "127.0.0.1"
  server_port        = {port}
  socket_path        = "{socket}"
  trust_domain       = "{TRUST_DOMAIN}"
  data_dir           = "{data}"
  insecure_bootstrap = true
  join_token         = "{join_token}"
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#,
        socket = socket.display(),
        data = data.display(),
    );
    let command = run(folder, "spire-agent", &configuration)?;
    start("the SPIRE agent", command, || is_healthy("spire-agent", &socket))
}

fn start_provider(folder: &Path, address: SocketAddr) -> Result<Process, StartError> {
    let configuration = format!(
        r#"domains       = ["oidc.example.org"]
insecure_addr = "{address}"
server_api {{ address = "unix://{socket}" }}
"#,
        socket = server_socket(folder).display(),
    );
    let file = write(folder, "oidc-discovery-provider", &configuration)?;
    let mut command = program("oidc-discovery-provider")?;
    command.arg("-config").arg(file);
    let discovery = Request::get("oidc.example.org", "/.well-known/openid-configuration");
    let discovery = discovery.timeout(Duration::from_secs(2));
    start("SPIRE's OIDC discovery provider", command, || {
        discovery.send(address).is_ok_and(|response| response.status == 200)
    })
}

fn start(name: &'static str, command: Command, is_ready: impl FnMut() -> bool) -> Result<Process, StartError> {
    Process::start(name, process::folder()?, command, START_TIMEOUT, is_ready)
}

/// The command `run` of a program, with this configuration.
fn run(folder: &Path, name: &str, configuration: &str) -> Result<Command, StartError> {
    let file = write(folder, name, configuration)?;
    let mut command = program(name)?;
    command.args(["run", "-config"]).arg(file);
    Ok(command)
}

fn write(folder: &Path, name: &str, configuration: &str) -> Result<PathBuf, StartError> {
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, configuration).map_err(StartError::io(format!("writing {}", file.display())))?;
    Ok(file)
}

/// Whether a process answers on its socket.
fn is_healthy(name: &str, socket: &Path) -> bool {
    let check = program(name).ok().and_then(|mut command| {
        let command = command.arg("healthcheck").arg("-socketPath").arg(socket);
        command.output().ok()
    });
    check.is_some_and(|output| output.status.success())
}

/// Runs a command of the server, and returns what it writes.
fn administer(folder: &Path, arguments: &[&str]) -> Result<String, StartError> {
    let mut command = program("spire-server")?;
    let (verb, flags) = arguments.split_at(arguments.len().min(2));
    let output = command.args(verb).arg("-socketPath").arg(server_socket(folder)).args(flags).output();
    let Output { status, stdout, stderr } = output.map_err(StartError::io("starting spire-server"))?;
    let (written, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if status.success() {
        return Ok(written.into_owned());
    }
    Err(StartError::Administration(format!("SPIRE: {}: {written}{errors}", arguments.join(" "))))
}

fn program(name: &str) -> Result<Command, StartError> {
    let path = process::installed(&format!(".tools/spire-{VERSION}/{name}"), "scripts/fetch-spire")?;
    let mut command = Command::new(path);
    command.env_clear().env("GOMAXPROCS", "2");
    Ok(command)
}

fn server_socket(folder: &Path) -> PathBuf {
    folder.join("server.sock")
}

fn agent_socket(folder: &Path) -> PathBuf {
    folder.join("agent.sock")
}
