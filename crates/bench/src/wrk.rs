//! Runs `wrk`, the load generator.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::BenchResult;

/// A request that `wrk` repeats.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address that it connects to.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// The path, with its query.
    pub path: String,
    /// Another header line.
    pub header: Option<&'static str>,
}

/// Repeats a request for this number of seconds over 16 connections for each worker, and returns the number of responses. It is an error
/// when a response does not have a status below 400, or a connection fails.
pub fn run(target: &Target, workers: u32, seconds: u32) -> BenchResult<u64> {
    let mut command = command();
    command.args(["-t", "1", "-c", &(workers * 16).to_string(), "-d", &format!("{seconds}s"), "-H"]);
    command.arg(format!("Host: {}", target.host));
    if let Some(header) = target.header {
        command.args(["-H", header]);
    }
    command.arg(format!("http://{}{}", target.address, target.path));
    let missing =
        |error| format!("wrk could not be started ({error}): `make wrk` installs Debian's, others belong on the PATH");
    let output = command.output().map_err(missing)?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || printed.contains("Non-2xx") || printed.contains("Socket errors") {
        return Err(format!(
            "wrk reports failures of {target:?}: {printed}{}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    let number = printed.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| format!("wrk reports no number of requests: {printed}").into())
}

/// Returns the command of the wrk in `.tools/wrk/`, with its library, or of the one on the PATH.
fn command() -> Command {
    let installed = stack::root().join(".tools/wrk/usr");
    let binary = installed.join("bin/wrk");
    if !binary.is_file() {
        return Command::new("wrk");
    }
    let folders = fs::read_dir(installed.join("lib")).into_iter().flatten().flatten().map(|folder| folder.path());
    let mut command = Command::new(binary);
    if let Ok(folders) = env::join_paths(folders.collect::<Vec<PathBuf>>()) {
        command.env("LD_LIBRARY_PATH", folders);
    }
    command
}
