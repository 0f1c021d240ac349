//! A server that runs as a child process, with a log and a time limit for its start.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::child;
use crate::error::StartError;
use crate::folder::Folder;

/// The number of log lines in an error.
const TAIL: usize = 25;

/// A running server. It stops when dropped, and on Linux also when this process is killed.
pub(crate) struct Process {
    // Dropped before the folder with its files.
    child: ChildGuard,
    log: PathBuf,
    folder: Folder,
}

struct ChildGuard(Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        child::stop(&mut self.0);
    }
}

impl Process {
    /// Starts `command` and waits until `is_ready`. Its output is written to a log in `folder`.
    pub(crate) fn start(
        name: &'static str,
        folder: Folder,
        mut command: Command,
        timeout: Duration,
        mut is_ready: impl FnMut() -> bool,
    ) -> Result<Self, StartError> {
        let log = folder.path().join("server.log");
        let output = fs::File::create(&log).map_err(StartError::io(format!("creating {}", log.display())))?;
        let errors = output.try_clone().map_err(StartError::io("sharing the log"))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = child::spawn(command).map_err(StartError::io(format!("starting {name}")))?;
        let mut process = Self { child: ChildGuard(child), log, folder };
        let deadline = Instant::now() + timeout;
        while !is_ready() {
            let exited = process.child.0.try_wait().ok().flatten();
            if exited.is_some() || Instant::now() > deadline {
                process.folder.keep();
                let state = exited.map_or_else(|| format!("not ready after {timeout:?}"), |status| status.to_string());
                let (log, tail) = (process.log.clone(), tail(&process.log));
                return Err(StartError::ServerNotReady { name, state, log, tail });
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(process)
    }

    /// The log file.
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }
}

/// Returns a port of 127.0.0.1 that is free now. Another process can take it before its user does.
pub(crate) fn free_port() -> Result<u16, StartError> {
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
    free().map(|address| address.port()).map_err(StartError::io("finding a free port"))
}

/// Returns the path of an installed file, relative to the repository's root.
pub(crate) fn installed(path: &str, remedy: &'static str) -> Result<PathBuf, StartError> {
    let path = crate::root().join(path);
    if path.exists() { Ok(path) } else { Err(StartError::NotInstalled { path, remedy }) }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(path: &Path) -> String {
    let log = read(path);
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// Creates a folder for the files of a server.
pub(crate) fn folder() -> Result<Folder, StartError> {
    Folder::create().map_err(StartError::io("creating the working folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn start(script: &str, timeout: Duration, is_ready: impl FnMut() -> bool) -> Result<Process, StartError> {
        Process::start("sh", folder().unwrap(), shell(script), timeout, is_ready)
    }

    #[test]
    fn a_process_stops_when_it_is_dropped() {
        let process = start("echo started; exec sleep 60", Duration::from_secs(10), || true).unwrap();
        let status = PathBuf::from(format!("/proc/{}/status", process.child.0.id()));
        assert!(status.exists() || !cfg!(target_os = "linux"));
        drop(process);
        assert!(!status.exists());
    }

    #[test]
    fn the_error_of_a_process_that_exits_has_its_last_lines() {
        let error = start("echo the reason >&2; exit 3", Duration::from_secs(10), || false).err().unwrap().to_string();
        assert!(error.contains("the reason") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_process_that_is_never_ready_is_stopped_after_its_time() {
        let error = start("exec sleep 60", Duration::from_millis(100), || false).err().unwrap().to_string();
        assert!(error.contains("not ready after 100ms"), "{error}");
    }
}
