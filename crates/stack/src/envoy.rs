//! Runs Envoy as a child process.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Request;
use crate::error::StartError;
use crate::{child, workspace};

/// The timeout for Envoy to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// The timeout for a listener to start once all workers run.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of log lines in an error.
const TAIL: usize = 25;

/// The newest and the oldest Envoy version that the tests run; `make envoy` installs both.
pub const VERSIONS: [&str; 2] = ["1.40.0", "1.36.2"];

/// The oldest Envoy version with the extension that `envoy/sidecar/file-server.yaml` requires.
pub const WITH_FILE_SERVER: &str = "1.38.2";

/// Returns the path of the default Envoy binary, the newest version.
pub fn binary() -> PathBuf {
    let [newest, _] = VERSIONS;
    binary_of(newest)
}

/// Returns the path of the Envoy binary of this version, or of [`replacement`].
pub fn binary_of(version: &str) -> PathBuf {
    match replacement() {
        Some(path) if path.exists() => path,
        // Cargo runs tests in the package's folder, but the path is relative to the repository's root.
        Some(path) => workspace::root().join(path),
        None => workspace::root().join(format!(".tools/envoy-{version}/envoy/_bin/envoy")),
    }
}

/// Returns the Envoy binary that replaces all versions, from the environment variable `ENVOY`.
pub fn replacement() -> Option<PathBuf> {
    env::var_os("ENVOY").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The parameters to start an Envoy.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The Envoy binary.
    pub binary: &'a Path,
    /// The bootstrap configuration. Port 0 selects a free port, also for the admin port.
    pub bootstrap: &'a Value,
    /// The folder for the bootstrap and the log.
    pub folder: &'a Path,
    /// The number of workers.
    pub concurrency: u32,
    /// The complete environment of the child; no variable is inherited.
    pub environment: &'a [(String, String)],
    /// The log level, such as `info` or `debug`.
    pub log_level: &'a str,
    /// The listeners with a port that must have started.
    pub listeners: &'a [&'a str],
}

impl Launch<'_> {
    /// Validates the bootstrap with Envoy's `--mode validate`. The error contains Envoy's output.
    pub fn validate(&self) -> Result<(), StartError> {
        let mut command = self.command()?;
        command.args(["--mode", "validate"]);
        let output = command.output().map_err(StartError::io("running Envoy"))?;
        if output.status.success() {
            return Ok(());
        }
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(StartError::EnvoyExited {
            status: output.status.to_string(),
            log: self.folder.join("envoy.json"),
            tail: tail(&printed),
        })
    }

    /// Writes the bootstrap file and returns the command that reads it.
    fn command(&self) -> Result<Command, StartError> {
        if !self.binary.is_file() {
            return Err(StartError::EnvoyMissing(self.binary.to_owned()));
        }
        let bootstrap = self.folder.join("envoy.json");
        fs::write(&bootstrap, format!("{:#}", self.bootstrap)).map_err(StartError::io("writing envoy.json"))?;
        let mut command = Command::new(self.binary);
        command
            .arg("-c")
            .arg(bootstrap)
            // Several Envoys can run at the same time.
            .arg("--disable-hot-restart")
            .args(["--concurrency", &self.concurrency.to_string()])
            .args(["--log-level", self.log_level])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        Ok(command)
    }
}

/// A running Envoy. It stops when dropped, and on Linux also when this process is killed.
#[derive(Debug)]
pub struct Envoy {
    child: Mutex<Child>,
    admin: SocketAddr,
    log: PathBuf,
}

impl Envoy {
    /// Starts Envoy and waits until it is ready and its listeners have started.
    pub fn start(launch: &Launch<'_>) -> Result<Self, StartError> {
        let log = launch.folder.join("envoy.log");
        let admin = launch.folder.join("admin.txt");
        let output = fs::File::create(&log).map_err(StartError::io(format!("creating {}", log.display())))?;
        let errors = output.try_clone().map_err(StartError::io("sharing the log"))?;
        let mut command = launch.command()?;
        command.arg("--admin-address-path").arg(&admin).stdout(output).stderr(errors);
        let child = child::spawn(command).map_err(StartError::io(format!("starting {}", launch.binary.display())))?;
        // From here on, dropping `envoy` stops the child.
        let mut envoy = Self { child: Mutex::new(child), admin: SocketAddr::from(([127, 0, 0, 1], 0)), log };
        envoy.wait_until_ready(&admin, launch.listeners)?;
        Ok(envoy)
    }

