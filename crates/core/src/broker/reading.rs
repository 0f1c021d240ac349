//! The federated tokens that exchanges, readiness probes and gauges wait for.
//!
//! All of them want an assertion from its source's state machine ([`crate::assertion`]). This module starts the calls that the machine
//! needs, and passes each result to everything that waits for it.

use std::sync::Arc;

use super::exchange::Failed;
use super::slot::{Attempt, EndpointCall, Exchange, Slot};
use super::store::record_reading;
use super::vocabulary::GRACE_PERIOD;
use super::{Broker, Command, Purpose, Store, Turn};
use crate::assertion::{Read, ReadResult, Source, Wait};
use crate::entra::{TokenKey, TokenRequest};
use crate::http::CallResult;
use crate::metrics;
use crate::time::Timestamp;

impl Broker {
    /// Wants an assertion from its source, and starts the call that this needs. Returns `None` if the result comes later.
    pub(super) fn want(&mut self, source: &Source, turn: &mut Turn<'_>) -> Option<ReadResult> {
        let (now, mut waits) = (turn.now, Vec::new());
        let mut workers = self.sharing(turn);
        let wanted = self.assertions.want(source, now, &mut workers, &mut waits);
        self.start(waits, turn);
        wanted
    }

    /// Continues the waits for sources that other workers ask. Call it after a wake-up.
    pub(crate) fn continue_sources(&mut self, now: Timestamp, store: &dyn Store) -> Vec<Command> {
        self.observe_clock(now);
        let (mut turn, mut waits) = (Turn::new(now, store), Vec::new());
        let mut workers = self.sharing(&mut turn);
        let reads = self.assertions.woken(now, &mut workers, &mut waits);
        self.sources_read(&reads, waits, &mut turn);
        turn.commands
    }

    /// Begins the calls to sources whose pause is over, and continues the waits for other workers that are over.
    pub(super) fn ask_again(&mut self, turn: &mut Turn<'_>) {
        let (now, mut waits) = (turn.now, Vec::new());
        let mut workers = self.sharing(turn);
        let reads = self.assertions.tick(now, &mut workers, &mut waits);
        self.sources_read(&reads, waits, turn);
    }

    /// Begins these waits for sources, and passes these results to everything that waits for them.
    #[inline(never)]
    fn sources_read(&mut self, reads: &[Read], waits: Vec<Wait>, turn: &mut Turn<'_>) {
        self.start(waits, turn);
        for read in reads {
            self.assertion_read(read, turn);
        }
    }

    /// Starts calls to sources, and extends the leases of the exchanges that wait for them.
    #[inline(never)]
    fn start(&mut self, waits: Vec<Wait>, turn: &mut Turn<'_>) {
        for Wait { source, call, until } in waits {
            if let Some(call) = call {
                turn.commands.push(Command::Call(Purpose::Assertion(source.clone()), call));
            }
            self.extend_leases(&source, until, turn);
        }
    }

    /// Extends the leases of the exchanges that wait for this source, if they end before its next answer.
    fn extend_leases(&mut self, source: &Source, answer_at: Timestamp, turn: &mut Turn<'_>) {
        for key in self.waiting_for(source) {
            self.with_slot(key, turn, |broker, slot, turn| broker.extend_lease(slot, answer_at, turn));
        }
    }

    /// Extends the lease of an exchange that waits for an assertion, if it ends before the answer comes.
    fn extend_lease(&mut self, slot: &mut Slot, answer_at: Timestamp, turn: &mut Turn<'_>) {
        let lasts_until = answer_at.plus(GRACE_PERIOD);
        if slot.exchange.until().is_some_and(|until| until < lasts_until) && self.renew(slot, lasts_until, turn) {
            slot.exchange.extend(lasts_until);
        }
    }

    /// The keys whose exchanges wait for an assertion that depends on this source, in the order of their timers.
    fn waiting_for(&self, source: &Source) -> Vec<TokenKey> {
        let waits = |key: &TokenKey| {
            self.slots
                .get(*key)
                .is_some_and(|slot| slot.exchange.is_reading() && slot.spec.assertion().depends_on(source))
        };
        self.timers.iter().map(|(_, key)| *key).filter(waits).collect()
    }

