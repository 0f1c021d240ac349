//! Whether a pod is ready: its federated token can be read, and Entra does not refuse its identity for good.

use std::time::Duration;

use super::shared;
use super::{Broker, Command, READ_TIMEOUT, SharedData, StreamId};
use crate::assertion::Source;
use crate::http::CallResult;
use crate::metrics;
use crate::problem::Problem;
use crate::time::Timestamp;

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// What must have been read, here or for an exchange.
    pub(crate) assertion: Source,
    /// Not all of these may be refused, by their last exchange.
    pub(crate) identities: Vec<String>,
}

/// The checks that wait for the federated token to be read.
#[derive(Default)]
pub(super) struct Checks {
    waiting: Vec<StreamId>,
    /// What is to be read for them, or is being read until then.
    source: Option<Source>,
    reading_until: Option<Timestamp>,
    /// Whether one was ever read here.
    pub(super) has_read: bool,
}

impl Checks {
    pub(super) fn forget(&mut self, stream: StreamId) {
        self.waiting.retain(|waiting| *waiting != stream);
    }

    pub(super) fn set_back(&mut self, by: Duration) {
        self.reading_until = self.reading_until.map(|until| until.minus(by));
    }
}

impl Broker {
    /// Checks whether what must hold does; `None` when the request is to pause: [`Broker::check`] must be called soon, where
    /// calls can be made, and [`Command::Checked`] will name it. No token is ever asked for.
    pub fn ready(
        &mut self,
        readiness: &Readiness,
        stream: StreamId,
        now: Timestamp,
        shared: &dyn SharedData,
    ) -> Option<Result<(), Problem>> {
        self.notice(now);
        let refusals: Option<Vec<Problem>> =
            readiness.identities.iter().map(|identity| shared::refusal(shared, identity)).collect();
        if let Some(problem) = refusals.and_then(|refusals| refusals.into_iter().next()) {
            return Some(Err(problem));
        }
        if self.checks.has_read {
            return Some(Ok(()));
        }
        self.checks.waiting.push(stream);
        self.checks.source = Some(readiness.assertion.clone());
        None
    }

    /// Reads the federated token for the checks that wait for it, unless that is under way.
    pub fn check(&mut self, now: Timestamp) -> Vec<Command> {
        let checks = &mut self.checks;
        if checks.waiting.is_empty() || checks.reading_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let Some(source) = checks.source.clone() else { return Vec::new() };
        checks.reading_until = Some(now.plus(READ_TIMEOUT));
        vec![Command::ReadForCheck(source)]
    }

    /// The answer to [`Command::ReadForCheck`].
    pub fn check_answered(&mut self, source: &Source, answer: CallResult, now: Timestamp) -> Vec<Command> {
        self.notice(now);
        let outcome = source.read(answer, now).map(|_| ());
        let word = outcome.as_ref().err().map_or("read", |problem| problem.code.as_str());
        let checks = &mut self.checks;
        checks.has_read |= outcome.is_ok();
        checks.reading_until = None;
        let mut commands = vec![Command::Measure(metrics::assertion_read(word))];
        commands.extend(checks.waiting.drain(..).map(|stream| Command::Checked(stream, outcome.clone())));
        commands
    }
}
