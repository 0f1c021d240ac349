//! Checks the upstream cluster and connection of a request, to decide whether a token may be sent over it.
//!
//! In a listener's filter chain the filter knows only the name of the route's cluster. In a cluster's own filter chain it knows
//! the connection itself.

use crate::problem::{Code, Problem};
use crate::request::RequestView;
use crate::untrusted::UntrustedText;

/// A destination's conditions on the upstream cluster and connection.
pub(super) struct Transport {
    /// The clusters that use TLS, with `{host}` replaced.
    pub(super) tls_clusters: Vec<String>,
    /// Whether the token may be sent over any cluster and connection, also in plaintext.
    pub(super) plaintext_allowed: bool,
}

/// Whether a token may be sent with a request.
pub(super) enum TransportCheck {
    /// It may.
    Allowed,
    /// The connection is not established yet. Check again when it is.
    Pending,
    /// It may not.
    Rejected(Problem),
}

impl Transport {
    /// Whether a request is sent to the cluster that was checked even after a header changes. In a cluster's own filter chain it
    /// is. In a listener's, Envoy selects the route again and does not expose the result to the filter.
    pub(super) fn keeps_cluster_on_header_change(&self, request: &RequestView<'_>) -> bool {
        self.plaintext_allowed || request.is_in_cluster()
    }

    /// Checks the cluster and the connection of a request to the destination named `label`.
    pub(super) fn check(&self, label: &str, request: &RequestView<'_>) -> TransportCheck {
        if self.plaintext_allowed {
            return TransportCheck::Allowed;
        }
        let in_cluster = request.is_in_cluster();
        if self.tls_clusters.is_empty() && !in_cluster {
            return TransportCheck::Rejected(Problem::new(
                Code::TlsClustersMissing,
                format!("destination {label:?} has no tls_clusters, and the filter is in a listener's filter chain"),
                "Add the cluster to the destination's tls_clusters (Envoy's /clusters lists the names), or add the filter to the \
                 cluster's own http_filters.",
            ));
        }
        if let Some(problem) = self.misrouted(label, request) {
            return TransportCheck::Rejected(problem);
        }
        if in_cluster { check_connection(label, request) } else { TransportCheck::Allowed }
    }

    /// The problem that the request was routed to a cluster that is not listed. If none is listed, every cluster is allowed.
    fn misrouted(&self, label: &str, request: &RequestView<'_>) -> Option<Problem> {
        if self.tls_clusters.is_empty() {
            return None;
        }
        let cluster = request.source().cluster_name().unwrap_or_default();
        if self.tls_clusters.iter().any(|listed| *listed == cluster) {
            return None;
        }
        let routed = match &*cluster {
            "" => "to no cluster".to_owned(),
            // A header of the request may select the cluster, so its name is untrusted.
            name => format!("to cluster {:?}", UntrustedText::new(name)),
        };
        Some(Problem::new(
            Code::ClusterNotListed,
            format!(
                "the request to destination {label:?} was routed {routed}, and its tls_clusters are {}",
                self.tls_clusters.join(", ")
            ),
            "Route the request to a cluster with TLS, and list that cluster in the destination's tls_clusters.",
        ))
    }
}

/// Checks that the request's upstream connection uses TLS. Verifying the server's certificate is the job of the cluster's
/// `validation_context`; Envoy does not expose the result here.
fn check_connection(label: &str, request: &RequestView<'_>) -> TransportCheck {
    if request.source().upstream_tls() {
        return TransportCheck::Allowed;
    }
    if !request.source().upstream_is_established() {
        return TransportCheck::Pending;
    }
    TransportCheck::Rejected(Problem::new(
        Code::ConnectionNotTls,
        format!("the connection to destination {label:?} is in plaintext"),
        "Add a transport_socket with TLS to the cluster; or, if the token may be sent in plaintext, set plaintext: allow on the \
         destination.",
    ))
}
