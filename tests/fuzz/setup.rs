//! How a case's filter is configured, and what that allows.

use serde_json::{Value, json};
use stack::{CLIENT_ID, HEALTH_HOST, IMDS_HOST, LISTED_HOST};
use wasm_host::{Headers, Host};

use crate::input::Input;
use crate::readings::is_credential;
use crate::sidecar::{self, ENTRA_AGAIN_CLUSTER, ENTRA_CLUSTER, LISTED_CLUSTER};

/// A host that gets its token over plain HTTP, in place of the credential that a request brings.
pub(crate) const REPLACE_HOST: &str = "blob.storage.example";
/// A host where rules refuse `/admin`, `/v1/$batch` and DELETE.
pub(crate) const RULES_HOST: &str = "rules.example";
/// A host whose route depends on `api-key`, a credential that would be replaced.
pub(crate) const ROUTED_HOST: &str = "routed.example";
/// A host of a service that has credentials of its own.
pub(crate) const GRID_HOST: &str = "orders.westeurope.eventgrid.azure.net";

/// A header that selects a cluster whose name only begins like the listed one.
pub(crate) const CANARY: &str = "x-canary";

/// The cluster of the token service, and the secrets with which it is asked.
pub(crate) const SOURCE_CLUSTER: &str = "sts";
pub(crate) const SECRETS: [(&str, &str); 2] =
    [("STS_SECRET", "q7Rz0pWvX3nL8sKd:with/colon"), ("STS_KEY", "Zk4TbN1mYw9eHc6u%20percent")];

/// The caller at the gateway.
const PRINCIPAL: &str = "spiffe://cluster.local/ns/payments/sa/api";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The sidecar that ships.
    Shipped,
    /// A sidecar with every kind of rule.
    Full,
    /// The same, but it only reports.
    Report,
    /// A gateway, where the caller's certificate says whose token it gets.
    Gateway,
    /// A sidecar that exchanges its projected token at a token service before Entra is asked.
    Exchanging,
}

/// What most events of a case are about, so that faults that need several unlikely events in a row are found soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Focus {
    /// Nothing in particular.
    Any,
    /// Plain requests and hostile answers of the token endpoint.
    Answers,
    /// Hostile requests to destinations, whose tokens are there.
    Destinations,
    /// Hostile requests to the managed-identity endpoints, the health endpoints and the status page.
    Local,
}

pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) focus: Focus,
    /// Whether each request that concerns the filter is logged.
    pub(crate) logs_requests: bool,
}

/// A host that gets a token, and under which conditions.
pub(crate) struct Destination {
    pub(crate) host: &'static str,
    pub(crate) resource: &'static str,
    /// The cluster that the token may go to; `None` is any.
    pub(crate) cluster: Option<&'static str>,
    /// A request with a credential in one of these headers never gets the token.
    pub(crate) credentials: &'static [&'static str],
    /// Nor does one with a credential in this query parameter.
    pub(crate) parameter: Option<&'static str>,
}

const USUAL: &[&str] = &["authorization", "api-key"];

const LISTED: Destination = Destination {
    host: LISTED_HOST,
    resource: "https://vault.azure.net",
    cluster: Some(LISTED_CLUSTER),
    credentials: USUAL,
    parameter: None,
};

const FULL: &[Destination] = &[
    LISTED,
    Destination {
        host: REPLACE_HOST,
        resource: "https://storage.azure.com",
        cluster: None,
        credentials: &[],
        parameter: None,
    },
    Destination { host: RULES_HOST, resource: "api://rules", cluster: None, credentials: USUAL, parameter: None },
    Destination {
        host: ROUTED_HOST,
        resource: "api://routed",
        cluster: Some(LISTED_CLUSTER),
        credentials: USUAL,
        parameter: None,
    },
    Destination {
        host: GRID_HOST,
        resource: "https://eventgrid.azure.net",
        cluster: None,
        credentials: &["authorization", "aeg-sas-key", "aeg-sas-token"],
        parameter: Some("aeg-sas-key"),
    },
];

impl Setup {
    /// Starts a host with one of the configurations.
    pub(crate) fn start(input: &mut Input<'_>) -> (Self, Host) {
        let mut builder = sidecar::builder(&sidecar::module()).seed(u64::from(input.byte()));
        let focus = [Focus::Any, Focus::Answers, Focus::Destinations, Focus::Local][input.below(4)];
        let kind = [Kind::Shipped, Kind::Full, Kind::Full, Kind::Report, Kind::Exchanging, Kind::Gateway];
        // A gateway has none of the local endpoints.
        let kind = kind[input.below(if focus == Focus::Local { 5 } else { 6 })];
        let logs_requests = input.once_in(2);
        let clusters: &[&str] = if input.once_in(2) { &[ENTRA_CLUSTER] } else { &[ENTRA_CLUSTER, ENTRA_AGAIN_CLUSTER] };
        if let Some(mut configuration) = kind.configuration(clusters) {
            if logs_requests {
                configuration["log"] = json!({"requests": "info"});
            }
            builder = builder.configuration(configuration.to_string());
        }
        builder = builder.route_by(route);
        if kind == Kind::Exchanging {
            builder = builder.cluster(SOURCE_CLUSTER);
            for (name, secret) in SECRETS {
                builder = builder.variable(name, secret);
            }
        }
        if kind == Kind::Gateway {
            builder = builder
                .node("router~10.0.0.7~egress.istio-system~cluster.local", "egress")
                .property(&["connection", "uri_san_peer_certificate"], PRINCIPAL);
        }
        // Without it, access logs have no outcome, and nothing else changes.
        if input.once_in(16) {
            builder =
                builder.capabilities(sidecar::capabilities().into_iter().filter(|name| name != "proxy_set_property"));
        }
        let logs_requests = logs_requests && kind != Kind::Shipped;
        (Self { kind, focus, logs_requests }, builder.start().unwrap())
    }

