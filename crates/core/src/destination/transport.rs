//! The way that a request takes to its destination, and whether a token may go along.
//!
//! In a listener's filter chain the filter knows the cluster that the route names, and no more. In a cluster's own
//! chain it sees the connection itself.

use crate::http::RequestAccess;
use crate::problem::{Code, Problem};
use crate::untrusted::UntrustedText;

/// What a destination says of the way.
pub(super) struct Transport {
    /// With `{host}` replaced.
    pub(super) tls_clusters: Vec<String>,
    pub(super) plaintext_allowed: bool,
}

/// Whether a token may go this way.
pub(super) enum TransportCheck {
    Allowed,
    /// The connection is being made: to be asked again when it is there.
    Pending,
    Rejected(Problem),
}

impl Transport {
    /// Whether a request still goes to the cluster that was judged when its headers are changed. In a cluster's own chain it
    /// does; in a listener's, Envoy selects the route again, and nothing shows the filter which one.
    pub(super) fn survives_a_change(&self, request: &dyn RequestAccess) -> bool {
        self.plaintext_allowed || attempt(request) > 0
    }

    pub(super) fn judge(&self, label: &str, request: &dyn RequestAccess) -> TransportCheck {
        if self.plaintext_allowed {
            return TransportCheck::Allowed;
        }
        let in_cluster = attempt(request) > 0;
        if self.tls_clusters.is_empty() && !in_cluster {
            return TransportCheck::Rejected(Problem::new(
                Code::TlsClustersMissing,
                format!("destination {label:?} does not say which cluster leads to it over TLS"),
                "Write the cluster into the destination's tls_clusters (Envoy's /clusters lists them), or have the filter \
                 stand in the cluster's own http_filters.",
            ));
        }
        if let Some(problem) = self.misrouted(label, request) {
            return TransportCheck::Rejected(problem);
        }
        if in_cluster { connection(label, request) } else { TransportCheck::Allowed }
    }

    /// The problem when the request was routed to a cluster that is not listed. Where none is listed, any will do.
    fn misrouted(&self, label: &str, request: &dyn RequestAccess) -> Option<Problem> {
        if self.tls_clusters.is_empty() {
            return None;
        }
        let cluster = request.property(&["xds", "cluster_name"]).unwrap_or_default();
        if self.tls_clusters.iter().any(|listed| listed.as_bytes() == cluster) {
            return None;
        }
        let routed = match String::from_utf8_lossy(&cluster) {
            name if name.is_empty() => "to no cluster".to_owned(),
            // A header of the request may name it.
            name => format!("to cluster {:?}", UntrustedText::new(&name)),
        };
        Some(Problem::new(
            Code::ClusterNotListed,
            format!(
                "the request to destination {label:?} was routed {routed}, and its tls_clusters are {}",
                self.tls_clusters.join(", ")
            ),
            "Route it to a cluster with TLS, and list that one in the destination's tls_clusters.",
        ))
    }
}

/// Which attempt of the request this is, from 1; 0 in a listener's filter chain, where there are none. Envoy hands an
/// integer over as eight bytes, the least first.
fn attempt(request: &dyn RequestAccess) -> u64 {
    let count = request.property(&["upstream", "request_attempt_count"]);
    count.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether the request has a connection: set as soon as it has one, whatever kind it is.
pub fn is_established(request: &dyn RequestAccess) -> bool {
    has(request, "cx_pool_ready_duration")
}

fn has(request: &dyn RequestAccess, name: &str) -> bool {
    request.property(&["upstream", name]).is_some_and(|value| !value.is_empty())
}

/// Whether the connection that the request is on has TLS. That the server's certificate was verified is what the
/// cluster's `validation_context` says; Envoy does not tell it here.
fn connection(label: &str, request: &dyn RequestAccess) -> TransportCheck {
    if has(request, "tls_version") {
        return TransportCheck::Allowed;
    }
    if !is_established(request) {
        return TransportCheck::Pending;
    }
    TransportCheck::Rejected(Problem::new(
        Code::ConnectionNotTls,
        format!("the connection to destination {label:?} is in clear"),
        "Give the cluster a transport_socket with TLS, or, if the token may travel in clear, write plaintext: allow.",
    ))
}
