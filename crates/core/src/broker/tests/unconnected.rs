//! Requests that wait for their connections, on a clock that the tests own.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::*;

/// One worker, and which of its connections are established.
struct Scene {
    broker: Broker,
    spec: Arc<TokenSpec>,
    now: Timestamp,
    established: BTreeSet<u32>,
    looks: Cell<usize>,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let broker = Broker::new(WorkerId(7), QueueId(1), limits);
        Self { broker, spec: Arc::new(spec()), now: START, established: BTreeSet::new(), looks: Cell::new(0) }
    }

    fn waiting(limits: Limits, streams: u32) -> Self {
        let mut scene = Self::new(limits);
        for stream in 0..streams {
            scene.arrives(stream).unwrap();
        }
        scene
    }

    fn arrives(&mut self, stream: u32) -> Result<bool, Code> {
        let waits = self.broker.await_connection(&self.spec, StreamId(stream), self.now);
        waits.map_err(|problem| problem.code)
    }

    /// One turn: who went on, and who was given up.
    fn turn(&mut self) -> (Vec<u32>, Vec<u32>) {
        let (mut went_on, mut given_up) = (Vec::new(), Vec::new());
        let is_established = |stream: StreamId| {
            self.looks.set(self.looks.get() + 1);
            self.established.contains(&stream.0)
        };
        for (StreamId(stream), connection) in self.broker.connections(self.now, is_established) {
            match connection {
                Connection::Established => went_on.push(stream),
                Connection::TimedOut(problem) => {
                    let told = (problem.code, problem.identity.as_deref(), problem.scope.as_deref());
                    assert_eq!(told, (Code::TokenWaitTimeout, Some(self.spec.identity()), Some(self.spec.scope())));
                    given_up.push(stream);
                }
            }
        }
        (went_on, given_up)
    }

    /// Takes every turn that is due within this time, a millisecond apart at least. Returns how many there were.
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
fn a_request_goes_on_one_millisecond_after_its_connection_is_established() {
    let mut scene = Scene::new(Limits::default());
    assert_eq!(scene.arrives(1), Ok(true), "the first needs an earlier turn");
    assert_eq!(scene.arrives(2), Ok(false), "that turn serves the second too");
    scene.now = scene.broker.next_due().unwrap();
    assert_eq!(scene.now, START.plus(Duration::from_millis(1)));
    scene.established.insert(2);
    assert_eq!(scene.turn(), (vec![2], vec![]));
    assert_eq!(scene.turn(), (vec![], vec![]), "it goes on once");
}

#[test]
fn an_arrival_is_not_kept_waiting_by_those_that_are_looked_at_seldom() {
    let mut scene = Scene::waiting(Limits::default(), 1);
    scene.pass(Duration::from_secs(2));
    assert!(scene.broker.next_due().unwrap() > scene.now.plus(Duration::from_millis(1)));
    assert_eq!(scene.arrives(2), Ok(true));
}

#[test]
fn looks_are_bounded_in_each_turn_and_fewer_as_requests_grow_old() {
    for streams in [1_000, 10_000] {
        let mut scene = Scene::waiting(Limits { wait: Duration::from_secs(60), ..Limits::default() }, streams);
        for _ in 0..200 {
            scene.now = scene.now.plus(Duration::from_millis(1));
            let before = scene.looks.get();
            scene.turn();
            assert!(scene.looks.get() - before <= 64, "{} looks in a turn", scene.looks.get() - before);
        }
        scene.pass(Duration::from_secs(10));
        let before = scene.looks.get();
        scene.pass(Duration::from_secs(1));
        let a_second = scene.looks.get() - before;
        assert!(a_second <= 64_000.min(streams as usize * 5 + 5_000), "{a_second} looks a second at {streams}");
    }
    let mut alone = Scene::waiting(Limits::default(), 1);
    alone.pass(Duration::from_secs(10));
    assert!(alone.pass(Duration::from_secs(1)) <= 5, "one that waits for long costs few turns");
}

#[test]
fn every_request_is_looked_at_again_and_again_however_many_wait() {
    let mut scene = Scene::waiting(Limits { wait: Duration::from_secs(60), ..Limits::default() }, 10_000);
    scene.pass(Duration::from_secs(5));
    // The last of all: nothing but its own turn can find it.
    scene.established.insert(9_999);
    scene.pass(Duration::from_millis(300));
    assert_eq!(scene.broker.waiting.len(), 9_999);
}