    /// Makes the exchange of a key wait for its assertion, for which the lease lasts, or continues with the known one.
    pub(super) fn await_assertion(&mut self, slot: &mut Slot, exchange: Exchange, turn: &mut Turn<'_>) {
        slot.exchange = exchange;
        let (now, mut waits) = (turn.now, Vec::new());
        let mut workers = self.sharing(turn);
        let wanted = self.assertions.want(slot.spec.assertion(), now, &mut workers, &mut waits);
        // The call may be that of an input, which may take longer than the source itself.
        for Wait { until, .. } in &waits {
            self.extend_lease(slot, *until, turn);
        }
        self.start(waits, turn);
        let Some(read) = wanted else { return };
        if let Ok(assertion) = &read {
            self.observe_reading(&slot.spec, assertion.lifetime(), turn);
        }
        self.assertion_came(slot, &read, turn);
    }

    /// Processes the answer of a source.
    pub(super) fn assertion_answered(&mut self, source: &Source, answer: CallResult, turn: &mut Turn<'_>) {
        let (now, mut waits) = (turn.now, Vec::new());
        let mut workers = self.sharing(turn);
        let random = &mut self.random;
        let reads = self.assertions.answered(source, answer, now, &mut || random.next(), &mut workers, &mut waits);
        self.sources_read(&reads, waits, turn);
    }

    /// Passes the result of a source to everything that waits for it.
    fn assertion_read(&mut self, read: &Read, turn: &mut Turn<'_>) {
        let Read { source, result, is_own, again_at } = read;
        // A VM that serves no requests can never read the token, so its attempt must not be measured.
        if *is_own && !result.as_ref().is_err_and(|problem| self.is_unreadable_here(problem)) {
            let outcome = result.as_ref().err().map_or("read", |problem| problem.code.as_str());
            turn.commands.push(Command::Measure(metrics::assertion_read(source.kind(), outcome)));
        }
        if let Some(at) = again_at {
            return self.extend_leases(source, *at, turn);
        }
        let keys = self.waiting_for(source);
        let keys =
            keys.into_iter().filter(|key| self.slots.get(*key).is_some_and(|slot| slot.spec.assertion() == source));
        let keys: Vec<TokenKey> = keys.collect();
        if let Ok(assertion) = result {
            record_reading(turn.store, source, true, turn.now);
            for slot in keys.iter().filter_map(|key| self.slots.get(*key)) {
                self.observed.add(&slot.spec);
            }
            self.observed.record_reading(source, assertion.lifetime(), turn.now, &mut turn.commands);
        }
        for key in keys {
            self.with_slot(key, turn, |broker, slot, turn| broker.assertion_came(slot, result, turn));
        }
        self.continue_probes(source, result, turn);
    }

    /// Continues the exchange of a key that waits for its assertion.
    fn assertion_came(&mut self, slot: &mut Slot, read: &ReadResult, turn: &mut Turn<'_>) {
        let (attempt, since, is_comparison) = match slot.exchange {
            Exchange::Reading { attempt, since, .. } => (attempt, since, false),
            Exchange::Comparing { since, .. } => (Attempt::First, since, true),
            _ => return,
        };
        match read {
            Ok(assertion) => {
                slot.unreadable = 0;
                if !is_comparison || self.ends_back_off(slot, assertion.fingerprint(), turn) {
                    let request = TokenRequest::new(&slot.spec, assertion);
                    let (assertion, asked_at) = (Arc::clone(assertion), turn.now);
                    self.call(slot, EndpointCall { attempt, asked_at, assertion, request, cluster_index: 0 }, turn);
                }
            }
            Err(problem) if self.is_unreadable_here(problem) => self.yield_to_workers(slot, turn),
            Err(problem) => {
                record_reading(turn.store, slot.spec.assertion(), false, turn.now);
                if is_comparison {
                    return self.end_comparison(slot, turn);
                }
                let retry_after = problem.retry_after;
                let problem = problem.clone().about(slot.spec.identity(), slot.spec.scope());
                self.fail(slot, Failed { retry_after, ..Failed::transient(problem, since) }, turn);
            }
        }
    }
}
