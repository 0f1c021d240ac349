//! The state machine of each source.

use std::sync::Arc;
use std::time::Duration;

use super::{Assertion, Source};
use crate::http::{CallResult, HttpCall};
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// Time after the timeout of a call at which its answer is lost: the host reports a timeout a little late.
const LATE: Duration = Duration::from_secs(1);

/// A time that is longer than a turn, in which the time does not pass.
const TURN: Duration = Duration::from_millis(1);

/// The other workers of the process, from the view of one worker in one turn. They share a source's answers, and the right to ask it.
pub(crate) trait Workers {
    /// Requests the right to ask a source until `until`; `None` only asks what the other workers know. `waited_since` is the time since
    /// which this worker has waited for an answer.
    ///
    /// # Errors
    /// What to do instead, because of the other workers.
    fn claim(
        &mut self,
        source: &Source,
        waited_since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<(), Claimed>;

    /// Shares the answer of a source, which is valid until `until`, and ends the right to ask it. Returns `false`, and shares nothing, if
    /// another worker has acquired the right meanwhile.
    fn publish(&mut self, source: &Source, answer: &ReadResult, until: Timestamp) -> bool;

    /// Drops an assertion that Entra, or the source whose input it is, rejected in a call that began at `asked_at`.
    fn refuse(&mut self, source: &Source, refused: &Assertion, asked_at: Timestamp);
}

/// Why a worker does not ask a source.
pub(crate) enum Claimed {
    /// Another worker asks it, until then at most.
    Until(Timestamp),
    /// A worker got this answer.
    Answered(ReadResult),
}

/// The state machines of one worker. Sources come from the configuration, which bounds their number.
#[derive(Default)]
pub(crate) struct Assertions(Vec<Machine>);

/// A source and its state.
struct Machine {
    source: Source,
    state: State,
}

/// The state of a source. It holds a secret, so it has no `Debug`.
enum State {
    /// The source is asked when an assertion is wanted, unless the workers share its answer.
    Idle,
    /// A call is in progress; after `until` its answer is lost. `attempt` is its number, beginning with 1.
    /// `input` is the assertion that the request contains.
    Asking { attempt: u32, asked_at: Timestamp, until: Timestamp, input: Option<Arc<Assertion>> },
    /// The call begins when the assertion of the source's input is known. `attempt` is its number.
    WaitingForInput { attempt: u32, since: Timestamp },
    /// Another worker asks the source, until `until` at most.
    Deferred { since: Timestamp, until: Timestamp },
    /// The call failed, and the next one begins at `until`.
    Pausing { attempt: u32, until: Timestamp },
    /// The assertion of a source that is not shared is used again until then.
    Have { assertion: Arc<Assertion>, until: Timestamp },
    /// The source, which is not shared, is not asked again until then.
    Failing { problem: Problem, until: Timestamp },
}

/// A wait for a source.
pub(crate) struct Wait {
    pub(crate) source: Source,
    /// The call that the caller must start if this worker asks the source. Its result goes to [`Assertions::answered`].
    pub(crate) call: Option<HttpCall>,
    /// The time at which the answer comes or the wait is continued.
    pub(crate) until: Timestamp,
}

/// An assertion, or the problem of its source, which names no identity.
pub(crate) type ReadResult = Result<Arc<Assertion>, Problem>;

/// The result of a call, or of a wait.
pub(crate) struct Read {
    pub(crate) source: Source,
    pub(crate) result: ReadResult,
    /// Whether it is the result of this worker's own call.
    pub(crate) is_own: bool,
    /// The time at which the wait is continued ([`Assertions::next_due`]); `None` if this is the answer for all that wait.
    pub(crate) again_at: Option<Timestamp>,
}

impl Assertions {
    /// Returns the assertion or the failure that is known, or `None` while the source is being asked: then [`Assertions::answered`] or
    /// [`Assertions::tick`] returns the result later. Appends the wait that begins now to `waits`.
    pub(crate) fn want(
        &mut self,
        source: &Source,
        now: Timestamp,
        workers: &mut dyn Workers,
        waits: &mut Vec<Wait>,
    ) -> Option<ReadResult> {
        self.want_since(source, None, now, workers, waits)
    }

