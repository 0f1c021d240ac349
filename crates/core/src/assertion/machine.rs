//! The state machine of each source.

use std::sync::Arc;
use std::time::Duration;

use super::{Assertion, Fingerprint, Source};
use crate::http::{CallResult, HttpCall};
use crate::problem::Problem;
use crate::time::Timestamp;

/// Time after the timeout of a call at which its answer is lost: the host reports a timeout a little late.
const LATE: Duration = Duration::from_secs(1);

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
    /// The source is asked when an assertion is wanted.
    Idle,
    /// A call is in progress; after `until` its answer is lost. `attempt` is its number, beginning with 1.
    /// `input` is the assertion that the request contains.
    Asking { attempt: u32, asked_at: Timestamp, until: Timestamp, input: Option<Arc<Assertion>> },
    /// The call begins when the assertion of the source's input is known. `attempt` is its number.
    WaitingForInput { attempt: u32 },
    /// The call failed, and the next one begins at `until`.
    Pausing { attempt: u32, until: Timestamp },
    /// The assertion is used again until then.
    Have { assertion: Arc<Assertion>, until: Timestamp },
    /// The source is not asked again until then.
    Failing { problem: Problem, until: Timestamp },
}

/// A call that the caller must start. Its result goes to [`Assertions::answered`].
pub(crate) struct AssertionCall {
    /// The source that is asked.
    pub(crate) source: Source,
    /// The call.
    pub(crate) call: HttpCall,
}

/// An assertion, or the problem of its source, which names no identity.
pub(crate) type ReadResult = Result<Arc<Assertion>, Problem>;

/// The result of a call, or of a wait for the input of one.
pub(crate) struct Read {
    pub(crate) source: Source,
    pub(crate) result: ReadResult,
    /// The time at which the source is asked again ([`Assertions::next_due`]); `None` if this is the answer for all that wait.
    pub(crate) again_at: Option<Timestamp>,
}

impl Assertions {
    /// Returns the assertion or the failure that is known, or `None` while the source is being asked: then [`Assertions::answered`] or
    /// [`Assertions::tick`] returns the result later. Appends the call to start, if one is needed, to `calls`.
    pub(crate) fn want(
        &mut self,
        source: &Source,
        now: Timestamp,
        calls: &mut Vec<AssertionCall>,
    ) -> Option<ReadResult> {
        let attempt = match &self.machine(source)?.state {
            State::Have { assertion, until } if now < *until => return Some(Ok(Arc::clone(assertion))),
            State::Failing { problem, until } if now < *until => return Some(Err(problem.clone())),
            State::Asking { until, .. } | State::Pausing { until, .. } if now < *until => return None,
            State::Pausing { attempt, .. } => attempt + 1,
            State::WaitingForInput { attempt } => *attempt,
            _ => 1,
        };
        // The configuration bounds the length of a chain, so the recursion ends.
        let input = match source.input().map(|input| self.want(input, now, calls)) {
            None => None,
            Some(Some(Ok(assertion))) => Some(assertion),
            Some(unknown) => {
                let failure = unknown.and_then(Result::err);
                self.machine(source)?.state =
                    if failure.is_some() { State::Idle } else { State::WaitingForInput { attempt } };
                return failure.map(Err);
            }
        };
        let call = source.call(input.as_deref());
        let until = now.plus(call.timeout).plus(LATE);
        self.machine(source)?.state = State::Asking { attempt, asked_at: now, until, input };
        calls.push(AssertionCall { source: source.clone(), call });
        None
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
        calls: &mut Vec<AssertionCall>,
    ) -> Vec<Read> {
        let known = self.0.iter_mut().find(|machine| machine.source == *source);
        let Some(read) = known.and_then(|machine| machine.answered(answer, now, random)) else { return Vec::new() };
        let is_final = read.again_at.is_none();
        let mut reads = vec![read];
        if is_final {
            reads.extend(self.resume(|state| matches!(state, State::WaitingForInput { .. }), now, calls));
        }
        reads
    }

    /// Continues with the sources in these states. Returns the results that are known at once.
    fn resume(&mut self, is_due: impl Fn(&State) -> bool, now: Timestamp, calls: &mut Vec<AssertionCall>) -> Vec<Read> {
        let due = self.0.iter().filter(|machine| is_due(&machine.state)).map(|machine| machine.source.clone());
        let due: Vec<Source> = due.collect();
        let known = due.into_iter().filter_map(|source| {
            let result = self.want(&source, now, calls)?;
            Some(Read { source, result, again_at: None })
        });
        known.collect()
    }

    /// Drops an assertion that Entra rejected, so that it is not used again before another read.
    pub(crate) fn refuse(&mut self, source: &Source, refused: Fingerprint) {
        for machine in &mut self.0 {
            let is_refused =
                matches!(&machine.state, State::Have { assertion, .. } if assertion.fingerprint() == refused);
            if machine.source == *source && is_refused {
                machine.state = State::Idle;
            }
        }
    }

