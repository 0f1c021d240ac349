//! Which request gets which token: the only place that knows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::{Issued, Need};
use crate::config::{Config, ExistingCredential, Identity};
use crate::entra::Grant;
use crate::host::Host;
use crate::http::{Reply, Request};
use crate::managed_identity::{self, TokenQuery};
use crate::metrics::Outcome;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// The port of an authority without one: what reaches the filter is HTTP.
const HTTP_PORT: u16 = 80;

/// What to do with a request.
#[derive(Debug)]
pub enum Decision {
    /// Let it go on as it came: it is none of ours.
    Ignore,
    /// Let it go on as it came, though it is this identity's.
    Pass(Arc<str>),
    /// Answer it, by the rules for this identity, where one is known.
    Refuse(Option<Arc<str>>, Reply),
    /// Get this token, then do this with it.
    Exchange(Arc<Grant>, Delivery),
}

/// What becomes of a token, or of the problem that there is none.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The request goes on with the token in its `Authorization` header.
    Inject {
        /// When no token can be had it goes on all the same, as it came.
        pass_on_failure: bool,
    },
    /// The request is answered as the instance metadata service would.
    ManagedIdentity {
        /// The resource, as the caller wrote it.
        resource: String,
        /// Whose token it is.
        client_id: String,
    },
}

/// What the shell does to a request in the end. It may hold a token, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Effect {
    /// Set the request's `Authorization` header to this, in place of any other, and let the request go on.
    Authorize(String),
    /// Let the request go on as it came.
    Pass,
    /// Answer it.
    Reply(Reply),
}

impl Delivery {
    /// What is needed of the token for it.
    pub const fn need(&self) -> Need {
        match self {
            Self::Inject { .. } => Need::Usable,
            Self::ManagedIdentity { .. } => Need::LongLived,
        }
    }

    /// What to do to the request, now that there is a token, or a problem; and what that is called.
    pub fn deliver(&self, outcome: Result<&Issued, &Problem>, now: Timestamp) -> (Effect, Outcome) {
        match (self, outcome) {
            // RFC 6750, section 2.1.
            (Self::Inject { .. }, Ok(issued)) => {
                (Effect::Authorize(format!("Bearer {}", issued.token().expose())), Outcome::Injected)
            }
            (Self::Inject { pass_on_failure: true }, Err(_)) => (Effect::Pass, Outcome::Passed),
            (Self::Inject { .. }, Err(problem)) => (Effect::Reply(problem.to_reply()), Outcome::Failed),
            (Self::ManagedIdentity { resource, client_id }, Ok(issued)) => {
                (Effect::Reply(managed_identity::token_reply(issued, client_id, resource, now)), Outcome::Answered)
            }
            (Self::ManagedIdentity { .. }, Err(problem)) => {
                (Effect::Reply(managed_identity::problem_reply(problem)), Outcome::Failed)
            }
        }
    }
}

/// A configuration, ready to decide. It is made once and never changes.
pub struct Policy {
    /// By the host's name; a host has few ports.
    hosts: HashMap<String, Vec<Rule>>,
    managed: Option<Managed>,
    warm: Vec<Arc<Grant>>,
}

/// What is to be done for a host.
struct Rule {
    /// `None` is any.
    port: Option<u16>,
    target: Target,
}

enum Target {
    Destination(Box<Destination>),
    ManagedIdentity,
}

struct Destination {
    label: String,
    /// By its name in the configuration.
    identity: Arc<str>,
    scope: String,
    grant: Result<Arc<Grant>, Problem>,
    /// With `{host}` replaced.
    tls_clusters: Vec<String>,
    plaintext_allowed: bool,
    existing_credential: ExistingCredential,
    pass_on_failure: bool,
}

/// The identities on offer.
struct Managed {
    offered: Vec<Identity>,
    /// The place in `offered`.
    default: Option<usize>,
}

