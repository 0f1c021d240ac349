//! What the kernel reports about a process.

use std::fs;
use std::time::Duration;

use crate::BenchResult;

/// Returns the CPU time that a process has used. The kernel counts it in hundredths of a second, in fields 14 and 15 of `stat` (proc(5)).
pub fn cpu(pid: u32) -> BenchResult<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Returns the resident memory of a process in bytes: all of it, and the part that is not a file's (`VmRSS` and `RssAnon`, proc(5)).
pub fn resident(pid: u32) -> BenchResult<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    };
    field("VmRSS").zip(field("RssAnon")).ok_or_else(|| format!("/proc/{pid}/status has no VmRSS and RssAnon").into())
}
