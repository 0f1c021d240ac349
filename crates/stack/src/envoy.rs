//! Envoy as a child process.

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

/// How long Envoy may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a listener may be missing once all workers run.
const LISTENERS: Duration = Duration::from_secs(2);
/// How many lines of the log an error shows.
const TAIL: usize = 25;

/// The newest Envoy that is tried, and the oldest: those that `make envoy` installs.
pub const VERSIONS: [&str; 2] = ["1.40.0", "1.36.2"];

/// The oldest Envoy that has the extension which `envoy/sidecar/file-server.yaml` needs.
pub const WITH_FILE_SERVER: &str = "1.38.2";

/// The Envoy that is used when nothing else is said: the newest.
pub fn binary() -> PathBuf {
    let [newest, _] = VERSIONS;
    binary_of(newest)
}

/// The Envoy of this version, or the one that takes the place of all.
pub fn binary_of(version: &str) -> PathBuf {
    match replacement() {
        Some(path) if path.exists() => path,
        // Cargo runs tests in the package's folder; what was typed is meant from the repository's root.
        Some(path) => workspace::root().join(path),
        None => workspace::root().join(format!(".tools/envoy-{version}/envoy/_bin/envoy")),
    }
}

/// The Envoy that takes the place of all versions: `ENVOY` in the environment.
pub fn replacement() -> Option<PathBuf> {
    env::var_os("ENVOY").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// What an Envoy is started with.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The Envoy binary.
    pub binary: &'a Path,
    /// The bootstrap. Port 0 lets Envoy choose, for its admin port too.
    pub bootstrap: &'a Value,
    /// Where bootstrap and log are written.
    pub folder: &'a Path,
    /// Workers.
    pub concurrency: u32,
    /// All variables of the child; nothing is inherited.
    pub environment: &'a [(String, String)],
    /// `info`, `debug` …
    pub log_level: &'a str,
    /// The listeners with a port that must be up.
    pub listeners: &'a [&'a str],
}

impl Launch<'_> {
    /// Asks Envoy, without starting it, whether it would take this bootstrap. `Err` holds what it printed.
    pub fn validate(&self) -> Result<(), StartError> {
        let mut command = self.command()?;
        command.args(["--mode", "validate"]);
        let output = command.output().map_err(StartError::io("running Envoy"))?;
        if output.status.success() {
            return Ok(());
        }
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(StartError::EnvoyEnded {
            status: output.status.to_string(),
            log: self.folder.join("envoy.json"),
            tail: tail(&printed),
        })
    }

    /// Writes the bootstrap; the command reads it.
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
            // Several Envoys run at the same time on a developer's machine.
            .arg("--disable-hot-restart")
            .args(["--concurrency", &self.concurrency.to_string()])
            .args(["--log-level", self.log_level])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        Ok(command)
    }
}

/// A running Envoy. It is stopped when dropped, and on Linux also when this process is killed.
#[derive(Debug)]
pub struct Envoy {
    child: Mutex<Child>,
    admin: SocketAddr,
    log: PathBuf,
}

impl Envoy {
    /// Starts Envoy and waits until it serves and its listeners are up.
    pub fn start(launch: &Launch<'_>) -> Result<Self, StartError> {
        let log = launch.folder.join("envoy.log");
        let admin = launch.folder.join("admin.txt");
        let output = fs::File::create(&log).map_err(StartError::io(format!("creating {}", log.display())))?;
        let errors = output.try_clone().map_err(StartError::io("sharing the log"))?;
        let mut command = launch.command()?;
        command.arg("--admin-address-path").arg(&admin).stdout(output).stderr(errors);
        let child = child::spawn(command).map_err(StartError::io(format!("starting {}", launch.binary.display())))?;
        // From here on the value stops the child, whatever happens.
        let mut envoy = Self { child: Mutex::new(child), admin: SocketAddr::from(([127, 0, 0, 1], 0)), log };
        envoy.wait_until_ready(&admin, launch.listeners)?;
        Ok(envoy)
    }

    /// Where its admin port is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The answer to a GET at the admin port, such as `/stats?filter=wasm`; an error when it is not 200.
    pub fn admin(&self, path: &str) -> io::Result<String> {
        ok(Request::get(&self.admin.to_string(), path).send(self.admin)?)
    }

    /// The value of a counter or gauge, such as `listener_manager.lds.update_success`. `None` when Envoy has none of this name.
    pub fn stat(&self, name: &str) -> io::Result<Option<u64>> {
        let stats = self.admin(&format!("/stats?filter=^{}$", name.replace('.', "\\.")))?;
        Ok(stats
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(present, _)| *present == name)
            .and_then(|(_, value)| value.parse().ok()))
    }

    /// The address of the listener of this name, when it has one and is up.
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

    /// All that Envoy and the filter have logged so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// How it ended, when it has ended by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait_until_ready(&mut self, admin: &Path, listeners: &[&str]) -> Result<(), StartError> {
        let start = Instant::now();
        let mut running_since = None;
        loop {
            if let Some(status) = self.ended() {
                return Err(StartError::EnvoyEnded {
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
            if start.elapsed() > PATIENCE || running_since.is_some_and(|since| since.elapsed() > LISTENERS) {
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

    /// What is still missing, if anything.
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

/// What an Envoy that starts does not have yet.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("its admin port is not there")]
    Admin,
    #[error("it does not say that it is ready")]
    Ready,
    #[error("its workers do not run")]
    Workers,
    #[error("the listener `{0}` is not there")]
    Listener(String),
}

fn ok(response: crate::client::Response) -> io::Result<String> {
    match response.status {
        200 => Ok(response.text()),
        status => Err(io::Error::other(format!("Envoy's admin port answers {status}: {}", response.text()))),
    }
}

/// A log that is not there yet is empty.
fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
