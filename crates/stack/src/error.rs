//! The errors of starting a stack and of changing its configuration.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a stack or an Envoy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An I/O error of a file, a thread or a server.
    #[error("{action}: {source}")]
    Io {
        /// The action that failed.
        action: String,
        /// The error.
        source: io::Error,
    },
    /// The Envoy binary does not exist.
    #[error("there is no Envoy at {}: run `make envoy`, or set ENVOY to the path of an Envoy binary", .0.display())]
    EnvoyMissing(PathBuf),
    /// The module has not been built.
    #[error("there is no module at {}: run `make build`", .0.display())]
    ModuleMissing(PathBuf),
    /// The module was built from other sources than those of the checkout.
    #[error("the module at {} was built from other sources than those of this checkout: run `make build`", .0.display())]
    ModuleStale(PathBuf),
    /// A file is not valid YAML.
    #[error("{} cannot be read: {reason}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        reason: String,
    },
    /// `envoy.yaml` does not have a value that the stack changes.
    #[error(transparent)]
    Document(#[from] NoSuchPath),
    /// Envoy exited before it was ready.
    #[error("Envoy exited before it was ready ({status}); the last lines of {}:\n{tail}", log.display())]
    EnvoyExited {
        /// The exit status.
        status: String,
        /// The log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// Envoy runs but did not become ready.
    #[error("Envoy was not ready after {after:?}: {reason}; the last lines of {}:\n{tail}", log.display())]
    EnvoyNotReady {
        /// The time since the start.
        after: Duration,
        /// The condition that is not met.
        reason: String,
        /// The log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A tool is not installed.
    #[error("there is nothing at {}: run `{remedy}`", path.display())]
    NotInstalled {
        /// The missing file.
        path: PathBuf,
        /// The command that installs it.
        remedy: &'static str,
    },
    /// Another server exited or did not become ready in time.
    #[error("{name} did not start ({state}); the last lines of {}:\n{tail}", log.display())]
    ServerNotReady {
        /// The server.
        name: &'static str,
        /// The exit status, or the time.
        state: String,
        /// The log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A server answered an administrative request with an error.
    #[error("{0}")]
    Administration(String),
    /// The fake Entra rejected the workload's credential.
    #[error("the fake Entra rejected the workload's credential: {0}")]
    Registration(String),
}

impl StartError {
    /// Returns a function for `map_err` that adds the failed action to an I/O error.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action: action.into(), source }
    }
}

/// Why a running Envoy did not apply another configuration.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The listeners are static.
    #[error("the stack was started without `lds`, so its listeners cannot change")]
    LdsDisabled,
    /// Envoy or the filter rejected the configuration; the former one stays active.
    #[error("Envoy rejected the listeners: {0}")]
    Rejected(String),
    /// Envoy did not apply the configuration in time.
    #[error("Envoy had not applied the listeners after {0:?}")]
    Timeout(Duration),
    /// The document does not have the value to change.
    #[error(transparent)]
    Document(#[from] NoSuchPath),
    /// The file could not be written, or Envoy's admin port not be reached.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A path that does not exist in an Envoy document.
#[derive(Debug, thiserror::Error)]
#[error("the Envoy document has no `{path}`: nothing at `{missing}`")]
pub struct NoSuchPath {
    pub(crate) path: String,
    pub(crate) missing: String,
}
