//! The state that the workers of one Envoy process share for each credential: whether Entra accepts or throttles it, the budget of
//! unlisted scopes, and whether its federated token can be read.
//!
//! It is separate from the tokens' entries because it concerns all tokens of the credential: a rejection decides readiness whichever
//! exchange received it, and throttling backs off all exchanges of the client. Each identity in the configuration has one
//! credential; callers cannot add any.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::freshness::{self, CachedToken};
use super::shared::{self, Failure, PREFIX, Shelf, Update};
use super::vocabulary::{GRACE_PERIOD, SharedData};
use crate::assertion::{Fingerprint, Source};
use crate::entra::{CredentialKey, RetryClass, TokenKey, TokenSpec, is_of_credential};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// The number of shelves. Each holds the credentials whose key falls to it. Names cannot be removed from shared data, and a
/// compare-and-set needs an existing name ([`shared`]).
const SHELVES: u8 = 16;

/// AADSTS700016: the tenant has no application or managed identity with this client id.
const UNKNOWN_CLIENT: u32 = 700_016;

/// Time after the first such rejection during which the client may be new and not yet replicated in Entra.
const REPLICATION: Duration = Duration::from_mins(10);

/// Maximum number of known tokens of a credential. Beyond it the oldest is removed.
const MAX_KNOWN: usize = 256;

/// The shared state of one credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The issued token that can be sent for the longest time.
    #[serde(default)]
    cached: Option<Lifetime>,
    /// Whether Entra has ever issued a token to the client.
    #[serde(default)]
    client: Client,
    /// The last rejection of the credential, unless a token was issued since.
    #[serde(default)]
    refusal: Option<Refusal>,
    /// Throttling of the client or tenant. The credential makes no exchange before its next attempt.
    #[serde(default)]
    throttled: Option<Failure>,
    /// The budget of unlisted scopes.
    #[serde(default)]
    pub(super) budget: Budget,
    /// The tokens that this process has exchanged, oldest first, including tokens that are no longer cached.
    #[serde(default)]
    pub(super) known: Vec<TokenKey>,
}

/// Whether Entra knows a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Client {
    /// Entra has not responded yet.
    #[default]
    Untested,
    /// Entra has issued no token, and first rejected the client as unknown at this time.
    UnknownSince(Timestamp),
    /// Entra has issued a token.
    Accepted,
}

/// The times between which a token can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lifetime {
    issued_at: Timestamp,
    usable_until: Timestamp,
}

/// A rejection of the credential by Entra.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    /// The rejected federated token.
    pub(super) assertion: Fingerprint,
}

impl State {
    fn record_issued(&mut self, cached: &CachedToken, now: Timestamp) {
        let newer = Lifetime { issued_at: cached.issued_at(), usable_until: cached.usable_until() };
        let outlasted = |known: Lifetime| known.usable_until <= newer.usable_until || !known.is_usable(None, now);
        if self.cached.is_none_or(outlasted) {
            self.cached = Some(newer);
        }
        self.refusal = None;
        self.client = Client::Accepted;
        self.throttled.take_if(|throttled| !throttled.is_backing_off(now));
    }

    /// Returns the throttling that is in effect.
    pub(super) fn throttled(&self, now: Timestamp) -> Option<&Failure> {
        self.throttled.as_ref().filter(|throttled| throttled.is_backing_off(now))
    }

    /// Returns the rejection that applies if the federated token is still the rejected one. There is none while a token can be sent
    /// that was issued at or after `discard_before`.
    pub(super) fn refusal(&self, discard_before: Option<Timestamp>, now: Timestamp) -> Option<&Refusal> {
        let has_token = self.cached.is_some_and(|cached| cached.is_usable(discard_before, now));
        self.refusal.as_ref().filter(|_| !has_token)
    }

    /// Returns whether a client that Entra rejects as unknown may have been created only recently.
    fn is_new_client(&mut self, now: Timestamp) -> Update<bool> {
        match self.client {
            Client::Accepted => Update::Abandon(false),
            // A time in the future dates from before the clock was set back.
            Client::UnknownSince(since) if since <= now.plus(GRACE_PERIOD) => {
                Update::Abandon(now.since(since) < REPLICATION)
            }
            Client::Untested | Client::UnknownSince(_) => {
                self.client = Client::UnknownSince(now);
                Update::Commit(true)
            }
        }
    }

    /// Whether nothing in it has an effect. A client to which Entra has issued a token is remembered.
    fn is_expired(&self, now: Timestamp) -> bool {
        self.refusal.is_none()
            && self.client == Client::Untested
            && self.throttled.as_ref().is_none_or(|throttled| throttled.is_expired(now))
            && self.budget.is_empty()
            && self.known.is_empty()
    }
}

impl Lifetime {
    /// A token with an issue time in the future dates from before the clock was set back and is not usable.
    fn is_usable(self, discard_before: Option<Timestamp>, now: Timestamp) -> bool {
        let discarded = freshness::is_discarded(self.issued_at, discard_before, now);
        !discarded && self.issued_at <= now.plus(GRACE_PERIOD) && now < self.usable_until
    }
}

fn shelf(number: u8) -> String {
    format!("{PREFIX}credential/{number:x}")
}

fn shelf_of(credential: CredentialKey) -> String {
    shelf(credential.first_byte() % SHELVES)
}

/// The name of the list of clusters whose last read gave a usable federated token.
fn readings() -> String {
    format!("{PREFIX}readings")
}

/// Creates the missing names, as [`shared::prepare`] does.
pub(super) fn prepare(shared: &dyn SharedData) {
    for name in (0..SHELVES).map(shelf).chain([readings()]) {
        if shared.get(&name).is_none() {
            shared.set(&name, shared::EMPTY, None);
        }
    }
}