    /// Wants an assertion, for a source that has waited for it since `since` if it is an input.
    #[inline(never)]
    fn want_since(
        &mut self,
        source: &Source,
        since: Option<Timestamp>,
        now: Timestamp,
        workers: &mut dyn Workers,
        waits: &mut Vec<Wait>,
    ) -> Option<ReadResult> {
        let awaited_since = match &self.machine(source)?.state {
            State::WaitingForInput { since, .. } | State::Deferred { since, .. } => Some(*since),
            _ => None,
        };
        let known = self.advance(source, since, now, workers, waits)?;
        if let Some(since) = awaited_since {
            // Others wait for this answer too: the next tick passes it to all.
            self.machine(source)?.state = State::Deferred { since, until: now };
            return None;
        }
        Some(known)
    }

    /// Asks the source, unless the answer is known or must be waited for.
    #[inline(never)]
    fn advance(
        &mut self,
        source: &Source,
        since: Option<Timestamp>,
        now: Timestamp,
        workers: &mut dyn Workers,
        waits: &mut Vec<Wait>,
    ) -> Option<ReadResult> {
        let (attempt, since) = match &self.machine(source)?.state {
            State::Have { assertion, until } if now < *until => return Some(Ok(Arc::clone(assertion))),
            State::Failing { problem, until } if now < *until => return Some(Err(problem.clone())),
            State::Asking { until, .. } | State::Pausing { until, .. } | State::Deferred { until, .. }
                if now < *until =>
            {
                return None;
            }
            State::Pausing { attempt, .. } => (attempt + 1, since),
            State::WaitingForInput { attempt, since } => (*attempt, Some(*since)),
            State::Deferred { since, .. } => (1, Some(*since)),
            _ => (1, since),
        };
        let mut input = None;
        if let Some(of_input) = source.input() {
            // The input is not needed if another worker asks the source.
            if let Err(claimed) = workers.claim(source, since, None) {
                return self.follow(source, claimed, since.unwrap_or(now), waits);
            }
            // The configuration bounds the length of a chain, so the recursion ends.
            match self.want_since(of_input, since, now, workers, waits) {
                Some(Ok(assertion)) => input = Some(assertion),
                None => {
                    let since = since.unwrap_or(now);
                    self.machine(source)?.state = State::WaitingForInput { attempt, since };
                    return None;
                }
                Some(failure) => {
                    self.machine(source)?.state = State::Idle;
                    return Some(failure);
                }
            }
        }
        let answer_at = now.plus(source.timeout());
        let until = answer_at.plus(LATE);
        if let Err(claimed) = workers.claim(source, since, Some(until)) {
            return self.follow(source, claimed, since.unwrap_or(now), waits);
        }
        let call = source.call(input.as_deref());
        self.machine(source)?.state = State::Asking { attempt, asked_at: now, until, input };
        waits.push(Wait { source: source.clone(), call: Some(call), until: answer_at });
        None
    }

    /// Waits for another worker, or uses what it got.
    fn follow(
        &mut self,
        source: &Source,
        claimed: Claimed,
        since: Timestamp,
        waits: &mut Vec<Wait>,
    ) -> Option<ReadResult> {
        let (state, known) = match claimed {
            Claimed::Until(until) => {
                waits.push(Wait { source: source.clone(), call: None, until });
                (State::Deferred { since, until }, None)
            }
            Claimed::Answered(result) => (State::Idle, Some(result)),
        };
        self.machine(source)?.state = state;
        known
    }

    /// Returns the machine of a source, which begins with the first use of the source.
    fn machine(&mut self, source: &Source) -> Option<&mut Machine> {
        let known = self.0.iter().position(|machine| machine.source == *source);
        let index = known.unwrap_or_else(|| {
            self.0.push(Machine { source: source.clone(), state: State::Idle });
            self.0.len() - 1
        });
        self.0.get_mut(index)
    }

    /// Processes the result of a source's call, and continues with the sources whose input it is. Returns nothing if the source has no call
    /// in progress. `random` gives numbers that are uniform in 0..=u32::MAX.
    pub(crate) fn answered(
        &mut self,
        source: &Source,
        answer: CallResult,
        now: Timestamp,
        random: &mut dyn FnMut() -> u32,
        workers: &mut dyn Workers,
        waits: &mut Vec<Wait>,
    ) -> Vec<Read> {
        let known = self.0.iter_mut().find(|machine| machine.source == *source);
        let Some(read) = known.and_then(|machine| machine.answered(answer, now, random, workers)) else {
            return Vec::new();
        };
        let is_final = read.again_at.is_none();
        let mut reads = vec![read];
        if is_final {
            reads.extend(self.resume(&|state| matches!(state, State::WaitingForInput { .. }), now, workers, waits));
        }
        reads
    }

