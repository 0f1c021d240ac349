//! Reads the sections of a configuration into a [`Config`].

use super::assertions::AssertionFields;
use super::destinations::DestinationFields;
use super::entra::EntraFields;
use super::fields::fields;
use super::fingerprint::Fingerprint;
use super::identities::IdentityFields;
use super::log::{Log, LogFields};
use super::managed_identity::ManagedIdentityFields;
use super::object::{Field, Object};
use super::reader::{Mistakes, Value};
use super::settings::{TOKEN, is_token};
use super::shapes::{Count, Hosts, Length, List, Text};
use super::treatment::TreatmentFields;
use super::types::{Config, Destination, Identity, ManagedIdentity, Status, TokenOwner};
use super::warnings::{self, owner};
use super::{assertions, destinations, entra, identities, managed_identity};
use crate::broker::Limits;
use crate::fast_map::FastMap;

/// The hosts and the path of the status page if `status` does not set them.
const STATUS_HOSTS: &[&str] = &["127.0.0.1", "localhost"];
const STATUS_PATH: &str = "/entra-exchange/status";

/// The prefix of the headers that Envoy sets, if its bootstrap sets no other.
const HEADER_PREFIX: &str = "x-envoy";

fields! {
    /// The configuration of entra-exchange, the Envoy filter that gives a workload its Microsoft Entra token.
    pub(super) Root, any_of(&["destinations", "managed_identity"]) {
        /// the token endpoint, and the Envoy clusters for it
        entra: EntraFields;
        /// the tenants and clients that tokens are requested for
        identities: List<IdentityFields>,
            unset("an identity named `default`, created from the environment variables `AZURE_TENANT_ID` and `AZURE_CLIENT_ID`"),
            rule("if", r#"{"minItems":2}"#), rule("then", r#"{"items":{"required":["name"]}}"#);
        /// where federated tokens are read
        assertions: List<AssertionFields>;
        /// the settings of all destinations that do not set them
        defaults: TreatmentFields;
        /// which outbound requests get which token
        destinations: List<DestinationFields>;
        /// local endpoints (IMDS, App Service) at which apps request tokens, and health checks
        managed_identity: ManagedIdentityFields;
        /// a page that shows the state of each token
        status: StatusFields;
        /// timeouts, and the number of waiting requests
        limits: LimitFields;
        /// the levels of log lines, and the value for access logs
        log: LogFields;
        /// the `header_prefix` of Envoy's bootstrap, if it has one: by the header `<prefix>-original-url` the filter recognizes an
        /// [internal redirect](destinations.md#differences-between-the-placements)
        header_prefix: Text, default(HEADER_PREFIX), pattern(TOKEN);
        /// the address of this schema, for editors. The filter ignores it
        schema as "$schema": Text;
    }
}

fields! {
    /// The status page.
    pub(super) StatusFields {
        /// the hosts at which the page is served, on any port
        hosts: Hosts, default(STATUS_HOSTS);
        /// the path of the page
        path: Text, default(STATUS_PATH), pattern("^/[^?#]*$");
    }
}

fields! {
    /// Timeouts, and the number of waiting requests.
    pub(super) LimitFields {
        /// timeout of one exchange with Entra, through all of `entra.clusters` together, from 1s to 60s
        exchange: Length<{ Limits::LONGEST_EXCHANGE.as_secs() }>, default(Limits::default().exchange);
        /// how long a request waits for a token; as an upstream HTTP filter, also for its connection; from 1s to 300s. A value
        /// shorter than `limits.exchange` is accepted with a warning
        wait: Length<{ Limits::LONGEST_WAIT.as_secs() }>, default(Limits::default().wait);
        /// how many requests may wait in one worker, for tokens and connections together. With several identities, those of one may wait
        /// while they are fewer than the places that are left; from 1 to 1000000
        waiting: Count<1_000_000>, default(Limits::default().waiting);
    }
}

/// Reads all sections. The result is only valid if no mistakes were added.
pub(super) fn read(
    root: Value<'_, '_>,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Option<Config> {
    let root = Object::<Root>::read(root, mistakes)?;
    root.schema().read(mistakes);
    let entra = entra::read(&root.entra(), variable, mistakes);
    let assertions = assertions::read(&root.assertions(), entra.authority.as_ref().ok(), variable, mistakes);
    let identities = identities::read(&root.identities(), &entra, &assertions, variable, mistakes);
    let managed_identity = managed_identity::read(&root.managed_identity(), &identities, variable, mistakes);
    let (defaults, destinations) = (root.defaults(), root.destinations());
    let destinations =
        destinations::read(&defaults, &destinations, &identities, entra.cloud(), managed_identity.as_ref(), mistakes);
    if !root.destinations().is_set() && !root.managed_identity().is_set() {
        mistakes.add("", "the configuration is empty: add destinations, managed_identity, or both");
    }
    check_principals(&identities, &destinations, managed_identity.as_ref(), mistakes);
    let status = read_status(&root.status(), mistakes);
    let unlisted = managed_identity.as_ref().map(|answers| answers.limits).unwrap_or_default();
    let limits = Limits { unlisted, identities: identities.len(), ..read_limits(&root.limits(), mistakes) };
    let mut warnings = Vec::new();
    // The identity that is created implicitly need not be used.
    if root.identities().is_set() {
        warnings.extend(warnings::unused_identities(&identities, &destinations, managed_identity.as_ref()));
    }
    warnings.extend(warnings::identities_with_one_client_id(&identities, managed_identity.as_ref()));
    warnings.extend(warnings::evaded_refusals(&destinations));
    warnings.extend(warnings::short_wait(&limits));
    warnings.extend(warnings::places_for_new_scopes(limits.unlisted));
    warnings.extend(warnings::invalid_variables(&identities, managed_identity.as_ref()));
    warnings.extend(managed_identity.iter().flat_map(managed_identity::warnings));
    let mut log = Log::default();
    if let Some(object) = root.log().read(mistakes) {
        log.set(&object, mistakes);
    }
    Some(Config {
        fingerprint: Fingerprint::default(),
        identities,
        destinations,
        managed_identity,
        status,
        limits,
        log,
        original_url: format!("{}-original-url", read_header_prefix(&root.header_prefix(), mistakes)),
        warnings,
    })
}

fn read_status(section: &Field<'_, '_, StatusFields>, mistakes: &mut Mistakes) -> Option<Status> {
    let object = section.read(mistakes)?;
    let path = object.path();
    let text = path.read(mistakes).unwrap_or(STATUS_PATH);
    if !text.starts_with('/') || text.contains(['?', '#']) {
        path.mistake(format!("{text:?} is not a valid path: write a path such as {STATUS_PATH:?}"), mistakes);
    }
    Some(Status { hosts: object.hosts().hosts(STATUS_HOSTS, mistakes), path: text.to_owned() })
}

/// Reads the prefix of the headers that Envoy sets, in lower case.
fn read_header_prefix(field: &Field<'_, '_, Text>, mistakes: &mut Mistakes) -> String {
    let prefix = field.read(mistakes).unwrap_or(HEADER_PREFIX);
    if !is_token(prefix) {
        field.mistake(
            format!("{prefix:?} is not a valid header prefix: write the header_prefix of Envoy's bootstrap, such as \"x-acme\""),
            mistakes,
        );
    }
    prefix.to_ascii_lowercase()
}

fn read_limits(section: &Field<'_, '_, LimitFields>, mistakes: &mut Mistakes) -> Limits {
    let defaults = Limits::default();
    let Some(object) = section.read(mistakes) else { return defaults };
    Limits {
        exchange: object.exchange().read(mistakes).unwrap_or(defaults.exchange),
        wait: object.wait().read(mistakes).unwrap_or(defaults.wait),
        waiting: object.waiting().read(mistakes).unwrap_or(defaults.waiting),
        ..defaults
    }
}

/// Checks that no identity with principals is available to managed-identity callers, whose certificates are not known, and that
/// each caller has one identity if a destination selects the identity by caller.
fn check_principals(
    identities: &[Identity],
    destinations: &[Destination],
    managed_identity: Option<&ManagedIdentity>,
    mistakes: &mut Mistakes,
) {
    for index in managed_identity.map(|answers| answers.offered.as_slice()).unwrap_or_default() {
        if let Some(identity) = identities.get(*index).filter(|identity| !identity.allowed_callers.is_empty()) {
            mistakes.add(
                format!("identities[{}].principals", identity.index),
                "cannot be checked for managed-identity callers, which present no certificate: remove the identity from \
                 managed_identity.identities",
            );
        }
    }
    let by_caller = destinations.iter().find(|destination| owner(destination) == Some(TokenOwner::Caller));
    let Some(by_caller) = by_caller.map(|destination| destination.index) else { return };
    let mut owners: FastMap<&str, &str> = FastMap::default();
    for identity in identities {
        for (number, principal) in identity.allowed_callers.iter().enumerate() {
            if let Some(other) = owners.insert(principal, &identity.name) {
                mistakes.add(
                    format!("identities[{}].principals[{number}]", identity.index),
                    format!(
                        "{principal:?} is also a principal of {other:?}, and destinations[{by_caller}] sets no identity: remove it \
                         from one of the two, or set identity on each destination"
                    ),
                );
            }
        }
    }
}
