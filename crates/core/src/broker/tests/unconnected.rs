//! Tests of requests that wait for their connections, with a clock that the tests control.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::*;

/// A worker and its established connections.
struct Setup {
    broker: Worker,
    spec: Arc<TokenSpec>,
    now: Timestamp,
    established: BTreeSet<u32>,
    polls: Cell<usize>,
}

impl Setup {
    fn new(limits: Limits) -> Self {
        let broker = Worker::new(WorkerId(7), QueueId(1), limits);
        Self { broker, spec: Arc::new(spec()), now: START, established: BTreeSet::new(), polls: Cell::new(0) }
    }

    fn waiting(limits: Limits, streams: u32) -> Self {
        let mut setup = Self::new(limits);
        for stream in 0..streams {
            setup.arrives(stream).unwrap();
        }
        setup
    }

    fn arrives(&mut self, stream: u32) -> Result<bool, Code> {
        let waits = self.broker.await_connection(&self.spec, StreamId(stream), self.now);
        waits.map_err(|problem| problem.code)
    }

    /// Polls the connections. Returns the requests that continue and those that have timed out.
    fn turn(&mut self) -> (Vec<u32>, Vec<u32>) {
        let (mut continued, mut timed_out) = (Vec::new(), Vec::new());
        let is_established = |stream: StreamId| {
            self.polls.set(self.polls.get() + 1);
            self.established.contains(&stream.0)
        };
        for (StreamId(stream), connection) in self.broker.poll_connections(self.now, is_established) {
            match connection {
                ConnectionOutcome::Established => continued.push(stream),
                ConnectionOutcome::TimedOut(problem) => {
                    let reported = (problem.code, problem.identity.as_deref(), problem.scope.as_deref());
                    assert_eq!(reported, (Code::TokenWaitTimeout, Some(self.spec.identity()), Some(self.spec.scope())));
                    timed_out.push(stream);
                }
            }
        }
        (continued, timed_out)
    }

    /// Performs every turn that is due within this time, at least a millisecond apart. Returns the number of turns.
    fn pass(&mut self, time: Duration) -> usize {
        let until = self.now.plus(time);
        let mut turns = 0;
        while let Some(due) = self.broker.next_due().filter(|due| *due <= until) {
            self.now = due.max(self.now.plus(Duration::from_millis(1)));
            self.turn();
            turns += 1;
        }
        self.now = until;
        turns
    }
}

#[test]
fn a_request_continues_one_millisecond_after_its_connection_is_established() {
    let mut setup = Setup::new(Limits::default());
    assert_eq!(setup.arrives(1), Ok(true), "the first request needs an earlier turn");
    assert_eq!(setup.arrives(2), Ok(false), "that turn also serves the second request");
    setup.now = setup.broker.next_due().unwrap();
    assert_eq!(setup.now, START.plus(Duration::from_millis(1)));
    setup.established.insert(2);
    assert_eq!(setup.turn(), (vec![2], vec![]));
    assert_eq!(setup.turn(), (vec![], vec![]), "it continues only once");
}

#[test]
fn a_new_request_is_not_delayed_by_the_long_poll_intervals_of_old_ones() {
    let mut setup = Setup::waiting(Limits::default(), 1);
    setup.pass(Duration::from_secs(2));
    assert!(setup.broker.next_due().unwrap() > setup.now.plus(Duration::from_millis(1)));
    assert_eq!(setup.arrives(2), Ok(true));
}

#[test]
fn polls_are_bounded_in_each_turn_and_less_frequent_for_older_requests() {
    for streams in [1_000, 10_000] {
        let mut setup = Setup::waiting(Limits { wait: Duration::from_secs(60), ..Limits::default() }, streams);
        for _ in 0..200 {
            setup.now = setup.now.plus(Duration::from_millis(1));
            let before = setup.polls.get();
            setup.turn();
            assert!(setup.polls.get() - before <= 64, "{} polls in a turn", setup.polls.get() - before);
        }
        setup.pass(Duration::from_secs(10));
        let before = setup.polls.get();
        setup.pass(Duration::from_secs(1));
        let a_second = setup.polls.get() - before;
        assert!(a_second <= 64_000.min(streams as usize * 5 + 5_000), "{a_second} polls a second at {streams}");
    }
    let mut alone = Setup::waiting(Limits::default(), 1);
    alone.pass(Duration::from_secs(10));
    assert!(alone.pass(Duration::from_secs(1)) <= 5, "a request that waits long costs few turns");
}

#[test]
fn the_turns_that_follow_each_other_poll_all_requests_before_one_that_is_not_among_the_oldest_a_second_time() {
    let mut setup = Setup::waiting(Limits::default(), 200);
    let mut polled = BTreeSet::new();
    // In each turn 4 of the 64 polls are for the oldest requests.
    for _ in 0..4 {
        setup.now = setup.now.plus(Duration::from_millis(1));
        let mut polls = 0;
        setup.broker.poll_connections(setup.now, |StreamId(stream)| {
            polls += 1;
            polled.insert(stream);
            false
        });
        assert!(polls <= 64, "{polls} polls in a turn");
    }
    assert_eq!(polled.len(), 200);
}

#[test]
fn every_request_is_polled_repeatedly_however_many_wait() {
    let mut setup = Setup::waiting(Limits { wait: Duration::from_secs(60), ..Limits::default() }, 10_000);
    setup.pass(Duration::from_secs(5));
    // The last request is polled only when it is due.
    setup.established.insert(9_999);
    setup.pass(Duration::from_millis(300));
    assert_eq!(setup.broker.waiting, 9_999);
}