impl Policy {
    /// Makes the policy of a configuration.
    pub fn new(config: &Config) -> Self {
        let mut hosts: HashMap<String, Vec<Rule>> = HashMap::new();
        let mut warm: Vec<Arc<Grant>> = Vec::new();
        let mut add = |name: &str, port: Option<u16>, target: Target| {
            hosts.entry(name.to_owned()).or_default().push(Rule { port, target });
        };
        for destination in &config.destinations {
            let Some(identity) = config.identities.get(destination.identity) else { continue };
            let grant = identity.grant(&destination.scope).map(Arc::new);
            let identity: Arc<str> = Arc::from(identity.name.as_str());
            if let (true, Ok(grant)) = (destination.warm, &grant) {
                warm.push(Arc::clone(grant));
            }
            for host in &destination.hosts {
                let target = Destination {
                    label: destination.label.clone(),
                    identity: Arc::clone(&identity),
                    scope: destination.scope.clone(),
                    grant: grant.clone(),
                    tls_clusters: destination
                        .tls_clusters
                        .iter()
                        .map(|name| name.replace("{host}", &host.name))
                        .collect(),
                    plaintext_allowed: destination.plaintext_allowed,
                    existing_credential: destination.existing_credential,
                    pass_on_failure: destination.pass_on_failure,
                };
                add(&host.name, host.port, Target::Destination(Box::new(target)));
            }
        }
        let managed = config.managed_identity.as_ref().map(|answers| {
            for name in &answers.imds_hosts {
                add(name, None, Target::ManagedIdentity);
            }
            Managed {
                offered: answers.offered.iter().filter_map(|place| config.identities.get(*place).cloned()).collect(),
                default: answers.default.and_then(|place| answers.offered.iter().position(|other| *other == place)),
            }
        });
        // The more specific first: a port before any port.
        for rules in hosts.values_mut() {
            rules.sort_by_key(|rule| rule.port.is_none());
        }
        Self { hosts, managed, warm }
    }

    /// The tokens that are to be kept fresh even when nobody asks.
    pub fn warm(&self) -> &[Arc<Grant>] {
        &self.warm
    }

    /// Decides about a request. One that needs no token costs one look, at its authority.
    pub fn decide(&self, request: &dyn Request) -> Decision {
        let authority = request.header(":authority").unwrap_or_default();
        let Some(host) = Host::parse(&authority) else { return Decision::Ignore };
        let port = host.port.unwrap_or(HTTP_PORT);
        let rules = self.hosts.get(&*host.name).map(Vec::as_slice).unwrap_or_default();
        match rules.iter().find(|rule| rule.port.is_none_or(|wanted| wanted == port)).map(|rule| &rule.target) {
            None => Decision::Ignore,
            Some(Target::Destination(destination)) => destination.decide(request),
            Some(Target::ManagedIdentity) => match &self.managed {
                Some(managed) => managed.decide(request),
                None => Decision::Ignore,
            },
        }
    }
}

impl Destination {
    fn decide(&self, request: &dyn Request) -> Decision {
        if self.existing_credential != ExistingCredential::Replace && request.header("authorization").is_some() {
            return match self.existing_credential {
                ExistingCredential::Refuse => self.refuse(Problem::new(
                    Code::CredentialPresent,
                    format!("the request to destination {:?} has an Authorization header of its own", self.label),
                    "Have the app send none; or set the destination's existing_credential to \"keep\" or \"replace\".",
                )),
                _ => Decision::Pass(Arc::clone(&self.identity)),
            };
        }
        if let Err(problem) = self.judge_way(request) {
            return self.refuse(problem);
        }
        match &self.grant {
            Ok(grant) => {
                Decision::Exchange(Arc::clone(grant), Delivery::Inject { pass_on_failure: self.pass_on_failure })
            }
            // Nothing is asked of Entra without the variable: it is as if no token could be had.
            Err(_) if self.pass_on_failure => Decision::Pass(Arc::clone(&self.identity)),
            Err(problem) => Decision::Refuse(Some(Arc::clone(&self.identity)), problem.to_reply()),
        }
    }

    fn refuse(&self, mut problem: Problem) -> Decision {
        problem = problem.about(&self.identity, &self.scope);
        Decision::Refuse(Some(Arc::clone(&self.identity)), problem.to_reply())
    }