    /// Continues with the sources in these states, and with those whose input they are. Returns the results that are known at once.
    #[inline(never)]
    fn resume(
        &mut self,
        is_due: &dyn Fn(&State) -> bool,
        now: Timestamp,
        workers: &mut dyn Workers,
        waits: &mut Vec<Wait>,
    ) -> Vec<Read> {
        let mut reads = Vec::new();
        let mut due = self.those(is_due);
        while !due.is_empty() {
            let known = due.into_iter().filter_map(|source| {
                let result = self.advance(&source, None, now, workers, waits)?;
                Some(Read { source, result, is_own: false, again_at: None })
            });
            let before = reads.len();
            reads.extend(known);
            // The sources whose input has become known.
            due = if reads.len() == before {
                Vec::new()
            } else {
                self.those(&|state| matches!(state, State::WaitingForInput { .. }))
            };
        }
        reads
    }

    /// The sources in these states.
    fn those(&self, is_due: &dyn Fn(&State) -> bool) -> Vec<Source> {
        self.0.iter().filter(|machine| is_due(&machine.state)).map(|machine| machine.source.clone()).collect()
    }

    /// Drops an assertion that Entra rejected in an exchange that began at `asked_at`, so that it is not used again before another read.
    pub(crate) fn refuse(
        &mut self,
        source: &Source,
        refused: &Assertion,
        asked_at: Timestamp,
        workers: &mut dyn Workers,
    ) {
        for machine in &mut self.0 {
            let is_refused = matches!(
                &machine.state,
                State::Have { assertion, .. } if assertion.fingerprint() == refused.fingerprint()
            );
            if machine.source == *source && is_refused {
                machine.state = State::Idle;
            }
        }
        workers.refuse(source, refused, asked_at);
    }

    /// Continues the waits for other workers: one of them may have got an answer.
    pub(crate) fn woken(&mut self, now: Timestamp, workers: &mut dyn Workers, waits: &mut Vec<Wait>) -> Vec<Read> {
        for machine in &mut self.0 {
            if let State::Deferred { until, .. } = &mut machine.state {
                *until = now;
            }
        }
        self.resume(&|state| matches!(state, State::Deferred { .. }), now, workers, waits)
    }

    /// Begins the calls whose pause is over, continues the waits for other workers that are over, and forgets assertions that are no longer
    /// used. Call it at [`Assertions::next_due`].
    pub(crate) fn tick(&mut self, now: Timestamp, workers: &mut dyn Workers, waits: &mut Vec<Wait>) -> Vec<Read> {
        for machine in &mut self.0 {
            if matches!(&machine.state, State::Have { until, .. } if *until <= now) {
                machine.state = State::Idle;
            }
        }
        let is_due = |state: &State| match state {
            State::Pausing { until, .. } | State::Deferred { until, .. } => *until <= now,
            _ => false,
        };
        self.resume(&is_due, now, workers, waits)
    }

    /// The time at which [`Assertions::tick`] must be called.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let pauses = self.0.iter().filter_map(|machine| match &machine.state {
            State::Pausing { until, .. } | State::Deferred { until, .. } => Some(*until),
            _ => None,
        });
        pauses.min()
    }

    /// Moves all times back after the clock was set back.
    pub(crate) fn set_back(&mut self, by: Duration) {
        for machine in &mut self.0 {
            match &mut machine.state {
                State::Idle => {}
                State::WaitingForInput { since: at, .. }
                | State::Pausing { until: at, .. }
                | State::Have { until: at, .. }
                | State::Failing { until: at, .. } => *at = at.minus(by),
                State::Asking { asked_at: begin, until, .. } | State::Deferred { since: begin, until } => {
                    (*begin, *until) = (begin.minus(by), until.minus(by));
                }
            }
        }
    }
}