    pub(crate) fn only_reports(&self) -> bool {
        self.kind == Kind::Report
    }

    /// Whether callers of IMDS are answered or rejected.
    pub(crate) fn has_imds(&self) -> bool {
        self.kind != Kind::Gateway
    }

    /// The destination of a host in lower case.
    pub(crate) fn destination(&self, host: &str) -> Option<&'static Destination> {
        let all = match self.kind {
            Kind::Full | Kind::Report => FULL,
            Kind::Shipped | Kind::Gateway | Kind::Exchanging => std::slice::from_ref(&LISTED),
        };
        all.iter().find(|destination| destination.host == host)
    }
}

impl Kind {
    /// `None` for what ships.
    fn configuration(self, clusters: &[&str]) -> Option<Value> {
        let scope = |destination: &Destination| format!("{}/.default", destination.resource);
        let [listed, replace, rules, routed, _] = FULL else { panic!("five hosts") };
        match self {
            Self::Shipped => None,
            Self::Gateway => Some(json!({
                "entra": {"clusters": clusters},
                "identities": [{"name": "payments", "client_id": CLIENT_ID, "principals": [PRINCIPAL]}],
                "destinations": [{"hosts": [LISTED_HOST], "scope": scope(listed), "tls_clusters": [LISTED_CLUSTER]}],
            })),
            Self::Exchanging => Some(json!({
                "entra": {"clusters": clusters},
                "assertions": [{
                    "name": "sts", "source": "token_exchange", "cluster": SOURCE_CLUSTER, "path": "/token",
                    "subject_token": "projected_token", "basic_auth": {"id": "payments", "secret_from_env": "STS_SECRET"},
                    "form_from_env": {"key": "STS_KEY"},
                }],
                "identities": [{"assertion": "sts"}],
                "destinations": [{"hosts": [LISTED_HOST], "scope": scope(listed), "tls_clusters": [LISTED_CLUSTER]}],
                "managed_identity": {"imds": {"pass": ["/metadata/instance"]}, "app_service": {},
                                     "health": {"hosts": [HEALTH_HOST]}},
                "status": {"hosts": [IMDS_HOST]},
            })),
            Self::Full | Self::Report => {
                let mut configuration = json!({
                    "entra": {"clusters": clusters},
                    "destinations": [
                        {"hosts": [LISTED_HOST], "scope": scope(listed), "tls_clusters": [LISTED_CLUSTER],
                         "existing_credential": "refuse"},
                        {"hosts": [REPLACE_HOST], "scope": scope(replace), "plaintext": "allow",
                         "existing_credential": "replace"},
                        {"hosts": [RULES_HOST], "scope": scope(rules), "plaintext": "allow"},
                        {"hosts": [RULES_HOST], "path_prefixes": ["/admin", "/v1/$batch"], "action": "refuse"},
                        {"hosts": [RULES_HOST], "methods": ["DELETE"], "action": "refuse"},
                        {"hosts": [ROUTED_HOST], "scope": scope(routed), "tls_clusters": [LISTED_CLUSTER],
                         "existing_credential": "replace"},
                        {"azure_service": "event_grid", "names": ["orders.westeurope"], "plaintext": "allow"},
                    ],
                    "managed_identity": {"imds": {"pass": ["/metadata/instance"]}, "app_service": {},
                                         "health": {"hosts": [HEALTH_HOST]}},
                    "status": {"hosts": [IMDS_HOST]},
                });
                if self == Self::Report {
                    configuration["defaults"] = json!({"action": "report"});
                    // Nothing else answers App Service's protocol, so its requests cannot be left to anybody.
                    let answers = &mut configuration["managed_identity"];
                    answers.as_object_mut().unwrap().remove("app_service");
                    answers["action"] = json!("report");
                }
                Some(configuration)
            }
        }
    }
}

/// Envoy's routes: one of them depends on a header that the filter would remove, one on a header that it never touches.
fn route(headers: &Headers) -> Option<String> {
    let host = host_of(headers);
    let listed = host == LISTED_HOST || (host == ROUTED_HOST && headers.get("api-key").is_some_and(is_credential));
    Some(match headers.get(CANARY) {
        Some(_) if listed => format!("{LISTED_CLUSTER}_canary"),
        _ => if listed { LISTED_CLUSTER } else { "elsewhere" }.to_owned(),
    })
}

/// The host that a request is for, in lower case, as Envoy routes it.
pub(crate) fn host_of(headers: &Headers) -> String {
    let authority = headers.text(":authority").unwrap_or_default().to_ascii_lowercase();
    authority.split(':').next().unwrap_or_default().to_owned()
}