    /// The address of the admin port.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// Sends a GET to the admin port, such as `/stats?filter=wasm`. A status other than 200 is an error.
    pub fn admin(&self, path: &str) -> io::Result<String> {
        ok(Request::get(&self.admin.to_string(), path).send(self.admin)?)
    }

    /// Returns the value of a counter or gauge, such as `listener_manager.lds.update_success`; `None` when it does not exist.
    pub fn stat(&self, name: &str) -> io::Result<Option<u64>> {
        let stats = self.admin(&format!("/stats?filter=^{}$", name.replace('.', "\\.")))?;
        Ok(stats
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(existing, _)| *existing == name)
            .and_then(|(_, value)| value.parse().ok()))
    }

    /// Returns the address of the listener with this name; `None` when it has not started or has no address.
    pub fn listener(&self, name: &str) -> io::Result<Option<SocketAddr>> {
        let listeners: Value = serde_json::from_str(&self.admin("/listeners?format=json")?)?;
        Ok(listeners["listener_statuses"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|listener| listener["name"] == name)
            .and_then(|listener| {
                let address = &listener["local_address"]["socket_address"];
                let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
                Some(SocketAddr::new(address["address"].as_str()?.parse().ok()?, port))
            }))
    }

    /// Returns the log of Envoy and the filter.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// The exit status; `None` while Envoy runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait_until_ready(&mut self, admin: &Path, listeners: &[&str]) -> Result<(), StartError> {
        let start = Instant::now();
        let mut running_since = None;
        loop {
            if let Some(status) = self.exit_status() {
                return Err(StartError::EnvoyExited {
                    status: status.to_string(),
                    log: self.log.clone(),
                    tail: tail(&self.log()),
                });
            }
            let missing = self.missing(admin, listeners);
            let Some(missing) = missing else {
                return Ok(());
            };
            if matches!(missing, Missing::Listener(_)) && running_since.is_none() {
                running_since = Some(Instant::now());
            }
            if start.elapsed() > READY_TIMEOUT || running_since.is_some_and(|since| since.elapsed() > LISTENER_TIMEOUT)
            {
                return Err(StartError::EnvoyNotReady {
                    after: start.elapsed(),
                    reason: missing.to_string(),
                    log: self.log.clone(),
                    tail: tail(&self.log()),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the first condition of readiness that is not met; `None` when Envoy is ready.
    fn missing(&mut self, admin: &Path, listeners: &[&str]) -> Option<Missing> {
        let Ok(address) = read(admin).trim().parse() else {
            return Some(Missing::Admin);
        };
        self.admin = address;
        if self.admin("/ready").is_err() {
            return Some(Missing::Ready);
        }
        if !matches!(self.stat("listener_manager.workers_started"), Ok(Some(1))) {
            return Some(Missing::Workers);
        }
        listeners
            .iter()
            .find(|name| !matches!(self.listener(name), Ok(Some(_))))
            .map(|name| Missing::Listener((*name).to_owned()))
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        child::stop(&mut self.child());
    }
}

/// A condition of readiness that is not met.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("the admin port is not open")]
    Admin,
    #[error("/ready does not return 200")]
    Ready,
    #[error("the workers have not started")]
    Workers,
    #[error("the listener `{0}` has not started")]
    Listener(String),
}

fn ok(response: crate::client::Response) -> io::Result<String> {
    match response.status {
        200 => Ok(response.text()),
        status => Err(io::Error::other(format!("Envoy's admin port returned {status}: {}", response.text()))),
    }
}

/// Reads a file; a missing one counts as empty.
fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
