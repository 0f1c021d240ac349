//! What the workers of one Envoy process share for each credential: whether Entra accepts it or throttles it, the budget
//! of the scopes that callers choose, and whether the federated token that proves it can be read.
//!
//! It is kept apart from the tokens' entries because it is about all of them: a refusal decides readiness whichever
//! exchange brought it, and a throttled client backs off as a whole. There are as many credentials as identities in the configuration; no caller can add one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::freshness::{self, CachedToken};
use super::shared::{self, Failure, PREFIX, Shelf, Update};
use super::{GRACE, SharedData};
use crate::assertion::{Fingerprint, Source};
use crate::entra::{CredentialKey, RetryClass, TokenKey, TokenSpec, is_of_credential};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// The number of names: each holds the credentials whose key begins so. Names cannot be removed from shared data, and a
/// compare-and-set needs a name that exists ([`shared`]).
const SHELVES: u8 = 16;

/// AADSTS700016: the tenant has no such application or managed identity.
const UNKNOWN_CLIENT: u32 = 700_016;

/// For so long after the first such refusal the client may be new.
const REPLICATION: Duration = Duration::from_secs(10 * 60);

/// How many of a credential's tokens are known: with more, the one that was known first is forgotten.
const MOST_KNOWN: usize = 256;

/// What is shared for one credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The issued token that can be sent for longest.
    #[serde(default)]
    cached: Option<Lifetime>,
    /// Whether Entra has ever issued a token to the client.
    #[serde(default)]
    client: Client,
    /// The last refusal of the credential, unless a token was issued since.
    #[serde(default)]
    refusal: Option<Refusal>,
    /// Entra throttles the client or the tenant: no exchange of the credential before its next try.
    #[serde(default)]
    throttled: Option<Failure>,
    /// The scopes that callers chose.
    #[serde(default)]
    pub(super) budget: Budget,
    /// The tokens that were exchanged in this process, the last one last, whether they are there still or not.
    #[serde(default)]
    pub(super) known: Vec<TokenKey>,
}

/// Whether Entra knows the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Client {
    /// Entra has not said yet.
    #[default]
    Untested,
    /// Entra has issued no token, and said for the first time at this time that it does not know the client.
    UnknownSince(Timestamp),
    /// Entra has issued a token.
    Accepted,
}

/// From when until when a token can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lifetime {
    issued_at: Timestamp,
    usable_until: Timestamp,
}

/// Entra refused the credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    /// The federated token that was refused.
    pub(super) assertion: Fingerprint,
}

impl State {
    fn note_issued(&mut self, cached: &CachedToken, now: Timestamp) {
        let newer = Lifetime { issued_at: cached.issued_at(), usable_until: cached.usable_until() };
        let outlasted = |known: Lifetime| known.usable_until <= newer.usable_until || !known.is_usable(None, now);
        if self.cached.is_none_or(outlasted) {
            self.cached = Some(newer);
        }
        self.refusal = None;
        self.client = Client::Accepted;
        self.throttled.take_if(|throttled| !throttled.is_backing_off(now));
    }

    /// The throttling that holds exchanges back.
    pub(super) fn throttled(&self, now: Timestamp) -> Option<&Failure> {
        self.throttled.as_ref().filter(|throttled| throttled.is_backing_off(now))
    }

    /// The refusal that counts, if the federated token is the refused one still: none while a token can be sent that is
    /// not from before `discard_before`.
    pub(super) fn refusal(&self, discard_before: Option<Timestamp>, now: Timestamp) -> Option<&Refusal> {
        let has_token = self.cached.is_some_and(|cached| cached.is_usable(discard_before, now));
        self.refusal.as_ref().filter(|_| !has_token)
    }