#[test]
fn the_oldest_go_on_as_soon_as_the_pool_serves_them_whatever_their_age() {
    let mut scene = Scene::waiting(Limits { wait: Duration::from_secs(60), ..Limits::default() }, 1_000);
    scene.pass(Duration::from_secs(20));
    // A pool hands its connections to those that came first.
    for stream in 0..100 {
        scene.established.insert(stream);
        scene.now = scene.now.plus(Duration::from_millis(1));
        assert_eq!(scene.turn().0, [stream]);
    }
}

#[test]
fn a_thousand_connections_at_once_are_released_a_few_at_a_time_in_the_order_of_arrival() {
    let mut scene = Scene::waiting(Limits::default(), 1_000);
    scene.established.extend(0..1_000);
    let mut all = Vec::new();
    while !scene.broker.waiting.is_empty() {
        scene.now = scene.now.plus(Duration::from_millis(1));
        let (went_on, _) = scene.turn();
        assert!(!went_on.is_empty() && went_on.len() <= release::AT_ONCE);
        all.extend(went_on);
        assert_eq!(scene.turn(), (vec![], vec![]), "a second turn in the same millisecond releases none");
    }
    assert_eq!(all, (0..1_000).collect::<Vec<_>>());
}

#[test]
fn a_request_without_a_connection_is_answered_at_its_deadline_unless_it_has_one_by_then() {
    let wait = Limits::default().wait;
    let mut scene = Scene::waiting(Limits::default(), 2);
    scene.now = START.plus(wait).minus(Duration::from_millis(1));
    assert_eq!(scene.turn(), (vec![], vec![]));
    scene.now = START.plus(wait);
    scene.established.insert(1);
    assert_eq!(scene.turn(), (vec![1], vec![0]));
    assert_eq!(scene.broker.next_due(), None);
}

#[test]
fn all_deadlines_hold_to_within_the_time_that_releasing_takes() {
    let mut scene = Scene::waiting(Limits::default(), 10_000);
    scene.now = START.plus(Limits::default().wait);
    let mut turns = 0;
    while !scene.broker.waiting.is_empty() {
        scene.turn();
        turns += 1;
        scene.now = scene.now.plus(Duration::from_millis(1));
    }
    assert_eq!(turns, 10_000 / release::AT_ONCE);
}

#[test]
fn those_that_wait_for_connections_and_for_tokens_share_one_limit() {
    let mut process = Process::new();
    process.workers[0] = Broker::new(WorkerId(7), QueueId(0), Limits { waiting: 2, ..Limits::default() });
    process.pending(0, 1);
    let arrives = |process: &mut Process, stream: u32| {
        process.workers[0].await_connection(&process.spec, StreamId(stream), process.now)
    };
    assert!(arrives(&mut process, 2).is_ok());
    let problem = arrives(&mut process, 3).unwrap_err();
    assert_eq!((problem.identity.as_deref(), problem.code), (Some(process.spec.identity()), Code::TooManyWaiting));
    assert_eq!(process.failed(0).code, Code::TooManyWaiting);
    // One that leaves makes room; so does one whose connection is established.
    process.workers[0].forget(StreamId(2));
    assert!(arrives(&mut process, 3).is_ok());
    let went_on = process.workers[0].connections(process.now.plus(Duration::from_millis(1)), |_| true);
    assert!(matches!(went_on.as_slice(), [(StreamId(3), Connection::Established)]));
    process.pending(0, 3);
}

#[test]
fn a_request_that_leaves_is_not_looked_at_again_and_leaves_nothing_behind() {
    let mut scene = Scene::waiting(Limits::default(), 100);
    scene.pass(Duration::from_millis(50));
    for stream in 0..100 {
        scene.broker.forget(StreamId(stream));
    }
    let before = scene.looks.get();
    assert_eq!((scene.pass(Duration::from_secs(20)), scene.looks.get()), (0, before));
    assert_eq!(scene.broker.waiting.len(), 0);
}

#[test]
fn a_clock_that_is_set_back_prolongs_no_wait_for_a_connection() {
    let hour = Duration::from_secs(3600);
    let mut scene = Scene::waiting(Limits::default(), 1);
    scene.pass(Duration::from_secs(5));
    scene.now = scene.now.minus(hour);
    assert_eq!(scene.turn(), (vec![], vec![]));
    assert!(scene.broker.next_due().unwrap() <= scene.now.plus(Duration::from_millis(250)));
    // It was last looked at a quarter of a second before, at the earliest.
    scene.now = scene.now.plus(Duration::from_millis(10_250));
    assert_eq!(scene.turn(), (vec![], vec![0]));
}
