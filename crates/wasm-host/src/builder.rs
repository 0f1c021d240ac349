//! How a host starts.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::callout::Cluster;
use crate::headers::Headers;
use crate::host::{Host, StartError};
use crate::log::LogLevel;
use crate::module::Module;
use crate::settings::{FailurePolicy, Settings};

impl Host {
    /// A host for this module, to be configured.
    pub fn builder(module: &Module) -> Builder {
        Builder::new(module)
    }
}

/// A host that is about to start. The defaults are Envoy's, with one worker.
#[derive(Clone)]
pub struct Builder {
    module: Module,
    settings: Settings,
    routes: Vec<(Vec<u8>, String)>,
    otherwise: Option<String>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Builder").finish_non_exhaustive()
    }
}

impl Builder {
    fn new(module: &Module) -> Self {
        Self { module: module.clone(), settings: Settings::default(), routes: Vec::new(), otherwise: None }
    }

    /// The plugin's configuration.
    #[must_use]
    pub fn configuration(mut self, text: impl AsRef<[u8]>) -> Self {
        self.settings.configuration = text.as_ref().to_vec();
        self
    }

    /// The VM's configuration.
    #[must_use]
    pub fn vm_configuration(mut self, text: impl AsRef<[u8]>) -> Self {
        self.settings.vm_configuration = text.as_ref().to_vec();
        self
    }

    /// An environment variable that the guest sees.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.settings.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn without_variable(mut self, name: &str) -> Self {
        self.settings.variables.retain(|(present, _)| present != name);
        self
    }

    /// How many workers there are, each with a VM of its own.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// A cluster whose calls the test answers.
    #[must_use]
    pub fn cluster(self, name: &str) -> Self {
        self.cluster_that(name, Cluster::Answers)
    }

    /// A cluster of any kind.
    #[must_use]
    pub fn cluster_that(mut self, name: &str, kind: Cluster) -> Self {
        self.settings.clusters.insert(name.to_owned(), kind);
        self
    }

    /// Requests to this host, with or without a port, go to this cluster.
    #[must_use]
    pub fn route(mut self, host: &str, cluster: &str) -> Self {
        self.routes.push((host.as_bytes().to_vec(), cluster.to_owned()));
        self
    }

    /// Where requests to other hosts go. Without it they have no route.
    #[must_use]
    pub fn route_others(mut self, cluster: &str) -> Self {
        self.otherwise = Some(cluster.to_owned());
        self
    }

    /// Any way to choose a cluster, in place of [`Builder::route`]. It is asked again whenever headers have changed.
    #[must_use]
    pub fn route_by(mut self, route: impl Fn(&Headers) -> Option<String> + 'static) -> Self {
        self.settings.route = Rc::new(route);
        self
    }

    /// All that the module may call and be called for. Without a list that is everything.
    #[must_use]
    pub fn capabilities<T: AsRef<str>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.settings.capabilities = Some(Rc::new(names.into_iter().map(|name| name.as_ref().to_owned()).collect()));
        self
    }

    /// What becomes of a worker whose VM has trapped.
    #[must_use]
    pub fn failure_policy(mut self, policy: FailurePolicy) -> Self {
        self.settings.failure_policy = policy;
        self
    }

    /// The most linear memory that a VM may have, in bytes.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.settings.memory_limit = bytes;
        self
    }

    /// How long a stream may wait without any movement.
    #[must_use]
    pub fn stream_idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.stream_idle_timeout = timeout;
        self
    }

    /// Lines below this level are not logged.
    #[must_use]
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.settings.log_level = level;
        self
    }

    /// The plugin's `name`, `root_id` and `vm_id`.
    #[must_use]
    pub fn plugin(mut self, name: &str, root_id: &str, vm_id: &str) -> Self {
        name.clone_into(&mut self.settings.plugin_name);
        root_id.clone_into(&mut self.settings.root_id);
        vm_id.clone_into(&mut self.settings.vm_id);
        self
    }

    /// The node's id and cluster.
    #[must_use]
    pub fn node(mut self, id: &str, cluster: &str) -> Self {
        id.clone_into(&mut self.settings.node_id);
        cluster.clone_into(&mut self.settings.node_cluster);
        self
    }

    /// One more property that every stream has.
    #[must_use]
    pub fn property(mut self, path: &[&str], value: impl AsRef<[u8]>) -> Self {
        self.settings.properties.push((path.join("\0").into_bytes(), value.as_ref().to_vec()));
        self
    }

    /// What the wall clock shows at the start.
    #[must_use]
    pub fn started_at(mut self, time: SystemTime) -> Self {
        self.settings.started_at = time;
        self
    }

    /// The guests' random numbers come of this.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Starts the canary, the main thread's VM and the workers', in this order.
    ///
    /// # Errors
    /// When the module does not take the configuration, or traps over it.
    pub fn start(mut self) -> Result<Host, StartError> {
        if !self.routes.is_empty() || self.otherwise.is_some() {
            let (routes, otherwise) = (std::mem::take(&mut self.routes), self.otherwise.take());
            self.settings.route = Rc::new(move |headers| {
                let authority = headers.get(":authority").unwrap_or_default();
                let host = authority.split(|byte| *byte == b':').next().unwrap_or_default();
                let listed = routes.iter().find(|(listed, _)| listed.eq_ignore_ascii_case(host));
                listed.map(|(_, cluster)| cluster.clone()).or_else(|| otherwise.clone())
            });
        }
        Host::start(&self.module, self.settings)
    }
}