    /// Whether the client, which Entra says it does not know, may have been created a moment ago.
    fn is_new_client(&mut self, now: Timestamp) -> Update<bool> {
        match self.client {
            Client::Accepted => Update::Abandon(false),
            // One from the future is from before the clock was set back.
            Client::UnknownSince(since) if since <= now.plus(GRACE) => Update::Abandon(now.since(since) < REPLICATION),
            Client::Untested | Client::UnknownSince(_) => {
                self.client = Client::UnknownSince(now);
                Update::Commit(true)
            }
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.refusal.is_none()
            && self.client == Client::Untested
            && self.throttled.as_ref().is_none_or(|throttled| throttled.is_over(now))
            && self.budget.is_empty()
            && self.known.is_empty()
            && self.cached.is_none_or(|cached| !cached.is_usable(None, now))
    }
}

impl Lifetime {
    /// One from the future is from before the clock was set back, and does not count.
    fn is_usable(self, discard_before: Option<Timestamp>, now: Timestamp) -> bool {
        let discarded = freshness::is_discarded(self.issued_at, discard_before, now);
        !discarded && self.issued_at <= now.plus(GRACE) && now < self.usable_until
    }
}

fn shelf(number: u8) -> String {
    format!("{PREFIX}credential/{number:x}")
}

fn shelf_of(credential: CredentialKey) -> String {
    shelf(credential.first_byte() % SHELVES)
}

/// The sources whose last reading gave a usable federated token, by cluster.
fn readings() -> String {
    format!("{PREFIX}readings")
}

/// Makes the names that are not there yet, as [`shared::prepare`] does.
pub(super) fn prepare(shared: &dyn SharedData) {
    for name in (0..SHELVES).map(shelf).chain([readings()]) {
        if shared.get(&name).is_none() {
            shared.set(&name, shared::EMPTY, None);
        }
    }
}

/// What is shared for a credential.
pub(super) fn read(shared: &dyn SharedData, credential: CredentialKey) -> State {
    let bytes = shared.get(&shelf_of(credential)).map(|(bytes, _)| bytes).unwrap_or_default();
    shared::decode::<Shelf<CredentialKey, State>>(&bytes).take(&credential)
}

/// Changes what is shared for a credential, as [`shared::update`] does for a token.
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
            shelf.0.iter_mut().for_each(|(_, state)| state.budget.forget_past(now));
            shelf.0.retain(|(_, state)| !state.is_over(now));
            shared::encode(&shelf)
        })
    })
}

/// Notes that a token was issued: Entra accepts the credential.
pub(super) fn note_issued(shared: &dyn SharedData, spec: &TokenSpec, cached: &CachedToken, now: Timestamp) {
    update(shared, spec.credential(), now, |state| {
        let before = state.clone();
        state.note_issued(cached, now);
        if *state == before { Update::Abandon(()) } else { Update::Commit(()) }
    });
}

/// Whether the problem is that Entra refuses the credential, whatever the scope.
pub(super) fn is_refusal(problem: &Problem) -> bool {
    problem.code == Code::EntraRefused && problem.entra.aadsts.is_some_and(is_of_credential)
}

/// Notes what Entra's answer says of the credential, when it is final: also the second try, where there is one, came to
/// this. What is not a refusal of the credential says nothing of it.
pub(super) fn note_answer(
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

/// How a refusal passes. Entra does not know a client that was just created, until all of its servers do: for the first
/// minutes that refusal is one that passes, unless Entra issued a token to the client before.
pub(super) fn passing_of(
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

/// Notes that a token was exchanged. Returns whether it is the first time in this process.
pub(super) fn note_known(shared: &dyn SharedData, spec: &TokenSpec, now: Timestamp) -> bool {
    let noted = update(shared, spec.credential(), now, |state| {
        if state.known.contains(&spec.key()) {
            return Update::Abandon(false);
        }
        state.known.push(spec.key());
        if state.known.len() > MOST_KNOWN {
            state.known.remove(0);
        }
        Update::Commit(true)
    });
    noted.unwrap_or_default()
}

/// Notes that Entra throttles, and gives the back-off of all exchanges of the credential: how many in a row it
/// throttled. `wait` says how long to wait after so many. An exchange that began before the back-off does not
/// lengthen the row.
pub(super) fn note_throttled(
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

/// Whether the last reading of the source, in whichever worker, gave a usable federated token.
pub(super) fn is_readable(shared: &dyn SharedData, source: &Source) -> bool {
    let bytes = shared.get(&readings()).map(|(bytes, _)| bytes).unwrap_or_default();
    readable(&bytes).iter().any(|cluster| cluster == source.cluster())
}

/// Notes what the last reading of the source gave. It is written only when it changes.
pub(super) fn note_reading(shared: &dyn SharedData, source: &Source, usable: bool) {
    shared::update_value(shared, &readings(), &mut |bytes| {
        let mut clusters = readable(bytes);
        let known = clusters.iter().position(|cluster| cluster == source.cluster());
        match (known, usable) {
            (None, true) => clusters.push(source.cluster().to_owned()),
            (Some(index), false) => drop(clusters.swap_remove(index)),
            (Some(_), true) | (None, false) => return None,
        }
        Some(shared::encode(&clusters))
    });
}

fn readable(bytes: &[u8]) -> Vec<String> {
    shared::decode(bytes)
}
