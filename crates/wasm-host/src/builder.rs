//! The builder that configures and starts a host.

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
    /// Creates a builder for a host that runs this module.
    pub fn builder(module: &Module) -> Builder {
        Builder::new(module)
    }
}

/// Configures a host before it starts. The defaults are Envoy's, with one worker.
#[derive(Clone)]
pub struct Builder {
    module: Module,
    settings: Settings,
    routes: Vec<(Vec<u8>, String)>,
    default_route: Option<String>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Builder").finish_non_exhaustive()
    }
}

impl Builder {
    fn new(module: &Module) -> Self {
        Self { module: module.clone(), settings: Settings::default(), routes: Vec::new(), default_route: None }
    }

    /// Sets the plugin's configuration.
    #[must_use]
    pub fn configuration(mut self, text: impl AsRef<[u8]>) -> Self {
        self.settings.configuration = text.as_ref().to_vec();
        self
    }

    /// Sets the VM's configuration.
    #[must_use]
    pub fn vm_configuration(mut self, text: impl AsRef<[u8]>) -> Self {
        self.settings.vm_configuration = text.as_ref().to_vec();
        self
    }

    /// Sets an environment variable of the guest.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.settings.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn without_variable(mut self, name: &str) -> Self {
        self.settings.variables.retain(|(existing, _)| existing != name);
        self
    }

    /// Sets the number of workers, each with its own VM.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// Adds a cluster whose calls the test responds to.
    #[must_use]
    pub fn cluster(self, name: &str) -> Self {
        self.cluster_of_kind(name, Cluster::Responds)
    }

    /// Adds a cluster of this kind.
    #[must_use]
    pub fn cluster_of_kind(mut self, name: &str, kind: Cluster) -> Self {
        self.settings.clusters.insert(name.to_owned(), kind);
        self
    }

    /// Routes requests to this host, with or without a port, to this cluster.
    #[must_use]
    pub fn route(mut self, host: &str, cluster: &str) -> Self {
        self.routes.push((host.as_bytes().to_vec(), cluster.to_owned()));
        self
    }

    /// Sets the cluster for requests to all other hosts. Without it they have no route.
    #[must_use]
    pub fn default_route(mut self, cluster: &str) -> Self {
        self.default_route = Some(cluster.to_owned());
        self
    }

    /// Sets a function that selects the cluster, instead of [`Builder::route`] and [`Builder::default_route`]. It runs again after every change of the headers.
    #[must_use]
    pub fn route_by(mut self, route: impl Fn(&Headers) -> Option<String> + 'static) -> Self {
        self.routes.clear();
        self.default_route = None;
        self.settings.route = Rc::new(route);
        self
    }

    /// Sets the capability restriction list: the host calls and callbacks that the module may use. Without it all are allowed.
    #[must_use]
    pub fn capabilities<T: AsRef<str>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.settings.capabilities = Some(Rc::new(names.into_iter().map(|name| name.as_ref().to_owned()).collect()));
        self
    }

    /// Sets how a worker handles requests after its VM has trapped.
    #[must_use]
    pub fn failure_policy(mut self, policy: FailurePolicy) -> Self {
        self.settings.failure_policy = policy;
        self
    }

    /// Sets the maximum linear memory of a VM, in bytes.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.settings.memory_limit = bytes;
        self
    }

    /// Sets the idle timeout of a stream.
    #[must_use]
    pub fn stream_idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.stream_idle_timeout = timeout;
        self
    }

    /// Sets the log level; lines below it are not logged.
    #[must_use]
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.settings.log_level = level;
        self
    }

    /// Sets the plugin's `name`, `root_id` and `vm_id`.
    #[must_use]
    pub fn plugin(mut self, name: &str, root_id: &str, vm_id: &str) -> Self {
        name.clone_into(&mut self.settings.plugin_name);
        root_id.clone_into(&mut self.settings.root_id);
        vm_id.clone_into(&mut self.settings.vm_id);
        self
    }

    /// Sets the node's id and cluster.
    #[must_use]
    pub fn node(mut self, id: &str, cluster: &str) -> Self {
        id.clone_into(&mut self.settings.node_id);
        cluster.clone_into(&mut self.settings.node_cluster);
        self
    }

    /// Adds a property to every stream.
    #[must_use]
    pub fn property(mut self, path: &[&str], value: impl AsRef<[u8]>) -> Self {
        self.settings.properties.push((path.join("\0").into_bytes(), value.as_ref().to_vec()));
        self
    }

    /// Sets the wall-clock time at the start.
    #[must_use]
    pub fn started_at(mut self, time: SystemTime) -> Self {
        self.settings.started_at = time;
        self
    }

    /// Sets the seed of the guests' random numbers.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Starts the canary VM, the main thread's VM and the workers' VMs, in this order.
    ///
    /// # Errors
    /// When the module rejects the configuration or traps.
    pub fn start(mut self) -> Result<Host, StartError> {
        if !self.routes.is_empty() || self.default_route.is_some() {
            let (routes, default_route) = (std::mem::take(&mut self.routes), self.default_route.take());
            self.settings.route = Rc::new(move |headers| {
                let authority = headers.get(":authority").unwrap_or_default();
                let host = authority.split(|byte| *byte == b':').next().unwrap_or_default();
                let listed = routes.iter().find(|(listed, _)| listed.eq_ignore_ascii_case(host));
                listed.map(|(_, cluster)| cluster.clone()).or_else(|| default_route.clone())
            });
        }
        Host::start(&self.module, self.settings)
    }
}
