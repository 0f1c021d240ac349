//! Readiness of a pod: for each identity that decides, the federated token can be read and Entra accepts the credential.
//!
//! An identity is ready if the last read of its federated token, in any worker, gave a usable assertion, and if it has a usable token
//! or Entra has not rejected its credential ([`crate::entra`] lists the codes) with the federated token that is in the file now.
//! A source that issues a token for each request has no such token: there, a rejection counts for an hour.
//! Rejections of a resource, outages of Entra and 429 responses have no influence: no request from a caller can make a pod not ready,
//! and an outage does not make a pod ready.

use std::time::Duration;

use super::freshness::{self, CachedToken};
use super::store::Store;
use super::vocabulary::GRACE_PERIOD;
use crate::assertion::{Fingerprint, Source};
use crate::entra::{CredentialKey, TokenSpec};
use crate::http::Reply;
use crate::json::ObjectWriter;
use crate::metrics::{self, Measurement};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// Time for which a rejection counts if the source issues a federated token for each request. Readiness makes no exchange, and without
/// this limit, a pod that gets no requests while it is not ready would remain so.
pub(super) const REFUSAL_PERIOD: Duration = Duration::from_hours(1);

/// The identities that decide the readiness of a pod. All of them must be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub(crate) identities: Vec<Decisive>,
}

/// An identity that decides readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decisive {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// The credential to check, or the problem in the pod that makes the identity unusable.
    pub(crate) credential: Result<Credential, Problem>,
}

/// The parts of an identity's credential that readiness checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    key: CredentialKey,
    assertion: Source,
    discard_before: Option<Timestamp>,
}

impl Credential {
    /// Returns the credential with which tokens of any scope are requested.
    pub(crate) fn of(spec: &TokenSpec) -> Self {
        Self { key: spec.credential(), assertion: spec.assertion().clone(), discard_before: spec.discard_before() }
    }
}

/// The readiness of each identity that decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadinessStatus {
    /// The identities by name, in the order of the configuration, each with the problem that makes it not ready.
    identities: Vec<(String, Result<(), Problem>)>,
}

/// The result of reading the federated token.
pub(super) type Reading = Result<Fingerprint, Problem>;

impl Readiness {
    /// Returns the sources that must be read now: those whose last read failed, those that were never read, and those whose token
    /// Entra rejected, because the file may hold another token since.
    pub(super) fn unread(&self, now: Timestamp, store: &dyn Store) -> Vec<Source> {
        let mut unread: Vec<Source> = Vec::new();
        for credential in self.identities.iter().filter_map(|identity| identity.credential.as_ref().ok()) {
            let source = &credential.assertion;
            if !unread.contains(source)
                && (!store.read_source(source).readable || credential.refusal(now, store).is_some())
            {
                unread.push(source.clone());
            }
        }
        unread
    }

    /// Returns the readiness after these reads.
    pub(super) fn judge(&self, read: &[(Source, Reading)], now: Timestamp, store: &dyn Store) -> ReadinessStatus {
        let of = |identity: &Decisive| (identity.name.clone(), identity.judge(read, now, store));
        ReadinessStatus { identities: self.identities.iter().map(of).collect() }
    }
}

impl Decisive {
    /// Returns whether the identity is ready after these reads.
    ///
    /// # Errors
    /// The problem that makes it not ready.
    fn judge(&self, read: &[(Source, Reading)], now: Timestamp, store: &dyn Store) -> Result<(), Problem> {
        let credential = self.credential.as_ref().map_err(Clone::clone)?;
        let reading = read.iter().find(|(source, _)| *source == credential.assertion).map(|(_, reading)| reading);
        let in_file = match reading {
            Some(reading) => Some(reading.clone()?),
            None if store.read_source(&credential.assertion).readable => None,
            None => return Err(unread(&credential.assertion)),
        };
        match credential.refusal(now, store) {
            Some((problem, refused)) if in_file.is_none_or(|in_file| in_file == refused) => Err(problem),
            _ => Ok(()),
        }
    }
}

impl Credential {
    /// Returns the rejection that applies if the federated token is still the rejected one. There is none while a token can be sent.
    fn refusal(&self, now: Timestamp, store: &dyn Store) -> Option<(Problem, Fingerprint)> {
        let state = store.read_credential(self.key);
        let refusal = state.refusal.as_ref()?;
        // A source that issues a token for each request issues another one, but with the same claims.
        let is_past = refusal.at > now.plus(GRACE_PERIOD) || now.since(refusal.at) >= REFUSAL_PERIOD;
        if is_past && !self.assertion.holds_token() {
            return None;
        }
        if state.has_listed_token(self.discard_before, now) {
            return None;
        }
        let mut has_token = false;
        store.read_each(&state.budget.keys(), &mut |entry| {
            has_token |= entry.token.as_ref().is_some_and(|token| self.may_send(token, now));
        });
        (!has_token).then(|| (refusal.problem.clone(), refusal.assertion))
    }

    fn may_send(&self, token: &CachedToken, now: Timestamp) -> bool {
        token.is_usable(now) && !freshness::is_discarded(token.issued_at(), self.discard_before, now)
    }
}

fn unread(source: &Source) -> Problem {
    Problem::new(
        Code::AssertionUnavailable,
        format!("the federated token from cluster {:?} has not been read yet", source.cluster()),
        "Reduce the number of concurrent readiness probes: too many were waiting, so this one was answered without a read.",
    )
}

impl ReadinessStatus {
    /// Creates a status for tests.
    #[cfg(test)]
    pub(crate) const fn of(identities: Vec<(String, Result<(), Problem>)>) -> Self {
        Self { identities }
    }

    /// Returns whether the pod is ready.
    ///
    /// # Errors
    /// The problem of the first identity that is not ready. It names tenant, issuer and subject, so only callers in the pod may see it.
    pub fn outcome(&self) -> Result<(), &Problem> {
        self.identities.iter().find_map(|(_, outcome)| outcome.as_ref().err()).map_or(Ok(()), Err)
    }

    /// Returns the readiness of each identity as metrics.
    pub fn measurements(&self) -> impl Iterator<Item = Measurement> {
        self.identities.iter().map(|(identity, outcome)| metrics::ready(identity, outcome.is_ok()))
    }

    /// Returns the readiness of every identity as JSON, for callers in the pod. The response status is 200, or `not_ready` if an
    /// identity is not ready.
    pub(crate) fn verbose_reply(&self, not_ready: u16) -> Reply {
        let identities = self.identities.iter().map(|(identity, outcome)| {
            let problem = outcome.as_ref().err();
            let mut status = ObjectWriter::new();
            status.text("identity", identity).switch("ready", problem.is_none());
            if let Some(problem) = problem {
                status
                    .text("code", problem.code.as_str())
                    .text("detail", &problem.detail)
                    .text("remedy", &problem.remedy)
                    .some_text("aadsts", problem.aadsts().as_deref());
            }
            status.finish()
        });
        let ready = self.outcome().is_ok();
        let mut body = ObjectWriter::new();
        body.switch("ready", ready).list("identities", identities);
        Reply::json(if ready { 200 } else { not_ready }, "application/json", body)
    }
}
