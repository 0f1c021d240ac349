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
    Asking { attempt: u32, asked_at: Timestamp, until: Timestamp },
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

/// The result of a call.
pub(crate) struct Read {
    pub(crate) result: ReadResult,
    /// Whether this is the answer for all that wait. Otherwise the source is asked again ([`Assertions::next_due`]).
    pub(crate) is_final: bool,
}

impl Assertions {
    /// Returns the assertion or the failure that is known, or `None` while the source is being asked: then [`Assertions::answered`]
    /// returns the result later. Appends the call to start, if one is needed, to `calls`.
    pub(crate) fn want(
        &mut self,
        source: &Source,
        now: Timestamp,
        calls: &mut Vec<AssertionCall>,
    ) -> Option<ReadResult> {
        let known = self.0.iter().position(|machine| machine.source == *source);
        let index = known.unwrap_or_else(|| {
            self.0.push(Machine { source: source.clone(), state: State::Idle });
            self.0.len() - 1
        });
        self.0.get_mut(index)?.want(now, calls)
    }

    /// Processes the result of a source's call. `None` if the source has no call in progress.
    pub(crate) fn answered(&mut self, source: &Source, answer: CallResult, now: Timestamp) -> Option<Read> {
        self.0.iter_mut().find(|machine| machine.source == *source)?.answered(answer, now)
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
    pub(crate) fn tick(&mut self, now: Timestamp, calls: &mut Vec<AssertionCall>) {
        for machine in &mut self.0 {
            match &machine.state {
                State::Pausing { attempt, until } if *until <= now => machine.ask(attempt + 1, now, calls),
                State::Have { until, .. } if *until <= now => machine.state = State::Idle,
                _ => {}
            }
        }
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
                State::Idle => {}
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
    fn want(&mut self, now: Timestamp, calls: &mut Vec<AssertionCall>) -> Option<ReadResult> {
        match &self.state {
            State::Have { assertion, until } if now < *until => return Some(Ok(Arc::clone(assertion))),
            State::Failing { problem, until } if now < *until => return Some(Err(problem.clone())),
            State::Asking { until, .. } | State::Pausing { until, .. } if now < *until => {}
            State::Pausing { attempt, .. } => self.ask(attempt + 1, now, calls),
            _ => self.ask(1, now, calls),
        }
        None
    }

    fn ask(&mut self, attempt: u32, now: Timestamp, calls: &mut Vec<AssertionCall>) {
        self.state = State::Asking { attempt, asked_at: now, until: now.plus(self.source.timeout()).plus(LATE) };
        calls.push(AssertionCall { source: self.source.clone(), call: self.source.call() });
    }

    fn answered(&mut self, answer: CallResult, now: Timestamp) -> Option<Read> {
        let State::Asking { attempt, asked_at, .. } = self.state else { return None };
        let result = self.source.read(answer, now).map(Arc::new);
        let (state, is_final) = match &result {
            Ok(assertion) => {
                let until = asked_at.plus(self.source.reuse()).min(assertion.lifetime().expires_at);
                (State::Have { assertion: Arc::clone(assertion), until }, true)
            }
            Err(problem) => match self.source.pause_before_retry(problem, attempt) {
                Some(pause) => (State::Pausing { attempt, until: now.plus(pause) }, false),
                None => {
                    let until = now.plus(self.source.back_off());
                    (State::Failing { problem: problem.clone(), until }, true)
                }
            },
        };
        self.state = state;
        Some(Read { result, is_final })
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
        Ok(CallResponse { status: 200, retry_after: None, request_id: None, body, is_envoys_own: false })
    }

    fn a_token() -> CallResult {
        answer(jwt(&json!({"alg": "RS256"}), &claims()))
    }

    /// Asks the source, which must need a call, and gives the machine this answer.
    fn ask(machines: &mut Assertions, source: &Source, result: CallResult, now: Timestamp) -> Read {
        let mut calls = Vec::new();
        assert!(machines.want(source, now, &mut calls).is_none() && calls.len() == 1);
        machines.answered(source, result, now).unwrap()
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
        let ends = NOW.plus(one.reuse());
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
            assert!(!ask(&mut machines, &one, answer("half a token".to_owned()), NOW).is_final);
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
            let read = machines.answered(&one, answer("half a token".to_owned()), now).unwrap();
            assert_eq!(read.result.unwrap_err().code, Code::AssertionMalformed);
            assert!(read.is_final && machines.next_due().is_none());
        }
    }
}
