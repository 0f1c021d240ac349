//! What can go wrong while a stack starts or takes another configuration.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a stack or an Envoy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file, a thread or a server of ours.
    #[error("{what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no Envoy where one is looked for.
    #[error("there is no Envoy at {}: run `make envoy`, or set ENVOY to the path of an Envoy binary", .0.display())]
    EnvoyMissing(PathBuf),
    /// The filter has not been built.
    #[error("there is no filter at {}: run `make build`", .0.display())]
    ModuleMissing(PathBuf),
    /// The filter was built from other sources than the checkout has.
    #[error("the filter at {} was built from other sources than this checkout has: run `make build`", .0.display())]
    ModuleStale(PathBuf),
    /// A file is no YAML.
    #[error("{} cannot be read: {reason}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// `envoy.yaml` no longer has a value that is to be changed.
    #[error(transparent)]
    Document(#[from] NoSuchPath),
    /// Envoy ended by itself.
    #[error("Envoy ended before it was ready ({status}); the end of {}:\n{tail}", log.display())]
    EnvoyEnded {
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// Envoy runs but is not ready.
    #[error("Envoy was not ready after {after:?}: {reason}; the end of {}:\n{tail}", log.display())]
    EnvoyNotReady {
        /// How long it was waited for.
        after: Duration,
        /// What is missing.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The fake Entra did not take the workload's registration.
    #[error("the fake Entra refused the workload's credential: {0}")]
    Registration(String),
}

impl StartError {
    /// For `map_err`: an I/O error with what was to be done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}

/// Why a running Envoy did not take another configuration.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The listeners stand in the bootstrap.
    #[error("the stack was started without `lds`: its listeners cannot change")]
    NotByLds,
    /// Envoy, or the filter, refused it; the former configuration stays.
    #[error("Envoy refused the listeners: {0}")]
    Refused(String),
    /// Envoy did nothing that can be seen.
    #[error("Envoy had not taken the listeners after {0:?}")]
    Unanswered(Duration),
    /// The document has lost the value that is to be changed.
    #[error(transparent)]
    Document(#[from] NoSuchPath),
    /// The file could not be written, or Envoy's admin port not be asked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A path that an Envoy document does not have.
#[derive(Debug, thiserror::Error)]
#[error("the Envoy document has no `{path}`: nothing at `{missing}`")]
pub struct NoSuchPath {
    pub(crate) path: String,
    pub(crate) missing: String,
}