    /// Begins the calls whose pause is over, and forgets assertions that are no longer used. Call it at [`Assertions::next_due`].
    pub(crate) fn tick(&mut self, now: Timestamp, calls: &mut Vec<AssertionCall>) -> Vec<Read> {
        for machine in &mut self.0 {
            if matches!(&machine.state, State::Have { until, .. } if *until <= now) {
                machine.state = State::Idle;
            }
        }
        self.resume(|state| matches!(state, State::Pausing { until, .. } if *until <= now), now, calls)
    }

    /// The time at which [`Assertions::tick`] must be called.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let pauses = self.0.iter().filter_map(|machine| match &machine.state {
            State::Pausing { until, .. } => Some(*until),
            _ => None,
        });
        pauses.min()
    }

    /// Moves all times back after the clock was set back.
    pub(crate) fn set_back(&mut self, by: Duration) {
        for machine in &mut self.0 {
            match &mut machine.state {
                State::Idle | State::WaitingForInput { .. } => {}
                State::Asking { asked_at, until, .. } => {
                    (*asked_at, *until) = (asked_at.minus(by), until.minus(by));
                }
                State::Pausing { until, .. } | State::Have { until, .. } | State::Failing { until, .. } => {
                    *until = until.minus(by);
                }
            }
        }
    }
}

impl Machine {
    fn answered(&mut self, answer: CallResult, now: Timestamp, random: &mut dyn FnMut() -> u32) -> Option<Read> {
        let State::Asking { attempt, asked_at, input, .. } = &self.state else { return None };
        let (attempt, asked_at) = (*attempt, *asked_at);
        let source = self.source.clone();
        let result = source.read(answer, input.as_deref(), now).map(Arc::new);
        let (state, again_at) = match &result {
            Ok(assertion) => {
                let until = source.reuse_until(assertion, asked_at).min(assertion.lifetime().expires_at);
                (State::Have { assertion: Arc::clone(assertion), until }, None)
            }
            Err(problem) => match source.pause_before_retry(problem, attempt, random) {
                Some(pause) => {
                    let until = now.plus(pause);
                    (State::Pausing { attempt, until }, Some(until))
                }
                None => {
                    let until = now.plus(source.back_off(problem));
                    (State::Failing { problem: problem.clone(), until }, None)
                }
            },
        };
        self.state = state;
        Some(Read { source, result, again_at })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{NOW, claims, jwt};
    use super::*;
    use crate::http::CallResponse;
    use crate::problem::Code;

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
        assert!(machines.want(source, now, &mut calls).is_none() && calls.len() == 1);
        machines.answered(source, result, now, &mut || 0, &mut Vec::new()).pop().unwrap()
    }

    fn is_known(machines: &mut Assertions, source: &Source, now: Timestamp) -> bool {
        machines.want(source, now, &mut Vec::new()).is_some()
    }

    #[test]
    fn only_the_rejected_assertion_of_its_source_is_dropped() {
        let (one, other) = (source("one"), source("other"));
        let mut machines = Assertions::default();
        let read = ask(&mut machines, &one, a_token(), NOW).result.unwrap();
        ask(&mut machines, &other, a_token(), NOW);
        let another = jwt(&json!({"alg": "RS256", "kid": "x"}), &claims());
        machines.refuse(&one, Assertion::parse(another.as_bytes(), NOW).unwrap().fingerprint());
        assert!(is_known(&mut machines, &one, NOW), "another assertion was rejected");
        machines.refuse(&one, read.fingerprint());
        assert!(is_known(&mut machines, &other, NOW), "the assertion of another source was rejected");
        assert!(!is_known(&mut machines, &one, NOW));
    }

    #[test]
    fn an_assertion_that_is_no_longer_used_is_forgotten_at_the_next_tick() {
        let one = source("one");
        let mut machines = Assertions::default();
        let read = Arc::downgrade(&ask(&mut machines, &one, a_token(), NOW).result.unwrap());
        let ends = NOW.plus(Duration::from_secs(1));
        machines.tick(ends.minus(Duration::from_millis(1)), &mut Vec::new());
        assert!(read.upgrade().is_some());
        machines.tick(ends, &mut Vec::new());
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
            assert!(machines.want(&one, NOW, &mut calls).is_none() && calls.is_empty());
            machines.tick(NOW, &mut calls);
            assert!(calls.is_empty() && machines.next_due() == Some(NOW.plus(PAUSE)));
            let now = NOW.plus(PAUSE);
            if by_tick {
                machines.tick(now, &mut calls);
            } else {
                assert!(machines.want(&one, now, &mut calls).is_none());
            }
            assert_eq!(calls.len(), 1);
            let torn = answer("half a token".to_owned());
            let read = machines.answered(&one, torn, now, &mut || 0, &mut calls).pop().unwrap();
            assert_eq!(read.result.unwrap_err().code, Code::AssertionMalformed);
            assert!(read.again_at.is_none() && machines.next_due().is_none());
        }
    }
}