#[test]
fn the_oldest_requests_continue_as_soon_as_the_pool_serves_them() {
    let mut setup = Setup::waiting(Limits { wait: Duration::from_secs(60), ..Limits::default() }, 1_000);
    setup.pass(Duration::from_secs(20));
    // A pool serves the oldest requests first.
    for stream in 0..100 {
        setup.established.insert(stream);
        setup.now = setup.now.plus(Duration::from_millis(1));
        assert_eq!(setup.turn().0, [stream]);
    }
}

#[test]
fn a_thousand_concurrent_connections_are_released_a_few_at_a_time_in_order_of_arrival() {
    let mut setup = Setup::waiting(Limits::default(), 1_000);
    setup.established.extend(0..1_000);
    let mut all = Vec::new();
    while setup.broker.waiting > 0 {
        setup.now = setup.now.plus(Duration::from_millis(1));
        let (continued, _) = setup.turn();
        assert!(!continued.is_empty() && continued.len() <= release::AT_ONCE);
        all.extend(continued);
        assert_eq!(setup.turn(), (vec![], vec![]), "a second turn in the same millisecond releases none");
    }
    assert_eq!(all, (0..1_000).collect::<Vec<_>>());
}

#[test]
fn a_request_without_a_connection_is_answered_at_its_deadline_unless_it_has_one_by_then() {
    let wait = Limits::default().wait;
    let mut setup = Setup::waiting(Limits::default(), 2);
    setup.now = START.plus(wait).minus(Duration::from_millis(1));
    assert_eq!(setup.turn(), (vec![], vec![]));
    setup.now = START.plus(wait);
    setup.established.insert(1);
    assert_eq!(setup.turn(), (vec![1], vec![0]));
    assert_eq!(setup.broker.next_due(), None);
}

#[test]
fn all_deadlines_are_met_within_the_time_that_the_release_takes() {
    let mut setup = Setup::waiting(Limits::default(), 10_000);
    setup.now = START.plus(Limits::default().wait);
    let mut turns = 0;
    while setup.broker.waiting > 0 {
        setup.turn();
        turns += 1;
        assert!(turns <= 10_000, "{} requests wait", setup.broker.waiting);
        setup.now = setup.now.plus(Duration::from_millis(1));
    }
    assert_eq!(turns, 10_000 / release::AT_ONCE);
}

#[test]
fn requests_that_wait_for_connections_and_for_tokens_share_one_limit() {
    let mut process = Process::new();
    process.workers[0] = Worker::new(WorkerId(7), QueueId(0), Limits { waiting: 2, ..Limits::default() });
    process.pending(0, 1);
    let arrives = |process: &mut Process, stream: u32| {
        process.workers[0].await_connection(&process.spec, StreamId(stream), process.now)
    };
    assert!(arrives(&mut process, 2).is_ok());
    let problem = arrives(&mut process, 3).unwrap_err();
    assert_eq!((problem.identity.as_deref(), problem.code), (Some(process.spec.identity()), Code::TooManyWaiting));
    assert_eq!(process.failed(0).code, Code::TooManyWaiting);
    // A cancelled request frees capacity, and so does one whose connection is established.
    process.workers[0].forget(StreamId(2));
    assert!(arrives(&mut process, 3).is_ok());
    let continued = process.workers[0].poll_connections(process.now.plus(Duration::from_millis(1)), |_| true);
    assert!(matches!(continued.as_slice(), [(StreamId(3), ConnectionOutcome::Established)]));
    process.pending(0, 3);
}

#[test]
fn a_cancelled_request_is_not_polled_again_and_leaves_no_state() {
    let mut setup = Setup::waiting(Limits::default(), 100);
    setup.pass(Duration::from_millis(50));
    for stream in 0..100 {
        setup.broker.forget(StreamId(stream));
    }
    let before = setup.polls.get();
    assert_eq!((setup.pass(Duration::from_secs(20)), setup.polls.get()), (0, before));
    assert_eq!(setup.broker.waiting, 0);
}

#[test]
fn a_clock_that_is_set_back_does_not_extend_the_wait_for_a_connection() {
    let hour = Duration::from_secs(3600);
    let mut setup = Setup::waiting(Limits::default(), 1);
    setup.pass(Duration::from_secs(5));
    setup.now = setup.now.minus(hour);
    assert_eq!(setup.turn(), (vec![], vec![]));
    assert!(setup.broker.next_due().unwrap() <= setup.now.plus(Duration::from_millis(250)));
    // The last poll was at most 250 ms ago.
    setup.now = setup.now.plus(Duration::from_millis(10_250));
    assert_eq!(setup.turn(), (vec![], vec![0]));
}

#[test]
fn every_request_is_polled_when_it_is_due_and_ends_at_its_deadline_and_only_the_oldest_are_polled_in_each_turn() {
    let mut setup = Setup::waiting(Limits::default(), 10);
    let arrived = setup.now;
    setup.now = setup.broker.next_due().unwrap();
    setup.turn();
    assert_eq!(setup.polls.replace(0), 10);
    setup.turn();
    assert_eq!(setup.polls.replace(0), 4);
    setup.now = arrived.plus(Limits::default().wait);
    let (continued, timed_out) = setup.turn();
    assert_eq!((continued.len(), timed_out.len()), (0, 10));
}

#[test]
fn a_request_is_polled_again_after_a_sixteenth_of_its_age_from_one_to_250_milliseconds() {
    for (age, expected) in [(1, 1), (15, 1), (160, 10), (1600, 100), (4800, 250)] {
        let mut setup = Setup::waiting(Limits::default(), 1);
        setup.now = setup.now.plus(Duration::from_millis(age));
        setup.turn();
        let next = setup.broker.next_due().map(|due| due.since(setup.now));
        assert_eq!(next, Some(Duration::from_millis(expected)), "{age} ms");
    }
}
