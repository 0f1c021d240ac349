//! Managed identity: an app that asks for a token where Azure's hosts have an endpoint for it is answered here.

mod imds;

use std::sync::Arc;

use crate::config::{Config, Identity, ManagedIdentity};
use crate::entra::Grant;
use crate::host::Host;
use crate::http::Request;
use crate::policy::{Decision, Delivery};
use crate::problem::{Code, Problem};
use imds::TokenQuery;
pub(crate) use imds::{problem_reply, token_reply};

/// The endpoint, and the identities on offer.
pub(crate) struct Endpoint {
    imds_hosts: Vec<String>,
    offered: Vec<Identity>,
    /// The place in `offered`.
    default: Option<usize>,
}

impl Endpoint {
    pub(crate) fn new(answers: &ManagedIdentity, config: &Config) -> Self {
        Self {
            imds_hosts: answers.imds_hosts.clone(),
            offered: answers.offered.iter().filter_map(|place| config.identities.get(*place).cloned()).collect(),
            default: answers.default.and_then(|place| answers.offered.iter().position(|other| *other == place)),
        }
    }

    /// Whether requests to this host, on any port, are its own.
    pub(crate) fn answers(&self, host: &Host<'_>) -> bool {
        self.imds_hosts.iter().any(|own| *own == host.name)
    }

    pub(crate) fn decide(&self, request: &dyn Request) -> Decision {
        match self.exchange(request) {
            Ok((grant, delivery)) => Decision::Exchange(Arc::new(grant), delivery),
            Err(problem) => {
                let identity = problem.identity.as_deref().map(Arc::from);
                Decision::Refuse(identity, problem_reply(&problem))
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
    use crate::policy::Policy;

    const CONFIG: &str = r#"{
        "identities": [
            {"name": "payments", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"},
            {"name": "reports", "client_id": "bbbbbbbb-0000-4000-8000-000000000002"},
            {"name": "hidden", "client_id": "cccccccc-0000-4000-8000-000000000003"}
        ],
        "managed_identity": {"identities": ["payments", "reports"], "imds": {}}
    }"#;

    fn policy() -> Policy {
        let tenant =
            |name: &str| (name == "AZURE_TENANT_ID").then(|| "11111111-1111-4111-8111-111111111111".to_owned());
        Policy::new(&Config::parse(CONFIG.as_bytes(), &tenant).unwrap())
    }

    fn said(decision: Decision) -> String {
        match decision {
            Decision::Exchange(grant, _) => format!("{} {}", grant.identity(), grant.scope()),
            Decision::Refuse(_, reply) => {
                let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                format!("{} {}", reply.status, body.get("error_description").unwrap().as_str().unwrap())
            }
            other => format!("{other:?}"),
        }
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
            said(policy.decide(&request))
        };
        assert_eq!(ask("&client_id=BBBBBBBB-0000-4000-8000-000000000002"), "reports https://vault.azure.net/.default");
        assert!(ask("").starts_with("400 Multiple user assigned identities exist"));
        assert!(ask("&client_id=cccccccc-0000-4000-8000-000000000003").starts_with("400 Identity not found"));
        assert!(ask("&object_id=aaaaaaaa-0000-4000-8000-000000000001").starts_with("400 Identity not found"));
    }
}
