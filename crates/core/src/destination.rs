//! Which host gets which token: the only place that knows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Config, ExistingCredential};
use crate::entra::Grant;
use crate::host::Host;
use crate::http::Request;
use crate::policy::{Decision, Delivery};
use crate::problem::{Code, Problem};

/// The port of an authority without one: what reaches the filter is HTTP.
const HTTP_PORT: u16 = 80;

/// The destinations of a configuration, ready to be looked up.
pub(crate) struct Destinations {
    /// By the host's name; a host has few ports.
    hosts: HashMap<String, Vec<Rule>>,
    warm: Vec<Arc<Grant>>,
}

/// What is to be done for a host.
struct Rule {
    /// `None` is any.
    port: Option<u16>,
    destination: Destination,
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

impl Destinations {
    pub(crate) fn new(config: &Config) -> Self {
        let mut hosts: HashMap<String, Vec<Rule>> = HashMap::new();
        let mut warm: Vec<Arc<Grant>> = Vec::new();
        for destination in &config.destinations {
            let Some(identity) = config.identities.get(destination.identity) else { continue };
            let grant = identity.grant(&destination.scope).map(Arc::new);
            let identity: Arc<str> = Arc::from(identity.name.as_str());
            if let (true, Ok(grant)) = (destination.warm, &grant) {
                warm.push(Arc::clone(grant));
            }
            for host in &destination.hosts {
                let tls_clusters = destination.tls_clusters.iter().map(|name| name.replace("{host}", &host.name));
                let destination = Destination {
                    label: destination.label.clone(),
                    identity: Arc::clone(&identity),
                    scope: destination.scope.clone(),
                    grant: grant.clone(),
                    tls_clusters: tls_clusters.collect(),
                    plaintext_allowed: destination.plaintext_allowed,
                    existing_credential: destination.existing_credential,
                    pass_on_failure: destination.pass_on_failure,
                };
                hosts.entry(host.name.clone().into_owned()).or_default().push(Rule { port: host.port, destination });
            }
        }
        // The more specific first: a port before any port.
        for rules in hosts.values_mut() {
            rules.sort_by_key(|rule| rule.port.is_none());
        }
        Self { hosts, warm }
    }

    /// The tokens that are to be kept fresh even when nobody asks.
    pub(crate) fn warm(&self) -> &[Arc<Grant>] {
        &self.warm
    }

    pub(crate) fn decide(&self, host: &Host<'_>, request: &dyn Request) -> Decision {
        let port = host.port.unwrap_or(HTTP_PORT);
        let rules = self.hosts.get(&*host.name).map(Vec::as_slice).unwrap_or_default();
        match rules.iter().find(|rule| rule.port.is_none_or(|wanted| wanted == port)) {
            None => Decision::Ignore,
            Some(rule) => rule.destination.decide(request),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::Sent;
    use crate::policy::Policy;

    const CONFIG: &str = r#"{
        "identities": [
            {"name": "payments", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"},
            {"name": "reports", "client_id": "bbbbbbbb-0000-4000-8000-000000000002"}
        ],
        "destinations": [
            {"hosts": ["kv.example", "blob.example"], "scope": "https://vault.azure.net/.default", "identity": "payments", "tls_clusters": ["outbound|80||{host}"]},
            {"hosts": ["kv.example:8443"], "scope": "api://other/.default", "identity": "reports", "plaintext": "allowed", "existing_credential": "replace"},
            {"hosts": ["strict.example"], "scope": "s/.default", "identity": "payments", "plaintext": "allowed", "existing_credential": "refuse"},
            {"hosts": ["nowhere.example"], "scope": "s/.default", "identity": "payments"}
        ]
    }"#;

    fn policy() -> Policy {
        let tenant =
            |name: &str| (name == "AZURE_TENANT_ID").then(|| "11111111-1111-4111-8111-111111111111".to_owned());
        Policy::new(&Config::parse(CONFIG.as_bytes(), &tenant).unwrap(), false)
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
            other => format!("{other:?}"),
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
    fn a_missing_variable_is_told_to_whoever_needs_it() {
        let policy = Policy::new(&Config::parse(CONFIG.as_bytes(), &|_| None).unwrap(), false);
        assert_eq!(scope(policy.decide(&routed("kv.example", "outbound|80||kv.example"))), "503 variable_missing");
        assert_eq!(scope(policy.decide(&routed("elsewhere.example", ""))), "ignore");
    }
}
