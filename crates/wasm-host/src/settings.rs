//! The settings of a host, as an operator writes them in Envoy's configuration.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::callout::Cluster;
use crate::headers::Headers;
use crate::log::LogLevel;

/// How a worker handles requests after its VM has trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// `FAIL_CLOSED`: every request gets a 503.
    Closed,
    /// `FAIL_OPEN`: every request bypasses the filter.
    Open,
    /// `FAIL_RELOAD`: the next request creates a new VM, at most once per back-off; until then requests get a 503.
    Reload(Duration),
}

impl FailurePolicy {
    /// `FAIL_RELOAD` with Envoy's default back-off.
    pub const RELOAD: Self = Self::Reload(Duration::from_secs(1));
}

type Route = Rc<dyn Fn(&Headers) -> Option<String>>;

/// The settings of a host. Only the clusters can change while it runs.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) configuration: Vec<u8>,
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) workers: usize,
    pub(crate) clusters: HashMap<String, Cluster>,
    pub(crate) route: Route,
    pub(crate) capabilities: Option<Rc<BTreeSet<String>>>,
    pub(crate) failure_policy: FailurePolicy,
    pub(crate) memory_limit: usize,
    pub(crate) stream_idle_timeout: Duration,
    pub(crate) log_level: LogLevel,
    pub(crate) plugin_name: String,
    pub(crate) root_id: String,
    pub(crate) vm_id: String,
    pub(crate) node_id: String,
    pub(crate) node_cluster: String,
    pub(crate) properties: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) started_at: SystemTime,
    pub(crate) seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            configuration: Vec::new(),
            vm_configuration: Vec::new(),
            variables: Vec::new(),
            workers: 1,
            clusters: HashMap::new(),
            route: Rc::new(|_| None),
            capabilities: None,
            failure_policy: FailurePolicy::Closed,
            // `limits.h` of Envoy's proxy-wasm host.
            memory_limit: 1 << 30,
            stream_idle_timeout: Duration::from_secs(300),
            log_level: LogLevel::Info,
            plugin_name: "filter".to_owned(),
            root_id: String::new(),
            vm_id: String::new(),
            node_id: "node".to_owned(),
            node_cluster: "cluster".to_owned(),
            properties: Vec::new(),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_334_400),
            seed: 0,
        }
    }
}
