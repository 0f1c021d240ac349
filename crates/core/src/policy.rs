//! Decides how a request is handled: by a destination, by the managed-identity endpoints, by the status page, or not at
//! all.

use std::sync::Arc;

use crate::config::{Config, Status};
use crate::configuration_status::ConfigurationStatus;
use crate::decision::{ConfigPath, Decision, Explanation, Refusal};
use crate::destination::Destinations;
use crate::entra::TokenSpec;
use crate::host::{Authority, Host};
use crate::managed_identity::Endpoint;
use crate::managed_identity::guard::{is_local, must_be_get};
pub use crate::managed_identity::readiness_reply;
use crate::problem::{Code, Problem};
use crate::protocol::Protocol;
use crate::request::RequestView;
use crate::status_page::Format;

/// The name and value of the filter state that allows a request to be routed to the node's metadata service although its
/// path is not listed. A client cannot set filter state, so a route that matches on it (as `wasm.entra_exchange_route`)
/// receives only the requests that the filter marked.
pub const NODE_ROUTE: (&str, &str) = ("entra_exchange_route", "node");

/// A configuration compiled into lookup tables. It is built when the configuration loads and never changes.
pub struct Policy {
    destinations: Destinations,
    managed_identity: Option<Endpoint>,
    status: Option<Status>,
    configuration: ConfigurationStatus,
}

impl Policy {
    /// Builds the policy of a configuration. On a gateway, managed-identity requests are never answered. Call it once for each
    /// configuration: it compiles the lookup tables, and reads no environment variable.
    pub fn new(config: &Config, on_gateway: bool) -> Self {
        let endpoint = |answers| Endpoint::new(answers, config, on_gateway);
        Self {
            destinations: Destinations::new(config),
            managed_identity: config.managed_identity.as_ref().map(endpoint),
            status: config.status.clone(),
            configuration: ConfigurationStatus::new(config),
        }
    }

    /// The status of the configuration, for the log, the status page and metrics.
    pub const fn configuration(&self) -> &ConfigurationStatus {
        &self.configuration
    }

    /// The tokens to fetch in advance and keep fresh, even without requests that use them.
    pub fn warm(&self) -> &[Arc<TokenSpec>] {
        self.destinations.warm()
    }

    /// The names of all headers that tokens are injected into.
    pub(crate) fn token_headers(&self) -> &[Arc<str>] {
        self.destinations.headers()
    }

    /// Decides how to handle a request.
    ///
    /// Call it with the headers of a request, and again when the connection of a [`Decision::AwaitConnection`] is established. It fetches
    /// no token and changes nothing.
    ///
    /// A request that needs no token costs one read, of its authority. If the IMDS endpoint is enabled, the address that the
    /// client connected to is read as well.
    pub fn decide(&self, request: &RequestView<'_>) -> Decision {
        let decision = self.decide_by_rule(request);
        // Without headers, no rule about a path, a method or a credential can be relied on.
        if request.lacks_headers() && !matches!(decision, Decision::Report(_)) {
            let (problem, protocol) = (headers_unavailable(), Protocol::ProblemJson);
            return Decision::Refuse(Box::new(Refusal { problem, decided_by: ConfigPath::Destinations, protocol }));
        }
        decision
    }

    /// Explains how a request is handled: the decision of [`Self::decide`], and each rule for the request's host with the reason why it
    /// applies or not. It is for commands and tools, and costs far more than a decision. It fetches no token, and has no side effects.
    ///
    /// ```
    /// use entra_exchange_core::config::Config;
    /// use entra_exchange_core::decision::{ConfigPath, Decision, Match};
    /// use entra_exchange_core::policy::Policy;
    /// use entra_exchange_core::request::{DescribedRequest, RequestView};
    ///
    /// let configuration = br#"{"destinations": [
    ///     {"hosts": ["graph.microsoft.com"], "action": "pass"},
    ///     {"hosts": ["graph.microsoft.com"], "path_prefixes": ["/beta"], "methods": ["DELETE"], "action": "refuse"}
    /// ]}"#;
    /// let policy = Policy::new(&Config::parse(configuration, &|_| None).expect("a valid configuration"), false);
    /// let request = DescribedRequest::new("DELETE", "graph.microsoft.com", "/beta/users");
    /// let explanation = policy.explain(&RequestView::new(&request));
    ///
    /// assert_eq!(explanation.decision.decided_by(), Some(ConfigPath::Destination(1)));
    /// assert!(explanation.decision.problem().expect("a reason").detail.contains(r#""refuse""#));
    /// let outcomes: Vec<_> = explanation.candidates.iter().map(|it| (it.config_path.to_string(), it.outcome)).collect();
    /// let expected = [("destinations[1]", Match::Applies), ("destinations[0]", Match::LessSpecific)];
    /// assert_eq!(outcomes, expected.map(|(path, outcome)| (path.to_owned(), outcome)));
    /// ```
    pub fn explain(&self, request: &RequestView<'_>) -> Explanation {
        let decision = self.decide(request);
        let is_for_destinations =
            matches!(decision.decided_by(), None | Some(ConfigPath::Destinations | ConfigPath::Destination(_)));
        let authority = Authority::parse(request.authority()).filter(|_| is_for_destinations);
        let candidates = authority.map(|authority| self.destinations.candidates(&authority, request));
        Explanation { decision, candidates: candidates.unwrap_or_default() }
    }

