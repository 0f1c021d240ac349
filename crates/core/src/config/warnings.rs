//! Warnings about settings that are valid but probably not intended.

use super::types::{Destination, DestinationAction, Identity, ManagedIdentity, TokenOwner};
use crate::azure;
use crate::broker::{Limits, UnlistedLimits};
use crate::host::HostPattern;
use crate::path;

/// The owner of the token that a destination's requests get.
pub(super) fn owner(destination: &Destination) -> Option<TokenOwner> {
    destination.action.token().map(|token| token.owner)
}

/// Whether a destination or the managed-identity endpoint uses the identity with this index.
pub(super) fn uses(index: usize, destinations: &[Destination], managed_identity: Option<&ManagedIdentity>) -> bool {
    let by_destination = |destination: &Destination| match owner(destination) {
        Some(TokenOwner::Identity(used)) => used == index,
        Some(TokenOwner::Caller) => true,
        None => false,
    };
    destinations.iter().any(by_destination) || managed_identity.is_some_and(|answers| answers.offered.contains(&index))
}

/// Warns about identities that neither a destination nor the managed-identity endpoint uses.
pub(super) fn unused_identities(
    identities: &[Identity],
    destinations: &[Destination],
    managed_identity: Option<&ManagedIdentity>,
) -> Vec<String> {
    let unused = identities.iter().enumerate().filter(|(index, _)| !uses(*index, destinations, managed_identity));
    let named = unused.map(|(_, Identity { index, name, .. })| {
        format!("identities[{index}] ({name}) is not used by any destination or by managed_identity")
    });
    named.collect()
}

/// Warns about identities that managed-identity callers cannot select by client id, because another has the same one.
pub(super) fn identities_with_one_client_id(
    identities: &[Identity],
    managed_identity: Option<&ManagedIdentity>,
) -> Vec<String> {
    let offered = managed_identity.map(|answers| answers.offered.as_slice()).unwrap_or_default();
    let offered: Vec<&Identity> = offered.iter().filter_map(|index| identities.get(*index)).collect();
    let mut warnings = Vec::new();
    for (count, identity) in offered.iter().enumerate() {
        let Ok(client_id) = identity.client_id() else { continue };
        let before = offered.iter().take(count).find(|other| other.client_id().is_ok_and(|id| id == client_id));
        if let Some(before) = before.filter(|before| before.index != identity.index) {
            warnings.push(format!(
                "identities[{}] ({}) and identities[{}] ({}) have the same client_id, so managed-identity callers cannot \
                 select one by it: set object_id or resource_id on both, and have callers select by that",
                before.index, before.name, identity.index, identity.name
            ));
        }
    }
    warnings
}

/// Warns about environment variables that are missing or not valid, each once. Requests that need them are rejected with the same
/// text.
pub(super) fn invalid_variables(identities: &[Identity], managed_identity: Option<&ManagedIdentity>) -> Vec<String> {
    let of_identities = identities.iter().filter_map(|identity| identity.client.as_ref().err());
    let secret = managed_identity.and_then(|answers| answers.app_service.as_ref()?.secret.as_ref().err());
    let mut warnings: Vec<String> = Vec::new();
    for problem in of_identities.chain(secret) {
        let warning = format!("{}. {}", problem.detail, problem.remedy);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings
}

/// Warns about destinations that refuse a path on a host with an OData API while another destination injects a token for nearly
/// all other paths. The same resource has other paths (`/users('id')`, another version), and the body of `$batch` contains paths.
pub(super) fn evaded_refusals(destinations: &[Destination]) -> Vec<String> {
    let mut warnings = Vec::new();
    for refusal in destinations.iter().filter(|destination| matches!(destination.action, DestinationAction::Refuse)) {
        for host in refusal.hosts.iter().filter(|host| azure::speaks_odata(&sample(host))) {
            let evaded_by = |other: &&Destination| {
                let is_above = |prefix: &String| {
                    // A version is at most the first segment, and `$batch` is directly below it.
                    prefix.matches('/').count() <= 1
                        && refusal
                            .path_prefixes
                            .iter()
                            .any(|refused| refused != prefix && path::is_within(refused.as_bytes(), prefix.as_bytes()))
                };
                owner(other).is_some()
                    && other.hosts.iter().any(|other| overlap(host, other))
                    && other.path_prefixes.iter().any(is_above)
            };
            if let Some(wide) = destinations.iter().find(evaded_by) {
                let (refusal, wide) = (refusal.index, wide.index);
                warnings.push(format!(
                    "destinations[{refusal}] refuses paths on {:?}, which has an OData API, but destinations[{wide}] still allows access: \
                     the same resource has other paths (POST /$batch, /users('id'), another version). List the allowed paths and \
                     methods in path_prefixes and methods of destinations[{wide}] instead",
                    host.name()
                ));
            }
        }
    }
    warnings
}

/// A host that matches the pattern.
fn sample(host: &HostPattern) -> String {
    host.name().replacen('*', "x", 1)
}

/// Whether a host can match both patterns.
fn overlap(one: &HostPattern, other: &HostPattern) -> bool {
    let covers = |pattern: &HostPattern, host: &HostPattern| {
        let parent = host.host.name.split_once('.').map(|(_, parent)| parent);
        pattern.wildcard && !host.wildcard && parent == Some(&*pattern.host.name)
    };
    one.name() == other.name() || covers(one, other) || covers(other, one)
}

/// Warns if the scopes that callers request for the first time within a minute can take the places of all kept ones.
pub(super) fn places_for_new_scopes(limits: UnlistedLimits) -> Option<String> {
    let UnlistedLimits { scopes, new_per_minute, .. } = limits;
    (new_per_minute >= scopes).then(|| {
        format!(
            "managed_identity.limits.new_scopes_per_minute ({new_per_minute}) is not lower than unlisted_scopes ({scopes}): callers \
             that request new scopes can make the filter drop scopes that are in use; lower it, or raise unlisted_scopes"
        )
    })
}

/// Warns if a request stops waiting before the exchange that it waits for can end.
pub(super) fn short_wait(limits: &Limits) -> Option<String> {
    (limits.wait < limits.exchange).then(|| {
        let (wait, exchange) = (humantime::format_duration(limits.wait), humantime::format_duration(limits.exchange));
        format!(
            "limits.wait ({wait}) is shorter than limits.exchange ({exchange}): a request is answered with 504 while its exchange \
             still runs; set wait to at least {exchange}"
        )
    })
}
