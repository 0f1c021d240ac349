//! What exchanges record about their credential, for all workers.

use std::time::Duration;

use super::freshness::CachedToken;
use super::store::{Store, Update, update_credential};
use crate::assertion::Fingerprint;
use crate::entra::{RetryClass, TokenSpec, is_of_credential};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// AADSTS700016: the tenant has no application or managed identity with this client id.
const UNKNOWN_CLIENT: u32 = 700_016;

/// Records that Entra issued a token, and so accepts the credential.
pub(super) fn record_issued(store: &dyn Store, spec: &TokenSpec, cached: &CachedToken, now: Timestamp) {
    update_credential(store, spec.credential(), now, |state| {
        let before = state.clone();
        state.record_issued(Some(cached).filter(|_| spec.is_listed()), now);
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
    store: &dyn Store,
    spec: &TokenSpec,
    problem: &Problem,
    assertion: Fingerprint,
    now: Timestamp,
) {
    if is_refusal(problem) {
        update_credential(store, spec.credential(), now, |state| {
            state.record_refusal(problem.clone(), assertion, now);
            Update::Commit(())
        });
    }
}

/// Returns the retry class of a rejection. Entra rejects a new client as unknown until it is replicated to all servers, so this
/// rejection is transient for the first minutes, unless Entra has issued a token to the client before.
pub(super) fn retry_class_of(
    store: &dyn Store,
    spec: &TokenSpec,
    problem: &Problem,
    retry_class: RetryClass,
    now: Timestamp,
) -> RetryClass {
    if problem.entra.aadsts != Some(UNKNOWN_CLIENT) || retry_class != RetryClass::NeedsChange {
        return retry_class;
    }
    let is_new = update_credential(store, spec.credential(), now, |state| state.is_new_client(now));
    if is_new == Some(true) { RetryClass::Immediate } else { retry_class }
}

/// Records that a token was exchanged. Returns whether it is the first time in this process.
pub(super) fn record_known(store: &dyn Store, spec: &TokenSpec, now: Timestamp) -> bool {
    let is_new = update_credential(store, spec.credential(), now, |state| state.record_known(spec.key()));
    is_new.unwrap_or_default()
}

/// Records that Entra throttles the credential, and backs off all of its exchanges. `wait` returns the back-off after a number of
/// consecutive throttled exchanges. Returns that number.
pub(super) fn record_throttling(
    store: &dyn Store,
    spec: &TokenSpec,
    problem: &Problem,
    now: Timestamp,
    wait: &dyn Fn(u32) -> Duration,
) -> u32 {
    let failures = update_credential(store, spec.credential(), now, |state| {
        Update::Commit(state.record_throttling(problem, now, wait))
    });
    failures.unwrap_or(1)
}