    fn decide_by_rule(&self, request: &RequestView<'_>) -> Decision {
        let authority = request.authority();
        let parsed = Authority::parse(authority);
        // At the metadata service's address, its host names are accepted in their usual spelling only.
        let usual = parsed.as_ref().filter(|parsed| !parsed.port_is_invalid && !authority.ends_with(b":"));
        let host = usual.map(|parsed| &parsed.host);
        // This check comes first, so that no header can make a request to the metadata service's address evade it.
        let by_address = |endpoint: &Endpoint| endpoint.decide_by_address(host, request);
        if let Some(decision) = self.managed_identity.as_ref().and_then(by_address) {
            return decision;
        }
        let Some(authority) = parsed else { return Decision::Ignore };
        let host = &authority.host;
        if let Some(decision) = self.status.as_ref().and_then(|status| status.decide(host, request)) {
            return decision;
        }
        let endpoint = self.managed_identity.as_ref().filter(|endpoint| endpoint.answers(host));
        match endpoint {
            Some(endpoint) => endpoint.decide(host, request).unwrap_or(Decision::Ignore),
            None => self.destinations.decide(&authority, request),
        }
    }
}

impl Status {
    /// Decides about a request for the status page. Returns `None` if the host or path is not that of the status page.
    fn decide(&self, host: &Host<'_>, request: &RequestView<'_>) -> Option<Decision> {
        if self.hosts.iter().all(|own| *own != host.name) {
            return None;
        }
        if request.path().unwrap_or_default() != self.path.as_bytes() {
            return None;
        }
        let allowed = if is_local(request) { must_be_get(request) } else { Err(not_local()) };
        Some(match allowed {
            Ok(()) => Decision::Status(Format::preferred(request.header("accept"))),
            Err(problem) => Decision::RefuseOwn(Box::new(problem)),
        })
    }
}

fn headers_unavailable() -> Problem {
    Problem::new(
        Code::HeadersUnavailable,
        "Envoy does not let the filter read the request's headers",
        "Add proxy_get_header_map_pairs to the plugin's capability_restriction_config.allowed_capabilities.",
    )
}

fn not_local() -> Problem {
    Problem::new(
        Code::NotLocal,
        "the status page is available only within the pod, on a loopback address",
        "Send the request from within the pod, for example with kubectl exec or kubectl port-forward.",
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::request::tests::Sent;

    pub(crate) fn decide(policy: &Policy, sent: &Sent) -> Decision {
        policy.decide(&sent.view())
    }

    #[test]
    fn a_request_whose_headers_are_needed_and_cannot_be_read_is_rejected() {
        let text = r#"{"identities": [{"tenant_id": "11111111-1111-4111-8111-111111111111", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"}],
            "defaults": {"scope": "s/.default", "plaintext": "allow"}, "destinations": [
            {"hosts": ["token.example"]}, {"hosts": ["report.example"], "action": "report"}, {"hosts": ["pass.example"], "action": "pass"},
            {"hosts": ["path.example"], "action": "pass"}, {"hosts": ["path.example"], "path_prefixes": ["/admin"], "action": "refuse"}
        ]}"#;
        let policy = Policy::new(&Config::parse(text.as_bytes(), &|_| None).unwrap(), false);
        let decide = |authority: &str| decide(&policy, &Sent::without_readable_headers(authority));
        for authority in ["token.example", "path.example"] {
            let Decision::Refuse(refusal) = decide(authority) else { panic!("{authority} is not rejected") };
            assert_eq!((refusal.problem.code, refusal.reply().status), (Code::HeadersUnavailable, 503));
        }
        assert!(matches!(decide("report.example"), Decision::Report(_)));
        assert!(matches!(decide("pass.example"), Decision::Pass(_)));
        assert!(matches!(decide("unlisted.example"), Decision::Ignore));
    }

    #[test]
    fn the_status_page_is_available_on_local_addresses_only_and_not_if_the_address_is_unknown() {
        let text = r#"{"status": {"hosts": ["status.internal"]}, "destinations": [{"hosts": ["a.example"], "action": "pass"}]}"#;
        let policy = Policy::new(&Config::parse(text.as_bytes(), &|_| None).unwrap(), false);
        let page = || Sent::get("status.internal", &policy.status.as_ref().unwrap().path);
        let decide_at = |address: &str| decide(&policy, &page().to(address));

        for local in ["127.0.0.1:15002", "127.0.0.2:80", "[::1]:15002", "169.254.169.254:80"] {
            assert!(matches!(decide_at(local), Decision::Status(Format::Json)), "{local}");
            let preferred = decide(&policy, &page().to(local).header("accept", b"text/html"));
            assert!(matches!(preferred, Decision::Status(Format::Html)), "{local}");
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
        for decision in foreign.map(decide_at).into_iter().chain([decide(&policy, &page())]) {
            let Decision::RefuseOwn(problem) = decision else { panic!("{decision:?}") };
            assert_eq!((problem.code, problem.code.status()), (Code::NotLocal, 403));
        }
    }
}