impl Machine {
    fn answered(
        &mut self,
        answer: CallResult,
        now: Timestamp,
        random: &mut dyn FnMut() -> u32,
        workers: &mut dyn Workers,
    ) -> Option<Read> {
        let State::Asking { attempt, asked_at, input, .. } = &self.state else { return None };
        let (attempt, asked_at) = (*attempt, *asked_at);
        let source = self.source.clone();
        let result = source.read(answer, input.as_deref(), now).map(Arc::new);
        if let (Err(problem), Some(of_input), Some(input)) = (&result, source.input(), input)
            && problem.code == Code::SourceRefused
        {
            workers.refuse(of_input, input, asked_at);
        }
        let pause = result.as_ref().err().and_then(|problem| source.pause_before_retry(problem, attempt, random));
        let until = match (&result, pause) {
            (Ok(assertion), _) => source.reuse_until(assertion, asked_at).min(assertion.lifetime().expires_at),
            (Err(_), Some(pause)) => now.plus(pause),
            (Err(problem), None) => now.plus(source.back_off(problem)),
        };
        let is_still_asking = match pause {
            Some(_) => workers.claim(&source, Some(asked_at), Some(until.plus(LATE))).is_ok(),
            None => workers.publish(&source, &result, until),
        };
        let (state, again_at) = match &result {
            // Another worker has begun to ask the source, or has asked it: its answer counts.
            _ if !is_still_asking => (State::Deferred { since: asked_at, until: now }, Some(now)),
            Err(_) if pause.is_some() => (State::Pausing { attempt, until }, Some(until)),
            _ if source.is_shared() => (State::Idle, None),
            Ok(assertion) => {
                // The sources whose input it is use it in this turn, however long the answer took.
                let until = until.max(now.plus(TURN));
                (State::Have { assertion: Arc::clone(assertion), until }, None)
            }
            Err(problem) => (State::Failing { problem: problem.clone(), until }, None),
        };
        self.state = state;
        Some(Read { source, result, is_own: true, again_at })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::super::tests::{NOW, claims, jwt};
    use super::*;
    use crate::http::CallResponse;

    /// A process with one worker.
    pub(crate) struct Alone;

    impl Workers for Alone {
        fn claim(&mut self, _: &Source, _: Option<Timestamp>, _: Option<Timestamp>) -> Result<(), Claimed> {
            Ok(())
        }

        fn publish(&mut self, _: &Source, _: &ReadResult, _: Timestamp) -> bool {
            true
        }

        fn refuse(&mut self, _: &Source, _: &Assertion, _: Timestamp) {}
    }

    const PAUSE: Duration = Duration::from_millis(100);

    fn source(cluster: &str) -> Source {
        Source::File { cluster: cluster.to_owned() }
    }

    fn answer(body: String) -> CallResult {
        let body = body.into_bytes();
        Ok(CallResponse { status: 200, retry_after: None, request_id: None, grpc: None, body, is_envoys_own: false })
    }

    fn a_token() -> CallResult {
        answer(jwt(&json!({"alg": "RS256"}), &claims()))
    }

    /// Asks the source, which must need a call, and gives the machine this answer.
    fn ask(machines: &mut Assertions, source: &Source, result: CallResult, now: Timestamp) -> Read {
        let mut calls = Vec::new();
        assert!(machines.want(source, now, &mut Alone, &mut calls).is_none() && calls.len() == 1);
        machines.answered(source, result, now, &mut || 0, &mut Alone, &mut Vec::new()).pop().unwrap()
    }

    fn is_known(machines: &mut Assertions, source: &Source, now: Timestamp) -> bool {
        machines.want(source, now, &mut Alone, &mut Vec::new()).is_some()
    }

    #[test]
    fn only_the_rejected_assertion_of_its_source_is_dropped() {
        let (one, other) = (source("one"), source("other"));
        let mut machines = Assertions::default();
        let read = ask(&mut machines, &one, a_token(), NOW).result.unwrap();
        ask(&mut machines, &other, a_token(), NOW);
        let another = jwt(&json!({"alg": "RS256", "kid": "x"}), &claims());
        machines.refuse(&one, &Assertion::parse(another.as_bytes(), NOW).unwrap(), NOW, &mut Alone);
        assert!(is_known(&mut machines, &one, NOW), "another assertion was rejected");
        machines.refuse(&one, &read, NOW, &mut Alone);
        assert!(is_known(&mut machines, &other, NOW), "the assertion of another source was rejected");
        assert!(!is_known(&mut machines, &one, NOW));
    }

    /// Another worker that asks the source until this time, and then has its answer.
    struct Other {
        until: Timestamp,
        answer: Option<ReadResult>,
    }

    impl Workers for Other {
        fn claim(&mut self, _: &Source, _: Option<Timestamp>, _: Option<Timestamp>) -> Result<(), Claimed> {
            Err(self.answer.clone().map_or(Claimed::Until(self.until), Claimed::Answered))
        }

        fn publish(&mut self, _: &Source, _: &ReadResult, _: Timestamp) -> bool {
            false
        }

        fn refuse(&mut self, _: &Source, _: &Assertion, _: Timestamp) {}
    }

    #[test]
    fn an_answer_of_another_worker_that_a_new_exchange_finds_is_passed_to_all_that_wait_for_it() {
        let (mut machines, mut waits, one) = (Assertions::default(), Vec::new(), source("one"));
        let mut other = Other { until: NOW.plus(PAUSE), answer: None };
        assert!(machines.want(&one, NOW, &mut other, &mut waits).is_none());
        assert!(waits.len() == 1 && waits[0].call.is_none() && machines.next_due() == Some(other.until));
        let token = jwt(&json!({"alg": "RS256"}), &claims());
        other.answer = Some(Ok(Arc::new(Assertion::parse(token.as_bytes(), NOW).unwrap())));
        let now = other.until;
        assert!(machines.want(&one, now, &mut other, &mut waits).is_none() && machines.next_due() == Some(now));
        let reads = machines.tick(now, &mut other, &mut waits);
        assert!(reads.len() == 1 && reads[0].result.is_ok() && !reads[0].is_own && reads[0].again_at.is_none());
        assert!(machines.want(&one, now, &mut other, &mut waits).is_some(), "nobody waits any more");
    }

    #[test]
    fn the_answer_to_a_worker_that_no_longer_asks_for_all_does_not_count() {
        let (mut machines, mut waits, one) = (Assertions::default(), Vec::new(), source("one"));
        assert!(machines.want(&one, NOW, &mut Alone, &mut waits).is_none());
        let mut other = Other { until: NOW.plus(PAUSE), answer: None };
        let reads = machines.answered(&one, a_token(), NOW, &mut || 0, &mut other, &mut waits);
        assert!(reads.len() == 1 && reads[0].is_own && reads[0].again_at == Some(NOW));
        assert!(machines.tick(NOW, &mut other, &mut waits).is_empty() && machines.next_due() == Some(other.until));
    }

    #[test]
    fn an_assertion_that_is_no_longer_used_is_forgotten_at_the_next_tick() {
        let one = source("one");
        let mut machines = Assertions::default();
        let read = Arc::downgrade(&ask(&mut machines, &one, a_token(), NOW).result.unwrap());
        let ends = NOW.plus(Duration::from_secs(1));
        machines.tick(ends.minus(Duration::from_millis(1)), &mut Alone, &mut Vec::new());
        assert!(read.upgrade().is_some());
        machines.tick(ends, &mut Alone, &mut Vec::new());
        assert!(read.upgrade().is_none());
    }

    #[test]
    fn a_source_is_asked_a_second_and_last_time_by_the_tick_or_by_what_wants_it() {
        for by_tick in [true, false] {
            let one = source("one");
            let mut machines = Assertions::default();
            let read = ask(&mut machines, &one, answer("half a token".to_owned()), NOW);
            assert_eq!(read.again_at, Some(NOW.plus(PAUSE)));
            let mut calls = Vec::new();
            assert!(machines.want(&one, NOW, &mut Alone, &mut calls).is_none() && calls.is_empty());
            machines.tick(NOW, &mut Alone, &mut calls);
            assert!(calls.is_empty() && machines.next_due() == Some(NOW.plus(PAUSE)));
            let now = NOW.plus(PAUSE);
            if by_tick {
                machines.tick(now, &mut Alone, &mut calls);
            } else {
                assert!(machines.want(&one, now, &mut Alone, &mut calls).is_none());
            }
            assert_eq!(calls.len(), 1);
            let torn = answer("half a token".to_owned());
            let read = machines.answered(&one, torn, now, &mut || 0, &mut Alone, &mut calls).pop().unwrap();
            assert_eq!(read.result.err().unwrap().code, Code::AssertionMalformed);
            assert!(read.again_at.is_none() && machines.next_due().is_none());
        }
    }
}
