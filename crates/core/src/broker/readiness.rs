//! Whether a pod is ready: for each identity that decides, the federated token can be read and Entra accepts the
//! credential.
//!
//! An identity is ready when the last reading of its federated token, in whichever worker, gave a usable assertion, and
//! it has a usable token or Entra's last word on its credential was not a refusal
//! ([`crate::entra`] lists the codes) of the federated token that is in the file now. A refusal of a resource, an
//! outage of Entra and a 429 change nothing: no request that a caller can send makes a pod unready, and a pod that is
//! not ready does not become ready because Entra cannot be reached either.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::credential;
use super::{Broker, Command, READ_TIMEOUT, SharedData, StreamId};
use crate::assertion::{Fingerprint, Source};
use crate::entra::{CredentialKey, TokenSpec};
use crate::http::{CallResult, Reply};
use crate::metrics::{self, Measurement};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// The identities that decide: all of them must be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub(crate) identities: Vec<Decisive>,
}

/// One identity that decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decisive {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// What is checked, or what is missing in the pod.
    pub(crate) credential: Result<Credential, Problem>,
}

/// What is checked of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    key: CredentialKey,
    assertion: Source,
    discard_before: Option<Timestamp>,
}

impl Credential {
    /// What the tokens of any scope are asked for with.
    pub(crate) fn of(spec: &TokenSpec) -> Self {
        Self { key: spec.credential(), assertion: spec.assertion().clone(), discard_before: spec.discard_before() }
    }
}

/// Whether each identity that decides is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadinessStatus {
    /// The identities by name, in the order of the configuration, each with what it lacks.
    identities: Vec<(String, Result<(), Problem>)>,
}

/// What a reading of the federated token came to.
type Reading = Result<Fingerprint, Problem>;

/// A check that waits for federated tokens to be read.
struct Waiting {
    stream: StreamId,
    readiness: Arc<Readiness>,
    unread: Vec<Source>,
    read: Vec<(Source, Reading)>,
}

/// The checks that wait for federated tokens to be read.
#[derive(Default)]
pub(super) struct Checks {
    waiting: Vec<Waiting>,
    /// What is being read for them, and until when.
    reading: Vec<(Source, Timestamp)>,
}

impl Checks {
    pub(super) fn forget(&mut self, stream: StreamId) {
        self.waiting.retain(|waiting| waiting.stream != stream);
    }

    pub(super) fn set_back(&mut self, by: Duration) {
        for (_, until) in &mut self.reading {
            *until = until.minus(by);
        }
    }
}

