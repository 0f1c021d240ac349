//! What a configuration says, for commands and tools that show it.

use super::types::{Config, Destination, DestinationAction, Identity, TokenOwner};
use crate::config_path::ConfigPath;
use crate::entra::TokenSpec;
use crate::problem::Problem;

/// An entry of `identities`.
#[derive(Clone, Copy)]
pub struct IdentitySummary<'a>(&'a Identity);

/// An entry of `destinations`. An entry with several scopes gives several of them, with the same path.
#[derive(Clone, Copy)]
pub struct DestinationSummary<'a> {
    config: &'a Config,
    destination: &'a Destination,
}

impl Config {
    /// The identities, in the configuration's order.
    pub fn identities(&self) -> impl Iterator<Item = IdentitySummary<'_>> {
        self.identities.iter().map(IdentitySummary)
    }

    /// The destinations, in the configuration's order.
    pub fn destinations(&self) -> impl Iterator<Item = DestinationSummary<'_>> {
        self.destinations.iter().map(|destination| DestinationSummary { config: self, destination })
    }
}

impl<'a> IdentitySummary<'a> {
    /// Its name.
    pub fn name(self) -> &'a str {
        &self.0.name
    }

    /// Its client id.
    ///
    /// # Errors
    /// The environment variable that contains it is missing or not valid.
    pub fn client_id(self) -> Result<&'a str, &'a Problem> {
        self.0.client_id()
    }

    /// Its token for a scope: the authority, the tenant, and where the assertion comes from.
    ///
    /// # Errors
    /// An environment variable is missing or not valid.
    pub fn token(self, scope: &str) -> Result<TokenSpec, Problem> {
        self.0.spec(scope)
    }

    /// The URIs of the callers that may use it (`principals`).
    pub fn principals(self) -> &'a [String] {
        &self.0.allowed_callers
    }

    /// The resources that managed-identity callers may request (`resources`); `None` allows any.
    pub fn resources(self) -> Option<&'a [String]> {
        self.0.resources.as_deref()
    }
}

impl<'a> DestinationSummary<'a> {
    /// Its place in the configuration.
    pub const fn config_path(self) -> ConfigPath {
        ConfigPath::Destination(self.destination.index)
    }

    /// Its name in messages.
    pub fn label(self) -> &'a str {
        &self.destination.label
    }

    /// Its hosts, such as `*.vault.azure.net` or `api.example:8443`.
    pub fn hosts(self) -> impl Iterator<Item = String> + use<'a> {
        self.destination.hosts.iter().map(ToString::to_string)
    }

    /// The word of its action.
    pub const fn action(self) -> &'static str {
        match self.destination.action {
            DestinationAction::Inject(..) => "inject",
            DestinationAction::Report(..) => "report",
            DestinationAction::Pass => "pass",
            DestinationAction::Refuse => "refuse",
        }
    }

    /// The scope of its token, if its action uses one.
    pub fn scope(self) -> Option<&'a str> {
        self.destination.action.token().map(|token| token.scope.as_str())
    }

    /// The identity whose token it uses; `None` if it uses none, or if the caller's certificate selects it.
    pub fn identity(self) -> Option<IdentitySummary<'a>> {
        match self.destination.action.token()?.owner {
            TokenOwner::Identity(index) => self.config.identities.get(index).map(IdentitySummary),
            TokenOwner::Caller => None,
        }
    }

    /// The clusters to which a request with a token may be routed; empty if there is no such condition.
    pub fn tls_clusters(self) -> &'a [String] {
        match &self.destination.action {
            DestinationAction::Inject(_, injection) | DestinationAction::Report(_, injection) => {
                &injection.settings.tls_clusters
            }
            DestinationAction::Pass | DestinationAction::Refuse => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_can_be_read_without_its_json() {
        let text = br#"{
            "identities": [{"name": "payments", "tenant_id": "11111111-1111-4111-8111-111111111111", "client_id": "aaaaaaaa-0000-4000-8000-000000000001",
                "principals": ["spiffe://a"], "resources": ["https://vault.azure.net/"]}],
            "destinations": [
                {"hosts": ["kv.example:8443"], "identity": "payments", "scope": "s/.default", "tls_clusters": ["kv"]},
                {"hosts": ["*.pass.example"], "action": "pass"}
            ]
        }"#;
        let config = Config::parse(text, &|_| None).unwrap();
        let [payments] = config.identities().collect::<Vec<_>>()[..] else { panic!("not one identity") };
        assert_eq!((payments.name(), payments.principals()), ("payments", &["spiffe://a".to_owned()][..]));
        assert_eq!(payments.resources(), Some(&["https://vault.azure.net".to_owned()][..]));
        assert_eq!(payments.client_id().unwrap(), payments.token("s/.default").unwrap().client_id());
        let [first, second] = config.destinations().collect::<Vec<_>>()[..] else { panic!("not two destinations") };
        assert_eq!(
            (first.config_path(), first.action(), first.scope()),
            (ConfigPath::Destination(0), "inject", Some("s/.default"))
        );
        assert_eq!((first.identity().unwrap().name(), first.tls_clusters()), ("payments", &["kv".to_owned()][..]));
        assert_eq!(
            (first.hosts().collect(), second.hosts().collect()),
            (vec!["kv.example:8443".to_owned()], vec!["*.pass.example".to_owned()])
        );
        assert!(
            (second.action(), second.scope(), second.identity().is_none()) == ("pass", None, true)
                && second.tls_clusters().is_empty()
        );
        assert!(first.label() != second.label());
    }
}
