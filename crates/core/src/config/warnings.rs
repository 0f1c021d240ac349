//! What is allowed but probably not meant.

use super::{Destination, DestinationAction, Identity, ManagedIdentity, TokenOwner};
use crate::azure;
use crate::broker::Limits;
use crate::host::HostPattern;
use crate::path;

/// Whose token a destination's requests get.
pub(super) fn owner(destination: &Destination) -> Option<TokenOwner> {
    destination.action.token().map(|token| token.owner)
}

/// Whether a destination or the managed-identity endpoint uses the identity at this place.
pub(super) fn uses(index: usize, destinations: &[Destination], managed_identity: Option<&ManagedIdentity>) -> bool {
    let by_destination = |destination: &Destination| match owner(destination) {
        Some(TokenOwner::Identity(used)) => used == index,
        Some(TokenOwner::Caller) => true,
        None => false,
    };
    destinations.iter().any(by_destination) || managed_identity.is_some_and(|answers| answers.offered.contains(&index))
}

/// Identities that nothing uses.
pub(super) fn unused_identities(
    identities: &[Identity],
    destinations: &[Destination],
    managed_identity: Option<&ManagedIdentity>,
) -> Vec<String> {
    let unused = identities.iter().enumerate().filter(|(index, _)| !uses(*index, destinations, managed_identity));
    let named = unused.map(|(_, Identity { index, name, .. })| {
        format!("identities[{index}] ({name}) is used by no destination and not on offer")
    });
    named.collect()
}

/// Identities on offer that callers cannot tell apart by their client ids.
pub(super) fn alike_identities(identities: &[Identity], managed_identity: Option<&ManagedIdentity>) -> Vec<String> {
    let offered = managed_identity.map(|answers| answers.offered.as_slice()).unwrap_or_default();
    let offered: Vec<&Identity> = offered.iter().filter_map(|index| identities.get(*index)).collect();
    let mut warnings = Vec::new();
    for (count, identity) in offered.iter().enumerate() {
        let Ok(client_id) = identity.client_id() else { continue };
        let before = offered.iter().take(count).find(|other| other.client_id().is_ok_and(|id| id == client_id));
        if let Some(before) = before.filter(|before| before.index != identity.index) {
            warnings.push(format!(
                "identities[{}] ({}) and identities[{}] ({}) are on offer with one client_id, by which callers cannot select: \
                 have them select by object_id or resource_id, and set these at both",
                before.index, before.name, identity.index, identity.name
            ));
        }
    }
    warnings
}

/// What is wrong with variables, each once. Requests that need them are rejected with the same words.
pub(super) fn wrong_variables(identities: &[Identity], managed_identity: Option<&ManagedIdentity>) -> Vec<String> {
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

/// Rules that refuse a path on a host that speaks OData, beside one that uses a token for nearly all paths there. The same
/// resource has other paths (`/users('id')`, another version), and `$batch` has them in its body.
pub(super) fn evaded_refusals(destinations: &[Destination]) -> Vec<String> {
    let mut warnings = Vec::new();
    for refusal in destinations.iter().filter(|destination| matches!(destination.action, DestinationAction::Refuse)) {
        for host in refusal.hosts.iter().filter(|host| azure::speaks_odata(&sample(host))) {
            let evaded_by = |other: &&Destination| {
                let is_above = |prefix: &String| {
                    // A version is the first segment at most, and `$batch` is right below it.
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
                    "destinations[{refusal}] refuses paths on {:?}, which speaks OData, and does not restrict access beside \
                     destinations[{wide}]: the same resource has other paths (POST /$batch, /users('id'), another version); \
                     list in destinations[{wide}].path_prefixes and methods what may be reached instead",
                    host.name()
                ));
            }
        }
    }
    warnings
}

/// A host that the pattern is for.
fn sample(host: &HostPattern) -> String {
    host.name().replacen('*', "x", 1)
}

/// Whether there is a host that both patterns are for.
fn overlap(one: &HostPattern, other: &HostPattern) -> bool {
    let covers = |pattern: &HostPattern, host: &HostPattern| {
        let parent = host.host.name.split_once('.').map(|(_, parent)| parent);
        pattern.wildcard && !host.wildcard && parent == Some(&*pattern.host.name)
    };
    one.name() == other.name() || covers(one, other) || covers(other, one)
}

/// A request that gives up before the exchange that it waits for can end.
pub(super) fn short_wait(limits: &Limits) -> Option<String> {
    (limits.wait < limits.exchange).then(|| {
        let (wait, exchange) = (humantime::format_duration(limits.wait), humantime::format_duration(limits.exchange));
        format!(
            "limits.wait ({wait}) is shorter than limits.exchange ({exchange}): a request is answered with 504 while its exchange \
             still runs; set wait to at least {exchange}"
        )
    })
}
