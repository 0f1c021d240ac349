//! What `render` makes.

/// A manifest that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The bootstrap of a plain Envoy.
    Envoy,
    /// The listener for a token file that is overwritten in place, for a plain Envoy.
    FileServer,
    /// The filter in Istio's sidecars, as an EnvoyFilter, with everything that it needs.
    EnvoyFilter,
    /// The filter as a WasmPlugin.
    WasmPlugin,
    /// The filter as a TrafficExtension.
    TrafficExtension,
    /// The filter as an upstream HTTP filter.
    Upstream,
    /// The filter in an egress gateway.
    EgressGateway,
    /// What a sidecar needs to answer IMDS requests.
    Imds,
    /// HTTP/1.0 clients in Istio's sidecars.
    Http10,
    /// A readiness listener in Istio's sidecars.
    Readiness,
    /// A workload.
    Workload,
    /// The filter in a Gateway of Envoy Gateway, with everything that it needs.
    Gateway,
}

impl Target {
    /// All targets.
    pub const ALL: [Self; 12] = [
        Self::Envoy,
        Self::FileServer,
        Self::EnvoyFilter,
        Self::WasmPlugin,
        Self::TrafficExtension,
        Self::Upstream,
        Self::EgressGateway,
        Self::Imds,
        Self::Http10,
        Self::Readiness,
        Self::Workload,
        Self::Gateway,
    ];

    /// The name of the target, which is that of its file below `envoy/`, too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::FileServer => "file-server",
            Self::EnvoyFilter => "envoyfilter",
            Self::WasmPlugin => "wasmplugin",
            Self::TrafficExtension => "trafficextension",
            Self::Upstream => "upstream",
            Self::EgressGateway => "egress-gateway",
            Self::Imds => "imds",
            Self::Http10 => "http10",
            Self::Readiness => "readiness",
            Self::Workload => "workload",
            Self::Gateway => "gateway",
        }
    }

    /// What it is, for a list of targets.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Envoy => "The bootstrap of a plain Envoy",
            Self::FileServer => "The listener for a token file that is overwritten in place, for a plain Envoy",
            Self::EnvoyFilter => "The filter in Istio's sidecars, with everything that it needs",
            Self::WasmPlugin => "The filter as a WasmPlugin",
            Self::TrafficExtension => "The filter as a TrafficExtension",
            Self::Upstream => "The filter as an upstream HTTP filter",
            Self::EgressGateway => "The filter in an egress gateway",
            Self::Imds => "What a sidecar needs to answer IMDS requests",
            Self::Http10 => "HTTP/1.0 clients in Istio's sidecars",
            Self::Readiness => "A readiness listener in Istio's sidecars",
            Self::Workload => "A workload",
            Self::Gateway => "The filter in a Gateway of Envoy Gateway, with everything that it needs",
        }
    }

    pub(super) const fn template(self) -> &'static str {
        match self {
            Self::Envoy => include_str!("../../templates/envoy.yaml"),
            Self::FileServer => include_str!("../../templates/file-server.yaml"),
            Self::EnvoyFilter => include_str!("../../templates/envoyfilter.yaml"),
            Self::WasmPlugin => include_str!("../../templates/wasmplugin.yaml"),
            Self::TrafficExtension => include_str!("../../templates/trafficextension.yaml"),
            Self::Upstream => include_str!("../../templates/upstream.yaml"),
            Self::EgressGateway => include_str!("../../templates/egress-gateway.yaml"),
            Self::Imds => include_str!("../../templates/imds.yaml"),
            Self::Http10 => include_str!("../../templates/http10.yaml"),
            Self::Readiness => include_str!("../../templates/readiness.yaml"),
            Self::Workload => include_str!("../../templates/workload.yaml"),
            Self::Gateway => include_str!("../../templates/gateway.yaml"),
        }
    }

    /// Whether it is for Istio.
    pub const fn is_istios(self) -> bool {
        self.has_objects() && !matches!(self, Self::Gateway)
    }

    /// Whether it consists of objects of Kubernetes.
    pub const fn has_objects(self) -> bool {
        !matches!(self, Self::Envoy | Self::FileServer)
    }

    /// Whether the configuration is written in it.
    pub(super) const fn has_configuration(self) -> bool {
        matches!(
            self,
            Self::Envoy
                | Self::EnvoyFilter
                | Self::WasmPlugin
                | Self::TrafficExtension
                | Self::EgressGateway
                | Self::Gateway
        )
    }

    /// Whether it depends on the hosts of the configuration.
    pub(super) const fn has_hosts(self) -> bool {
        self.has_configuration() || matches!(self, Self::Upstream)
    }

    /// The first version of Istio that has it.
    pub(super) const fn oldest_istio(self) -> (u32, u32) {
        if matches!(self, Self::TrafficExtension) { (1, 30) } else { (1, 28) }
    }
}