    /// Whether the token goes where it may: to a cluster that the destination lists, because it has TLS.
    fn judge_way(&self, request: &dyn Request) -> Result<(), Problem> {
        if self.plaintext_allowed {
            return Ok(());
        }
        if self.tls_clusters.is_empty() {
            return Err(Problem::new(
                Code::WayNotStated,
                format!("destination {:?} does not say which cluster leads to it over TLS", self.label),
                "Write the cluster into the destination's tls_clusters (Envoy's /clusters lists them).",
            ));
        }
        let cluster = request.property(&["xds", "cluster_name"]).unwrap_or_default();
        if self.tls_clusters.iter().any(|listed| listed.as_bytes() == cluster) {
            return Ok(());
        }
        let routed = match String::from_utf8_lossy(&cluster) {
            name if name.is_empty() => "to no cluster".to_owned(),
            name => format!("to cluster {name:?}"),
        };
        Err(Problem::new(
            Code::ClusterNotListed,
            format!(
                "the request to destination {:?} was routed {routed}, and its tls_clusters are {}",
                self.label,
                self.tls_clusters.join(", ")
            ),
            "Route it to a cluster with TLS, and list that one in the destination's tls_clusters.",
        ))
    }
}

impl Managed {
    fn decide(&self, request: &dyn Request) -> Decision {
        match self.exchange(request) {
            Ok((grant, delivery)) => Decision::Exchange(Arc::new(grant), delivery),
            Err(problem) => {
                let identity = problem.identity.as_deref().map(Arc::from);
                Decision::Refuse(identity, managed_identity::problem_reply(&problem))
            }
        }
    }

    fn exchange(&self, request: &dyn Request) -> Result<(Grant, Delivery), Problem> {
        let query = TokenQuery::read(request)?;
        let grant = self.select(query.selector.as_ref())?.grant(&query.scope())?;
        let client_id = grant.client_id().to_owned();
        Ok((grant, Delivery::ManagedIdentity { resource: query.resource, client_id }))
    }

