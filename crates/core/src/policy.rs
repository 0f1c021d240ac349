//! What becomes of a request: the one place that asks whether it is a destination's or a managed-identity caller's.

use std::sync::Arc;

use crate::config::{Config, Status};
use crate::configuration_status::ConfigurationStatus;
use crate::decision::Decision;
use crate::destination::Destinations;
pub use crate::destination::{OWN_HEADER, is_established};
use crate::entra::Grant;
use crate::host::{Authority, Host};
use crate::http::Request;
use crate::managed_identity::Endpoint;
use crate::managed_identity::guard::{Connection, must_be_get};
pub use crate::managed_identity::readiness_reply;
use crate::path;
use crate::problem::{Code, Problem};

/// The filter state, and its value, of a request that may go on to the node's metadata service though its path is not listed. No request
/// can bring it, so a route that matches on it (as `wasm.entra_exchange_route`) leads nothing to the node unless the filter said so.
pub const NODE_ROUTE: (&str, &str) = ("entra_exchange_route", "node");

/// A configuration, ready to decide. It is made once and never changes.
pub struct Policy {
    destinations: Destinations,
    managed_identity: Option<Endpoint>,
    status: Option<Status>,
    configuration: ConfigurationStatus,
}

impl Policy {
    /// Makes the policy of a configuration, for a proxy that may be a gateway.
    pub fn new(config: &Config, on_gateway: bool) -> Self {
        let endpoint = |answers| Endpoint::new(answers, config, on_gateway);
        Self {
            destinations: Destinations::new(config),
            managed_identity: config.managed_identity.as_ref().map(endpoint),
            status: config.status.clone(),
            configuration: ConfigurationStatus::new(config),
        }
    }

    /// What is known of the configuration before any request comes.
    pub const fn configuration(&self) -> &ConfigurationStatus {
        &self.configuration
    }

    /// The tokens that are to be kept fresh even when nobody asks.
    pub fn warm(&self) -> &[Arc<Grant>] {
        self.destinations.warm()
    }

    /// Decides about a request. One that needs no token costs one look, at its authority; where IMDS is answered, a second one, at the
    /// address that the client connected to.
    pub fn decide(&self, request: &dyn Request) -> Decision {
        let authority = request.header(":authority").unwrap_or_default();
        let connection = Connection::of(request);
        let parsed = Authority::parse(&authority);
        // At the metadata service's address only the usual spelling of its names is taken for them.
        let usual = parsed.as_ref().filter(|parsed| !parsed.port_is_invalid && !authority.ends_with(b":"));
        let host = usual.map(|parsed| &parsed.host);
        // First of all: a request to the metadata service's address must not get past by what it says of itself.
        let by_address = |endpoint: &Endpoint| endpoint.decide_by_address(host, request, &connection);
        if let Some(decision) = self.managed_identity.as_ref().and_then(by_address) {
            return decision;
        }
        let Some(authority) = parsed else { return Decision::Ignore };
        let host = &authority.host;
        if let Some(decision) = self.status.as_ref().and_then(|status| status.decide(host, request, &connection)) {
            return decision;
        }
        let endpoint = self.managed_identity.as_ref().filter(|endpoint| endpoint.answers(host));
        match endpoint {
            Some(endpoint) => endpoint.decide(host, request, &connection).unwrap_or(Decision::Ignore),
            None => self.destinations.decide(&authority, request),
        }
    }
}

impl Status {
    /// Decides about a request to one of its hosts; `None` when it is for another path.
    fn decide(&self, host: &Host<'_>, request: &dyn Request, connection: &Connection<'_>) -> Option<Decision> {
        if self.hosts.iter().all(|own| *own != host.name) {
            return None;
        }
        let target = request.header(":path").unwrap_or_default();
        let (path, _) = path::split(&target);
        if path != self.path.as_bytes() {
            return None;
        }
        let allowed = if connection.is_local() { must_be_get(request) } else { Err(not_local()) };
        Some(match allowed {
            Ok(()) => Decision::Status,
            Err(problem) => Decision::Reply(problem.to_reply()),
        })
    }
}

fn not_local() -> Problem {
    Problem::new(
        Code::NotLocal,
        "the state of tokens is shown only in the pod itself, on a loopback address",
        "Ask from within the pod, such as with kubectl exec or kubectl port-forward.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::Sent;

    #[test]
    fn the_status_page_is_shown_on_local_addresses_only_and_nowhere_without_an_address() {
        let text = r#"{"status": {"hosts": ["status.internal"]}, "destinations": [{"hosts": ["a.example"], "action": "pass"}]}"#;
        let policy = Policy::new(&Config::parse(text.as_bytes(), &|_| None).unwrap(), false);
        let page = || Sent::get("status.internal", &policy.status.as_ref().unwrap().path);
        let asked_on = |address: &str| policy.decide(&page().property(&["destination", "address"], address));

        for local in ["127.0.0.1:15002", "127.0.0.2:80", "[::1]:15002", "169.254.169.254:80"] {
            assert!(matches!(asked_on(local), Decision::Status), "{local}");
        }
        let foreign = [
            "10.0.0.7:15002",
            "0.0.0.0:15002",
            "[fd00::1]:15002",
            "169.254.169.253:80",
            "127.0.0.1",
            "localhost:80",
            "",
        ];
        for decision in foreign.map(asked_on).into_iter().chain([policy.decide(&page())]) {
            let Decision::Reply(reply) = decision else { panic!("{decision:?}") };
            let body = String::from_utf8(reply.body).unwrap();
            assert!(reply.status == 403 && body.contains("not_local"), "{body}");
        }
    }
}
