//! The sources of federated tokens that all workers share: one of them asks a source, and all use its answer.
//!
//! A source's entry in the store has the form of a token's: the lease of the worker that asks, the workers to wake, and then the token or
//! the failure with its back-off. A source that each worker reads itself has none ([`Source::is_shared`]).

use super::store::{Lease, SourceState, Update, update_source};
use super::vocabulary::{CONTENTION_RETRY_DELAY, QueueId, WorkerId};
use super::{Broker, Command, Turn};
use crate::assertion::{Assertion, Claimed, ReadResult, Source, Workers};
use crate::problem::Problem;
use crate::time::Timestamp;

/// The workers of the process, from the view of one of them in one turn.
pub(super) struct Sharing<'a, 't> {
    worker: WorkerId,
    queue: QueueId,
    serves_requests: bool,
    turn: &'a mut Turn<'t>,
}

impl Broker {
    /// The other workers, from the view of this one.
    pub(super) const fn sharing<'a, 't>(&self, turn: &'a mut Turn<'t>) -> Sharing<'a, 't> {
        Sharing { worker: self.worker, queue: self.queue, serves_requests: self.serves_requests, turn }
    }

    /// Whether this VM serves no requests and cannot read the token: internal listeners do not respond to its calls.
    pub(super) const fn is_unreadable_here(&self, problem: &Problem) -> bool {
        problem.is_unreached && !self.serves_requests
    }
}

impl Workers for Sharing<'_, '_> {
    fn claim(
        &mut self,
        source: &Source,
        waited_since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<(), Claimed> {
        if !source.is_shared() {
            return Ok(());
        }
        let (own, now) = ((self.worker, self.queue), self.turn.now);
        let claim = update_source(self.turn.store, source, now, |state| {
            if let Some(answer) = state.answer(source, waited_since, now) {
                return Update::Abandon(Err(Claimed::Answered(answer)));
            }
            // A lease that ends now is acquired only to find out whether another worker holds one.
            match Lease::acquire(&mut state.lease, own, until.unwrap_or(now), now) {
                Ok(()) => Update::commit_if(until.is_some(), Ok(())),
                Err((waits, until)) => Update::commit_if(waits, Err(Claimed::Until(until))),
            }
        });
        claim.unwrap_or_else(|| Err(Claimed::Until(now.plus(CONTENTION_RETRY_DELAY))))
    }

    fn publish(&mut self, source: &Source, answer: &ReadResult, until: Timestamp) -> bool {
        if !source.is_shared() {
            return true;
        }
        let (worker, now) = (self.worker, self.turn.now);
        // Another worker may be able to read the token that this VM cannot read.
        let is_shared = self.serves_requests || !answer.as_ref().is_err_and(|problem| problem.is_unreached);
        let released = update_source(self.turn.store, source, now, |state: &mut SourceState| {
            let waiting = Lease::release(&mut state.lease, worker);
            if is_shared {
                state.record(answer, until, now);
            }
            Update::commit_if(waiting.is_some(), waiting)
        });
        let Some(waiting) = released.flatten() else { return false };
        self.turn.commands.extend(waiting.into_iter().map(Command::Nudge));
        true
    }

    fn refuse(&mut self, source: &Source, refused: &Assertion, asked_at: Timestamp) {
        if source.is_shared() {
            update_source(self.turn.store, source, self.turn.now, |state| state.refuse(refused, asked_at));
        }
    }
}