impl Broker {
    /// Checks readiness. `None` when the request is to pause: [`Broker::check`] must be called soon, where calls can be made,
    /// and [`Command::Checked`] will name the request. No token is ever asked for.
    pub fn ready(
        &mut self,
        readiness: &Arc<Readiness>,
        stream: StreamId,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Option<ReadinessStatus> {
        self.observe_clock(now);
        let unread = readiness.unread(now, shared);
        // Each holds a stream, as a request that waits for a token does: beyond the limit what is known is told.
        if unread.is_empty() || self.checks.waiting.len() >= self.limits.waiting {
            return Some(readiness.judge(&[], now, shared));
        }
        self.checks.waiting.push(Waiting { stream, readiness: Arc::clone(readiness), unread, read: Vec::new() });
        None
    }

    /// Reads the federated tokens for the checks that wait for them, except those that are being read.
    pub fn start_probe(&mut self, now: Timestamp) -> Vec<Command> {
        let checks = &mut self.checks;
        checks.reading.retain(|(_, until)| now < *until);
        let mut commands = Vec::new();
        for source in checks.waiting.iter().flat_map(|waiting| &waiting.unread) {
            if checks.reading.iter().all(|(reading, _)| reading != source) {
                checks.reading.push((source.clone(), now.plus(READ_TIMEOUT)));
                commands.push(Command::ReadForCheck(source.clone()));
            }
        }
        commands
    }

    /// The answer to [`Command::ReadForCheck`].
    pub fn check_answered(
        &mut self,
        source: &Source,
        answer: CallResult,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Vec<Command> {
        self.observe_clock(now);
        let assertion = source.read(answer, now);
        let word = assertion.as_ref().err().map_or("read", |problem| problem.code.as_str());
        let mut commands = vec![Command::Measure(metrics::assertion_read(word))];
        if let Ok(assertion) = &assertion {
            self.observed.note_reading(source, assertion.lifetime(), now, &mut commands);
        }
        let reading = assertion.map(|assertion| assertion.fingerprint());
        let checks = &mut self.checks;
        // A reading that only the gauges asked for makes no pod unready: its access tokens may last for hours.
        if reading.is_ok() || checks.waiting.iter().any(|waiting| waiting.unread.contains(source)) {
            credential::note_reading(shared, source, reading.is_ok());
        }
        checks.reading.retain(|(other, _)| other != source);
        checks.waiting.retain_mut(|waiting| {
            if let Some(index) = waiting.unread.iter().position(|other| other == source) {
                waiting.read.push((waiting.unread.swap_remove(index), reading.clone()));
            }
            if waiting.unread.is_empty() {
                let status = waiting.readiness.judge(&waiting.read, now, shared);
                commands.push(Command::Checked(waiting.stream, status));
            }
            !waiting.unread.is_empty()
        });
        commands
    }
}

impl Readiness {
    /// The sources that must be read now: those whose last reading failed, or that nobody read yet, and those whose
    /// token Entra refused, because another may be in the file since.
    fn unread(&self, now: Timestamp, shared: &dyn SharedData) -> Vec<Source> {
        let mut unread: Vec<Source> = Vec::new();
        for credential in self.identities.iter().filter_map(|identity| identity.credential.as_ref().ok()) {
            let source = &credential.assertion;
            if !unread.contains(source)
                && (!credential::is_readable(shared, source) || credential.refusal(now, shared).is_some())
            {
                unread.push(source.clone());
            }
        }
        unread
    }

    /// What is known after these readings.
    fn judge(&self, read: &[(Source, Reading)], now: Timestamp, shared: &dyn SharedData) -> ReadinessStatus {
        let of = |identity: &Decisive| (identity.name.clone(), identity.judge(read, now, shared));
        ReadinessStatus { identities: self.identities.iter().map(of).collect() }
    }
}

impl Decisive {
    /// Whether it is ready, after these readings.
    fn judge(&self, read: &[(Source, Reading)], now: Timestamp, shared: &dyn SharedData) -> Result<(), Problem> {
        let credential = self.credential.as_ref().map_err(Clone::clone)?;
        let reading = read.iter().find(|(source, _)| *source == credential.assertion).map(|(_, reading)| reading);
        let in_file = match reading {
            Some(reading) => Some(reading.clone()?),
            None if credential::is_readable(shared, &credential.assertion) => None,
            None => return Err(unread(&credential.assertion)),
        };
        match credential.refusal(now, shared) {
            Some((problem, refused)) if in_file.is_none_or(|in_file| in_file == refused) => Err(problem),
            _ => Ok(()),
        }
    }
}

impl Credential {
    fn refusal(&self, now: Timestamp, shared: &dyn SharedData) -> Option<(Problem, Fingerprint)> {
        let state = credential::read(shared, self.key);
        state.refusal(self.discard_before, now).map(|refusal| (refusal.problem.clone(), refusal.assertion))
    }
}

fn unread(source: &Source) -> Problem {
    Problem::new(
        Code::AssertionUnavailable,
        format!("the federated token from cluster {:?} has not been read yet", source.cluster()),
        "Check that few callers ask for readiness at a time: this one was answered without a reading.",
    )
}

/// What a verbose reply says of one identity.
#[derive(Serialize)]
struct IdentityStatus<'a> {
    identity: &'a str,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aadsts: Option<String>,
}

#[derive(Serialize)]
struct VerboseBody<'a> {
    ready: bool,
    identities: Vec<IdentityStatus<'a>>,
}

impl ReadinessStatus {
    /// For tests.
    #[cfg(test)]
    pub(crate) const fn of(identities: Vec<(String, Result<(), Problem>)>) -> Self {
        Self { identities }
    }

    /// Whether the pod is ready, or what the first identity that is not ready lacks.
    ///
    /// # Errors
    /// The problem names tenant, issuer and subject: it is for callers in the pod.
    pub fn outcome(&self) -> Result<(), &Problem> {
        self.identities.iter().find_map(|(_, outcome)| outcome.as_ref().err()).map_or(Ok(()), Err)
    }

    /// Whether each identity that decides is ready, as metrics.
    pub fn measurements(&self) -> impl Iterator<Item = Measurement> {
        self.identities.iter().map(|(identity, outcome)| metrics::ready(identity, outcome.is_ok()))
    }

    /// Every identity that decides, as JSON for callers in the pod: `not_ready` is the status while one is not ready.
    pub(crate) fn verbose_reply(&self, not_ready: u16) -> Reply {
        let identities = self.identities.iter().map(|(identity, outcome)| {
            let problem = outcome.as_ref().err();
            IdentityStatus {
                identity,
                ready: problem.is_none(),
                code: problem.map(|problem| problem.code.as_str()),
                detail: problem.map(|problem| problem.detail.as_str()),
                remedy: problem.map(|problem| problem.remedy.as_str()),
                aadsts: problem.and_then(Problem::aadsts),
            }
        });
        let ready = self.outcome().is_ok();
        let body = VerboseBody { ready, identities: identities.collect() };
        Reply::json(if ready { 200 } else { not_ready }, "application/json", &body)
    }
}