/// Reads the shared state of a credential.
pub(super) fn read(shared: &dyn SharedData, credential: CredentialKey) -> State {
    let bytes = shared.get(&shelf_of(credential)).map(|(bytes, _)| bytes).unwrap_or_default();
    shared::decode::<Shelf<CredentialKey, State>>(&bytes).take(&credential)
}

/// Updates the shared state of a credential, as [`shared::update`] does for a token.
pub(super) fn update<T>(
    shared: &dyn SharedData,
    credential: CredentialKey,
    now: Timestamp,
    change: impl FnMut(&mut State) -> Update<T>,
) -> Option<T> {
    shared::with_result(change, |change| update_state(shared, credential, now, change))
}

fn update_state(
    shared: &dyn SharedData,
    credential: CredentialKey,
    now: Timestamp,
    change: &mut dyn FnMut(&mut State) -> bool,
) -> bool {
    shared::update_value(shared, &shelf_of(credential), &mut |bytes| {
        let mut shelf: Shelf<CredentialKey, State> = shared::decode(bytes);
        shelf.change(credential, &mut *change).then(|| {
            shelf.0.iter_mut().for_each(|(_, state)| state.budget.remove_expired(now));
            shelf.0.retain(|(_, state)| !state.is_expired(now));
            shared::encode(&shelf)
        })
    })
}

/// Records that Entra issued a token, and so accepts the credential.
pub(super) fn record_issued(shared: &dyn SharedData, spec: &TokenSpec, cached: &CachedToken, now: Timestamp) {
    update(shared, spec.credential(), now, |state| {
        let before = state.clone();
        state.record_issued(cached, now);
        if *state == before { Update::Abandon(()) } else { Update::Commit(()) }
    });
}

/// Returns whether the problem is a rejection of the credential, which does not depend on the scope.
pub(super) fn is_refusal(problem: &Problem) -> bool {
    problem.code == Code::EntraRefused && problem.entra.aadsts.is_some_and(is_of_credential)
}

/// Records a problem if it is a rejection of the credential. Call it only with the final result of an exchange, after the retry if
/// there is one.
pub(super) fn record_refusal(
    shared: &dyn SharedData,
    spec: &TokenSpec,
    problem: &Problem,
    assertion: Fingerprint,
    now: Timestamp,
) {
    if is_refusal(problem) {
        update(shared, spec.credential(), now, |state| {
            state.refusal = Some(Refusal { problem: problem.clone(), assertion });
            Update::Commit(())
        });
    }
}

/// Returns the retry class of a rejection. Entra rejects a new client as unknown until it is replicated to all servers, so this
/// rejection is transient for the first minutes, unless Entra has issued a token to the client before.
pub(super) fn retry_class_of(
    shared: &dyn SharedData,
    spec: &TokenSpec,
    problem: &Problem,
    retry_class: RetryClass,
    now: Timestamp,
) -> RetryClass {
    if problem.entra.aadsts != Some(UNKNOWN_CLIENT) || retry_class != RetryClass::NeedsChange {
        return retry_class;
    }
    let is_new = update(shared, spec.credential(), now, |state| state.is_new_client(now));
    if is_new == Some(true) { RetryClass::Immediate } else { retry_class }
}

/// Records that a token was exchanged. Returns whether it is the first time in this process.
pub(super) fn record_known(shared: &dyn SharedData, spec: &TokenSpec, now: Timestamp) -> bool {
    let noted = update(shared, spec.credential(), now, |state| {
        if state.known.contains(&spec.key()) {
            return Update::Abandon(false);
        }
        state.known.push(spec.key());
        if state.known.len() > MAX_KNOWN {
            state.known.remove(0);
        }
        Update::Commit(true)
    });
    noted.unwrap_or_default()
}

/// Records that Entra throttles the credential, and backs off all of its exchanges. `wait` returns the back-off after a number of
/// consecutive throttled exchanges. Returns that number; an exchange that began before the current back-off does not increase it.
pub(super) fn record_throttling(
    shared: &dyn SharedData,
    spec: &TokenSpec,
    problem: &Problem,
    now: Timestamp,
    wait: impl Fn(u32) -> Duration,
) -> u32 {
    let noted = update(shared, spec.credential(), now, |state| {
        let before = state.throttled.as_ref().map_or(0, |throttled| throttled.failures);
        let active = state.throttled(now);
        let failures = if active.is_some() { before } else { before.saturating_add(1) };
        let next_try = now.plus(wait(failures)).max(active.map_or(now, |throttled| throttled.next_try));
        let class = RetryClass::Throttled;
        state.throttled = Some(Failure { problem: problem.clone(), class, failed_at: now, next_try, failures });
        Update::Commit(failures)
    });
    noted.unwrap_or(1)
}

/// Returns whether the last read of the source, in any worker, gave a usable federated token.
pub(super) fn is_readable(shared: &dyn SharedData, source: &Source) -> bool {
    let bytes = shared.get(&readings()).map(|(bytes, _)| bytes).unwrap_or_default();
    readable(&bytes).iter().any(|cluster| cluster == source.id())
}

/// Records whether the last read of the source gave a usable federated token. Writes only changes.
pub(super) fn record_reading(shared: &dyn SharedData, source: &Source, usable: bool) {
    shared::update_value(shared, &readings(), &mut |bytes| {
        let mut clusters = readable(bytes);
        let known = clusters.iter().position(|cluster| cluster == source.id());
        match (known, usable) {
            (None, true) => clusters.push(source.id().to_owned()),
            (Some(index), false) => drop(clusters.swap_remove(index)),
            (Some(_), true) | (None, false) => return None,
        }
        Some(shared::encode(&clusters))
    });
}

fn readable(bytes: &[u8]) -> Vec<String> {
    shared::decode(bytes)
}
