//! The permissions of a configuration: identity, scope, hosts, callers, and by which right.

use entra_exchange_core::config::{Config, DestinationSummary, IdentitySummary};
use serde::Serialize;

use crate::check::environment::Environment;
use crate::inventory::{Configuration, named};
use crate::tree::Node;

/// By which right a token is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// A destination injects it into requests.
    Inject,
    /// A destination fetches it, and forwards requests without it.
    Report,
    /// IMDS's endpoint gives it to any process that asks.
    Imds,
    /// App Service's endpoint gives it to any process with the secret.
    AppService,
}

impl Right {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::Report => "report",
            Self::Imds => "imds",
            Self::AppService => "app_service",
        }
    }
}

/// Who may get a token for what, and where it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// The file.
    pub file: String,
    /// The identity.
    pub identity: String,
    /// Its tenant; `None` if a variable has it.
    pub tenant_id: Option<String>,
    /// Its client; `None` if a variable has it.
    pub client_id: Option<String>,
    /// The scope, or `any`.
    pub scope: String,
    /// By which right.
    pub right: Right,
    /// The hosts whose requests get the token; empty if an application gets it.
    pub hosts: Vec<String>,
    /// The methods and paths of these requests; empty for all.
    pub requests: Vec<String>,
    /// Who may use it.
    pub callers: Vec<String>,
    /// The place in the configuration.
    pub place: String,
    /// Whether the log shows that it is used; `None` without a log. For `any` scope: the scopes that are used are in `used_scopes`.
    pub used: Option<bool>,
    /// The scopes that the log shows, for a permission for any scope.
    pub used_scopes: Vec<String>,
}

/// What two permissions have in common that are the same in two versions.
pub(super) type Key = (String, Option<String>, Option<String>, String, Right, Vec<String>, Vec<String>, Vec<String>);

impl Permission {
    pub(super) fn key(&self) -> Key {
        let Self { identity, tenant_id, client_id, scope, right, hosts, requests, callers, .. } = self.clone();
        (identity, tenant_id, client_id, scope, right, hosts, requests, callers)
    }
}

/// The word for a scope that is not limited.
pub(super) const ANY: &str = "any";

pub(super) fn of(
    file: &str,
    configuration: &Configuration<'_>,
    environment: &Environment,
) -> Result<Vec<Permission>, String> {
    let config = Config::parse(configuration.text.as_bytes(), &|name| environment.assumed(name));
    let config = config.map_err(|refused| refused.to_string())?;
    let reading = Reading { file, configuration };
    let mut permissions = Vec::new();
    for destination in config.destinations() {
        match destination.identity() {
            Some(identity) => permissions.extend(reading.of_destination(destination, identity)),
            None => config
                .identities()
                .for_each(|identity| permissions.extend(reading.of_destination(destination, identity))),
        }
    }
    for (index, identity) in config.identities().enumerate() {
        permissions.extend(reading.of_endpoints(index, identity));
    }
    Ok(permissions)
}

struct Reading<'a> {
    file: &'a str,
    configuration: &'a Configuration<'a>,
}

impl Reading<'_> {
    fn of_destination(&self, destination: DestinationSummary<'_>, identity: IdentitySummary<'_>) -> Option<Permission> {
        let right = match destination.action() {
            "inject" => Right::Inject,
            "report" => Right::Report,
            _ => return None,
        };
        let place = destination.config_path().to_string();
        let node = self.configuration.destinations().find(|(index, _)| format!("destinations[{index}]") == place)?.1;
        let list = |name: &str| node.get(name).map(named).unwrap_or_default().into_iter().map(|(text, _)| text);
        let callers = if identity.principals().is_empty() {
            vec!["every client of the proxy".to_owned()]
        } else {
            identity.principals().to_vec()
        };
        Some(Permission {
            scope: destination.scope()?.to_owned(),
            right,
            hosts: destination.hosts().collect(),
            requests: list("methods").chain(list("path_prefixes")).collect(),
            callers,
            place,
            ..self.identity(identity)
        })
    }

    /// The permissions of applications that ask for a token.
    fn of_endpoints(&self, index: usize, identity: IdentitySummary<'_>) -> Vec<Permission> {
        let Some(section) = self.configuration.get("managed_identity") else { return Vec::new() };
        let is_offered = section
            .get("identities")
            .is_none_or(|listed| listed.items().any(|name| name.text() == Some(identity.name())));
        let is_answered = matches!(section.text_of("action"), None | Some("answer"));
        if !is_offered || !is_answered {
            return Vec::new();
        }
        let mut permissions = Vec::new();
        for (field, right, callers) in [
            ("imds", Right::Imds, "every process of the pod"),
            ("app_service", Right::AppService, "every process with IDENTITY_HEADER"),
        ] {
            if section.get(field).is_none() {
                continue;
            }
            let scopes = match identity.resources() {
                None => vec![ANY.to_owned()],
                Some(resources) => resources.iter().map(|resource| format!("{resource}/.default")).collect(),
            };
            permissions.extend(scopes.into_iter().map(|scope| Permission {
                scope,
                right,
                callers: vec![callers.to_owned()],
                place: format!("identities[{index}], managed_identity.{field}"),
                ..self.identity(identity)
            }));
        }
        permissions
    }

    fn identity(&self, identity: IdentitySummary<'_>) -> Permission {
        let identities = self.configuration.get("identities");
        let is_own = |node: &&Node| node.text_of("name").unwrap_or("default") == identity.name();
        let node = identities.and_then(|identities| identities.items().find(is_own));
        let text = |name: &str| node.and_then(|node| node.text_of(name)).map(str::to_owned);
        Permission {
            file: self.file.to_owned(),
            identity: identity.name().to_owned(),
            tenant_id: text("tenant_id"),
            client_id: text("client_id"),
            scope: String::new(),
            right: Right::Inject,
            hosts: Vec::new(),
            requests: Vec::new(),
            callers: Vec::new(),
            place: String::new(),
            used: None,
            used_scopes: Vec::new(),
        }
    }
}