    /// The identity that a caller named; another is never taken in its place.
    fn select(&self, selector: Option<&(String, String)>) -> Result<&Identity, Problem> {
        let Some((by, value)) = selector else {
            return self.default.and_then(|place| self.offered.get(place)).ok_or_else(|| {
                Problem::new(
                    Code::IdentityAmbiguous,
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request",
                    "Name an identity with client_id; or write managed_identity.default_identity.",
                )
            });
        };
        self.offered
            .iter()
            .find(|identity| by == "client_id" && identity.client_id().is_some_and(|id| id.eq_ignore_ascii_case(value)))
            .ok_or_else(|| {
                Problem::new(
                    Code::IdentityNotFound,
                    "Identity not found",
                    format!("No identity on offer has {by} {value:?}: add it to managed_identity.identities."),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::Sent;

    const CONFIG: &str = r#"{
        "identities": [
            {"name": "payments", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"},
            {"name": "reports", "client_id": "bbbbbbbb-0000-4000-8000-000000000002"},
            {"name": "hidden", "client_id": "cccccccc-0000-4000-8000-000000000003"}
        ],
        "destinations": [
            {"hosts": ["kv.example", "blob.example"], "scope": "https://vault.azure.net/.default", "identity": "payments", "tls_clusters": ["outbound|80||{host}"]},
            {"hosts": ["kv.example:8443"], "scope": "api://other/.default", "identity": "reports", "plaintext": "allowed", "existing_credential": "replace"},
            {"hosts": ["strict.example"], "scope": "s/.default", "identity": "payments", "plaintext": "allowed", "existing_credential": "refuse"},
            {"hosts": ["nowhere.example"], "scope": "s/.default", "identity": "payments"}
        ],
        "managed_identity": {"identities": ["payments", "reports"], "imds": {}}
    }"#;

    fn policy() -> Policy {
        let tenant =
            |name: &str| (name == "AZURE_TENANT_ID").then(|| "11111111-1111-4111-8111-111111111111".to_owned());
        Policy::new(&Config::parse(CONFIG.as_bytes(), &tenant).unwrap())
    }

    fn routed(authority: &str, cluster: &str) -> Sent {
        Sent::get(authority, "/").property(&["xds", "cluster_name"], cluster)
    }

    fn scope(decision: Decision) -> String {
        match decision {
            Decision::Exchange(grant, _) => format!("{} {}", grant.identity(), grant.scope()),
            Decision::Ignore => "ignore".to_owned(),
            Decision::Pass(_) => "pass".to_owned(),
            Decision::Refuse(_, reply) => {
                let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                let said = body.get("code").or_else(|| body.get("error_description")).unwrap();
                format!("{} {}", reply.status, said.as_str().unwrap())
            }
        }
    }

    #[test]
    fn an_unlisted_host_costs_one_look() {
        let request = Sent::get("elsewhere.example", "/").header("authorization", b"x");
        assert!(matches!(policy().decide(&request), Decision::Ignore));
        assert_eq!(*request.looks.borrow(), [":authority"]);
    }

    #[test]
    fn a_listed_host_gets_its_token_by_its_own_cluster_only() {
        let policy = policy();
        let kv = "payments https://vault.azure.net/.default";
        assert_eq!(scope(policy.decide(&routed("kv.example", "outbound|80||kv.example"))), kv);
        assert_eq!(scope(policy.decide(&routed("KV.example:80", "outbound|80||kv.example"))), kv);
        assert_eq!(scope(policy.decide(&routed("kv.example", "outbound|80||blob.example"))), "403 cluster_not_listed");
        assert_eq!(scope(policy.decide(&routed("kv.example", ""))), "403 cluster_not_listed");
        assert_eq!(scope(policy.decide(&routed("nowhere.example", "x"))), "403 way_not_stated");
    }

    #[test]
    fn a_look_alike_is_not_the_host() {
        let policy = policy();
        for authority in
            ["kv.example.", "kv.example.evil", "evilkv.example", "kv.example@evil", "x@kv.example", "kv%2eexample", ""]
        {
            assert_eq!(scope(policy.decide(&routed(authority, "outbound|80||kv.example"))), "ignore", "{authority}");
        }
        let bytes = Sent::default().header(":authority", b"kv.example\xff");
        assert!(matches!(policy.decide(&bytes), Decision::Ignore));
        assert!(matches!(policy.decide(&Sent::default()), Decision::Ignore));
    }

    #[test]
    fn a_port_is_more_specific_than_any_port() {
        assert_eq!(scope(policy().decide(&routed("kv.example:8443", "x"))), "reports api://other/.default");
    }

    #[test]
    fn a_credential_of_its_own_is_kept_replaced_or_refused() {
        let policy = policy();
        let with = |authority: &str| scope(policy.decide(&routed(authority, "x").header("authorization", b"\xff")));
        assert_eq!(with("kv.example"), "pass");
        assert_eq!(with("kv.example:8443"), "reports api://other/.default");
        assert_eq!(with("strict.example"), "403 credential_present");
    }

    #[test]
    fn a_managed_identity_is_the_one_that_was_named_or_none() {
        let policy = policy();
        let ask = |selector: &str| {
            let path = format!(
                "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net{selector}"
            );
            let request = Sent::get("169.254.169.254", &path)
                .header("metadata", b"true")
                .property(&["destination", "address"], "169.254.169.254:80");
            scope(policy.decide(&request))
        };
        assert_eq!(ask("&client_id=BBBBBBBB-0000-4000-8000-000000000002"), "reports https://vault.azure.net/.default");
        assert!(ask("").starts_with("400 Multiple user assigned identities exist"));
        assert!(ask("&client_id=cccccccc-0000-4000-8000-000000000003").starts_with("400 Identity not found"));
        assert!(ask("&object_id=aaaaaaaa-0000-4000-8000-000000000001").starts_with("400 Identity not found"));
    }

    #[test]
    fn a_missing_variable_is_told_to_whoever_needs_it() {
        let policy = Policy::new(&Config::parse(CONFIG.as_bytes(), &|_| None).unwrap());
        assert_eq!(scope(policy.decide(&routed("kv.example", "outbound|80||kv.example"))), "503 variable_missing");
        assert_eq!(scope(policy.decide(&routed("elsewhere.example", ""))), "ignore");
    }

    #[test]
    fn a_token_is_injected_as_a_bearer_token_and_a_problem_is_told() {
        let now = Timestamp::from_unix_seconds(0);
        let token = crate::entra::AccessToken::parse("abc").unwrap();
        let issued = Issued::new(token, now, std::time::Duration::from_secs(60), None, 0);
        let inject = Delivery::Inject { pass_on_failure: false };
        assert!(inject.deliver(Ok(&issued), now) == (Effect::Authorize("Bearer abc".to_owned()), Outcome::Injected));
        let problem = Problem::new(Code::EntraRefused, "d", "r");
        assert!(inject.deliver(Err(&problem), now) == (Effect::Reply(problem.to_reply()), Outcome::Failed));
        assert!(
            Delivery::Inject { pass_on_failure: true }.deliver(Err(&problem), now) == (Effect::Pass, Outcome::Passed)
        );
    }
}
