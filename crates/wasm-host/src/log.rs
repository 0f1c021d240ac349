//! Envoy's threads and their log lines.

use std::fmt;

/// A thread of Envoy that has a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thread {
    /// The main thread's canary VM, which only validates the configuration.
    Canary,
    /// The main thread.
    Main,
    /// A worker.
    Worker(usize),
}

/// Envoy's log levels, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

impl LogLevel {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Critical]
            .get(usize::try_from(number).ok()?)
            .copied()
    }
}

/// A log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The thread of the VM that logged it.
    pub thread: Thread,
    /// The severity.
    pub level: LogLevel,
    /// The message.
    pub text: String,
}

impl fmt::Display for LogLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{:?}][{:?}] {}", self.level, self.thread, self.text)
    }
}
