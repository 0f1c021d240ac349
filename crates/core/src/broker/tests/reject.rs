//! Tests of rejected tokens, discarded tokens and tokens with an issue time in the future, which are replaced once another is fetched.

use super::super::reject::RejectedBy;
use super::worker::Rejection;
use super::*;
use crate::event::Level;

/// The response with an access token of this text.
pub(super) fn named(name: &str) -> CallResult {
    answer(200, &json!({"token_type": "Bearer", "expires_in": 3600, "access_token": name}))
}

fn digest(name: &str) -> [u8; 32] {
    crate::entra::AccessToken::parse(name).unwrap().digest()
}

impl Process {
    /// Returns the text of the cached token that a request gets.
    pub(super) fn served(&mut self, worker: usize) -> String {
        match self.request_token(worker, 999).0 {
            TokenLookup::Ready(cached) => cached.token().expose().to_owned(),
            _ => panic!("worker {worker} serves no token"),
        }
    }

    /// Creates a process in which both workers serve a token of this name and have polled its key.
    fn serving(name: &str) -> Self {
        let mut process = Self::new();
        process.exchange(0, 1, named(name));
        process.ready(1);
        assert_eq!(process.poll(1), []);
        process.advance(Duration::from_secs(60));
        process
    }

    /// Rejects the token that this worker serves, as on a 401 response of the upstream.
    fn rejected(&mut self, worker: usize) -> Rejection {
        let key = self.spec.key();
        let token = self.workers[worker].slots.get(key).unwrap().token.clone().unwrap();
        self.workers[worker].reject(key, &token, self.now, &self.shared)
    }

    fn request_replacement(
        &mut self,
        worker: usize,
        stream: u32,
        rejected_token: RejectedToken,
    ) -> (TokenLookup, Rejection) {
        let (required_lifetime, stream) = (RequiredLifetime::FiveMinutes, StreamId(stream));
        self.workers[worker].get_replacement(
            &self.spec,
            required_lifetime,
            rejected_token,
            stream,
            self.now,
            &self.shared,
        )
    }

    /// Performs an exchange in this worker after its wake-up.
    fn replace(&mut self, worker: usize, answer: CallResult) -> Vec<Observed> {
        self.begin(worker);
        self.endpoint(worker, answer)
    }
}

fn queues(numbers: &[u32]) -> Vec<QueueId> {
    numbers.iter().map(|number| QueueId(*number)).collect()
}

#[test]
fn a_rejected_token_is_served_until_it_is_replaced_and_then_by_no_worker() {
    let mut process = Process::serving("old");
    let rejection = process.rejected(0);
    assert!(rejection.newly_rejected);
    assert_eq!(rejection.wake, queues(&[0, 1]), "every worker that holds it");
    assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
    assert_eq!(process.poll(0), [Observed::Read]);
    assert_eq!(process.poll(1), [], "one exchange for all");
    assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
    assert_eq!(process.assertion(0), [Observed::EndpointCall]);
    assert_eq!(process.endpoint(0, named("new")), [Observed::Wake(1)]);
    assert_eq!(process.poll(1), []);
    assert_eq!((process.served(0), process.served(1)), ("new".into(), "new".into()));
}

#[test]
fn a_rejected_token_is_served_while_its_replacement_cannot_be_fetched() {
    for answer in [answer_500(), refusal(90_002)] {
        let mut process = Process::serving("old");
        process.rejected(1);
        assert_eq!(process.replace(1, answer), []);
        assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
        // The exchange is repeated without a request, and all workers adopt the token.
        process.advance(process.due_in(1).unwrap());
        assert_eq!(process.replace(1, named("new")), [Observed::Wake(0)]);
        process.poll(0);
        assert_eq!((process.served(0), process.served(1)), ("new".into(), "new".into()));
    }
}

#[test]
fn another_worker_fetches_the_replacement_when_the_rejecting_worker_dies() {
    let mut process = Process::serving("old");
    process.rejected(0);
    assert_eq!(process.replace(1, named("new")), [Observed::Wake(0)]);
    assert_eq!(process.served(1), "new");
}

#[test]
fn a_caller_that_rejects_the_token_gets_another_or_a_failure_and_all_others_are_served() {
    for rejected_token in [RejectedToken::Cached, RejectedToken::Digest(digest("old"))] {
        let mut process = Process::serving("old");
        let (answer, rejection) = process.request_replacement(1, 2, rejected_token);
        assert!(matches!(answer, TokenLookup::Pending));
        assert_eq!((rejection.newly_rejected, rejection.wake), (true, queues(&[0, 1])));
        assert_eq!(process.served(1), "old");
        assert_eq!(process.replace(1, answer_500()), [Observed::Problem(2, Code::EntraUnavailable)]);
        assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
        // During the back-off it receives the failure immediately, and never the old token.
        let (answer, _) = process.request_replacement(0, 3, rejected_token);
        assert!(matches!(answer, TokenLookup::Failed(problem) if problem.code == Code::EntraUnavailable));
        process.advance(process.due_in(1).unwrap());
        let (answer, _) = process.request_replacement(0, 4, rejected_token);
        assert!(matches!(answer, TokenLookup::Pending));
        assert_eq!(process.replace(0, named("new")), [Observed::Wake(1), Observed::Token(4)]);
        process.poll(1);
        assert_eq!((process.served(0), process.served(1)), ("new".into(), "new".into()));
    }
}

fn answer_500() -> CallResult {
    answer(500, &json!({}))
}

#[test]
fn a_caller_that_rejects_the_token_and_times_out_does_not_get_it() {
    let mut process = Process::serving("old");
    process.request_replacement(0, 2, RejectedToken::Cached);
    process.poll(0);
    process.assertion(0);
    process.advance(Limits::default().wait);
    assert_eq!(process.poll(0), [Observed::Read, Observed::Problem(2, Code::TokenWaitTimeout)]);
    assert_eq!(process.served(0), "old");
}

#[test]
fn a_full_queue_does_not_give_the_caller_the_token_that_it_rejects() {
    let mut process = Process::new();
    process.workers[0] = Worker::new(WorkerId(7), QueueId(0), Limits { waiting: 1, ..Limits::default() });
    process.exchange(0, 1, named("old"));
    let ask = |process: &mut Process, stream| process.request_replacement(0, stream, RejectedToken::Cached).0;
    assert!(matches!(ask(&mut process, 2), TokenLookup::Pending));
    assert!(matches!(ask(&mut process, 3), TokenLookup::Failed(problem) if problem.code == Code::TooManyWaiting));
    assert_eq!(process.served(0), "old");
}

#[test]
fn a_caller_that_rejects_another_token_gets_the_cached_one() {
    let mut process = Process::serving("old");
    let (answer, rejection) = process.request_replacement(1, 2, RejectedToken::Digest(digest("another")));
    assert!(matches!(answer, TokenLookup::Ready(_)));
    assert_eq!(rejection, Rejection::default());
}

#[test]
fn a_worker_that_missed_the_wake_up_adopts_the_newer_token_when_the_old_one_is_rejected() {
    let mut process = Process::serving("old");
    process.rejected(0);
    process.replace(0, named("new"));
    assert_eq!(process.served(1), "old", "its wake-up has not arrived");
    let (answer, rejection) = process.request_replacement(1, 3, RejectedToken::Digest(digest("old")));
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "new"));
    assert!(!rejection.newly_rejected);
    let mut process = Process::serving("old");
    process.rejected(0);
    process.replace(0, named("new"));
    assert!(!process.rejected(1).newly_rejected);
    assert_eq!(process.served(1), "new");
}

#[test]
fn rejections_force_at_most_one_exchange_in_thirty_seconds_across_all_workers() {
    let mut process = Process::serving("old");
    process.rejected(0);
    let forced = process.now;
    process.replace(0, named("new"));
    process.poll(1);
    process.advance(Duration::from_secs(10));
    // The upstream also rejects the new token, which stays in use.
    assert_eq!(process.rejected(1), Rejection::default());
    assert_eq!(process.poll(1), []);
    // A caller that rejects the cached token gets it, because it is new. A caller that rejects this token gets Retry-After.
    let (answer, _) = process.request_replacement(1, 3, RejectedToken::Cached);
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "new"));
    let TokenLookup::Failed(problem) = process.request_replacement(0, 4, RejectedToken::Digest(digest("new"))).0 else {
        panic!()
    };
    assert_eq!(problem.code, Code::TokenReplacedRecently);
    assert_eq!(problem.retry_after, Some(Duration::from_secs(20)));
    process.now = forced.plus(FORCED_PERIOD);
    assert!(process.rejected(1).newly_rejected);
}

#[test]
fn a_rejection_from_before_the_clock_was_set_back_does_not_delay_the_next_one() {
    let mut process = Process::serving("old");
    process.rejected(0);
    process.replace(0, named("new"));
    process.now = process.now.minus(Duration::from_secs(3600));
    process.exchange(0, 2, named("after"));
    process.advance(Duration::from_secs(1));
    assert!(process.rejected(0).newly_rejected);
    // Another worker may have read the clock a moment later.
    let mut process = Process::serving("old");
    process.rejected(0);
    process.replace(0, named("new"));
    process.now = process.now.minus(GRACE_PERIOD);
    assert!(!process.rejected(0).newly_rejected);
}

#[test]
fn a_dead_worker_is_no_longer_woken_after_the_next_token() {
    let mut process = Process::serving("old");
    process.rejected(0);
    assert_eq!(process.replace(0, named("new")), [Observed::Wake(1)]);
    // Worker 1 is dead and does not respond.
    process.advance(FORCED_PERIOD);
    assert_eq!(process.rejected(0).wake, queues(&[0]));
    assert_eq!(process.replace(0, named("newer")), []);
}

#[test]
fn a_worker_removes_an_unused_token_when_it_is_replaced() {
    let mut process = Process::serving("old");
    process.refresh(0);
    process.poll(1);
    assert_eq!(process.workers[1].slots.len(), 1, "it was used");
    process.ready(0);
    process.poll(0);
    process.refresh(0);
    process.poll(1);
    assert!(process.workers[1].keys() == 0 && process.workers[1].timers.is_empty());
}

#[test]
fn a_cache_hit_does_not_read_shared_data() {
    let mut process = Process::serving("old");
    process.rejected(0);
    process.poll(1);
    process.shared.memory.values.borrow_mut().clear();
    assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
    assert!(process.shared.memory.values.borrow().is_empty());
}

#[test]
fn an_expired_token_is_not_sent_after_the_clock_was_set_back() {
    for (age, back, usable) in [(600, 3600, false), (600, 602, false), (600, 601, true), (600, 60, true)] {
        let mut process = Process::serving("old");
        process.now = START.plus(Duration::from_secs(age)).minus(Duration::from_secs(back));
        for worker in [0, 1] {
            let served = matches!(process.request_token(worker, 2).0, TokenLookup::Ready(_));
            assert_eq!(served, usable, "worker {worker}, {age} s old, {back} s back");
        }
        if !usable {
            process.begin(0);
            // It is not used again when the clock reaches its issue time.
            assert!(process.shared.read(process.spec.key()).token.is_none());
        }
    }
}

#[test]
fn the_duration_of_a_call_counts_also_when_the_clock_is_set_back_during_it() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    process.assertion(0);
    process.advance(Duration::from_secs(5));
    assert_eq!(process.poll(0), []);
    process.now = process.now.minus(Duration::from_secs(3600));
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Token(1)]);
    assert_eq!(process.due_in(0).map(|due| due < Duration::from_secs(3300)), Some(true));
    let TokenLookup::Ready(cached) = process.request_token(0, 2).0 else { panic!() };
    assert_eq!(cached.expires_at().since(process.now), Duration::from_secs(3595));
}

#[test]
fn a_discarded_token_is_served_if_no_other_can_be_fetched() {
    let spec = |before| spec_of("payments", "s/.default", &["entra"], Some(before));
    let mut process = Process::new();
    process.spec = spec(START);
    process.exchange(0, 1, named("old"));
    process.advance(Duration::from_secs(60));
    process.spec = spec(process.now);
    process.pending(1, 2);
    assert_eq!(process.replace(1, answer_500()), [Observed::Token(2)]);
    process.advance(Duration::from_secs(3));
    process.pending(1, 3);
    assert_eq!(process.replace(1, named("new")), [Observed::Wake(0), Observed::Token(3)]);
    assert_eq!(process.served(1), "new");
}

#[test]
fn a_discard_time_in_the_future_has_no_effect_until_it_is_reached() {
    let mut process = Process::new();
    process.spec = spec_of("payments", "s/.default", &["entra"], Some(START.plus(Duration::from_secs(60))));
    process.exchange(0, 1, named("old"));
    process.ready(0);
    process.advance(Duration::from_secs(60));
    process.pending(0, 2);
    assert_eq!(process.replace(0, named("new")), [Observed::Token(2)]);
    process.ready(0);
}

#[test]
fn a_rejected_warm_token_is_replaced_without_a_request() {
    let mut process = Process::new();
    process.workers[0].keep_warm(&[Arc::clone(&process.spec)], process.now);
    process.poll(0);
    process.assertion(0);
    process.endpoint(0, named("old"));
    process.served(1);
    process.rejected(1);
    assert_eq!(process.replace(0, named("new")), []);
}

#[test]
fn a_worker_that_served_another_workers_token_is_woken_when_that_is_replaced() {
    let mut process = Process::new();
    process.pending(1, 1);
    process.poll(1);
    process.advance(READ_TIMEOUT + GRACE_PERIOD);
    process.exchange(0, 2, named("old"));
    // Its lease was taken over, and its own request gets the other worker's token.
    assert_eq!(process.assertion(1), [Observed::Token(1)]);
    assert_eq!(process.rejected(0).wake, queues(&[0, 1]));
}

#[test]
fn a_caller_never_gets_the_token_whose_hash_it_rejects_whichever_worker_fetched_it() {
    let mut process = Process::new();
    process.exchange(0, 1, named("old"));
    process.ready(1);
    process.poll(1);
    process.advance(Duration::from_secs(3320));
    assert_eq!(process.replace(0, named("new")), [Observed::Wake(1)]);
    // Worker 1 still has the old token, whose remaining lifetime is too short.
    assert_eq!(process.served(1), "old");
    let (answer, rejection) = process.request_replacement(1, 3, RejectedToken::Digest(digest("new")));
    assert!(matches!(answer, TokenLookup::Pending) && rejection.newly_rejected);
    assert_eq!(process.replace(1, named("newest")), [Observed::Wake(0), Observed::Token(3)]);
    assert_eq!(process.served(1), "newest");
}

#[test]
fn a_retry_after_a_rejection_waits_for_another_token_and_any_other_retry_carries_the_same_token() {
    let mut process = Process::serving("old");
    let carried = RejectedToken::Attempted(digest("old"));
    // After a 503 response the token is still served.
    let (answer, rejection) = process.request_replacement(0, 2, carried);
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "old"));
    assert_eq!(rejection, Rejection::default());
    process.rejected(0);
    let (answer, rejection) = process.request_replacement(0, 3, carried);
    assert!(matches!(answer, TokenLookup::Pending) && !rejection.newly_rejected);
    assert_eq!(process.served(0), "old", "another request");
    assert_eq!(process.replace(0, named("new")), [Observed::Wake(1), Observed::Token(3)]);
    // The new token is also rejected, which forces no exchange so soon, so it is served.
    process.rejected(0);
    let (answer, _) = process.request_replacement(0, 4, RejectedToken::Attempted(digest("new")));
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "new"));
}

#[test]
fn a_worker_that_holds_a_rejected_token_is_woken_even_after_a_shorter_lived_replacement_has_expired() {
    let mut process = Process::serving("old");
    process.rejected(0);
    let short = answer(200, &json!({"token_type": "Bearer", "expires_in": 10, "access_token": "short"}));
    assert_eq!(process.replace(0, short), [Observed::Wake(1)]);
    process.advance(Duration::from_secs(10));
    process.poll(1);
    assert_eq!(process.served(1), "old", "better than none");
    // The rejection is no longer in effect, and the entry has no token. It still survives a write of its shelf.
    process.advance(FORCED_PERIOD);
    store::update(&process.shared, process.spec.key(), process.now, |_| Update::Commit(()));
    assert_eq!(process.exchange(0, 2, named("new")), [Observed::Wake(1), Observed::Token(2)]);
    process.poll(1);
    assert_eq!(process.served(1), "new");
}

#[test]
fn a_worker_that_adopts_a_token_for_a_caller_that_rejects_it_is_woken_for_the_replacement() {
    // The caller gets the failure of the last exchange, or one because too many requests wait.
    for (is_full, code) in [(false, Code::EntraUnavailable), (true, Code::TooManyWaiting)] {
        let mut process = Process::new();
        // Worker 1 has no token, but a slot with the time of its next poll.
        let waiting = if is_full { 0 } else { 1 };
        process.workers[1] = Worker::new(WorkerId(8), QueueId(1), Limits { waiting, ..Limits::default() });
        process.workers[1].keep_warm(&[Arc::clone(&process.spec)], process.now);
        process.exchange(0, 2, named("old"));
        process.advance(Duration::from_secs(60));
        process.rejected(0);
        if is_full {
            process.begin(0);
        } else {
            process.replace(0, answer_500());
        }
        let (answer, rejection) = process.request_replacement(1, 3, RejectedToken::Cached);
        assert!(matches!(&answer, TokenLookup::Failed(problem) if problem.code == code), "{code:?}");
        assert_eq!(rejection.wake, queues(&[1]), "it must register as a holder");
        process.poll(1);
        // Only once.
        let (_, rejection) = process.request_replacement(1, 4, RejectedToken::Cached);
        assert_eq!(rejection.wake, []);
        let woken = if is_full {
            process.endpoint(0, named("new"))
        } else {
            process.advance(process.due_in(0).unwrap());
            process.replace(0, named("new"))
        };
        assert_eq!(woken, [Observed::Wake(1)]);
        process.poll(1);
        assert_eq!(process.served(1), "new");
    }
}

#[test]
fn a_caller_does_not_get_the_token_that_it_rejects_when_entra_issues_it_again() {
    for rejected_token in [RejectedToken::Cached, RejectedToken::Digest(digest("old"))] {
        let mut process = Process::serving("old");
        assert!(matches!(process.request_replacement(1, 2, rejected_token).0, TokenLookup::Pending));
        // The caller does not cause further exchanges until another token is issued.
        assert_eq!(
            process.replace(1, named("old")),
            [Observed::Wake(0), Observed::Problem(2, Code::EntraReplyInvalid)]
        );
        assert_eq!((process.poll(0), process.poll(1)), (vec![], vec![]));
        assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
    }
}

#[test]
fn a_caller_that_rejects_an_uncached_token_does_not_get_it_when_entra_issues_it() {
    let mut process = Process::new();
    assert!(matches!(process.request_replacement(0, 1, RejectedToken::Digest(digest("old"))).0, TokenLookup::Pending));
    // A clock that is set back in the meantime changes nothing.
    process.now = process.now.minus(Duration::from_secs(60));
    assert_eq!(process.replace(0, named("old")), [Observed::Problem(1, Code::EntraReplyInvalid)]);
    assert_eq!(process.poll(0), []);
    assert_eq!(process.served(0), "old");
}

#[test]
fn a_caller_that_rejects_the_replacement_by_its_hash_does_not_get_it() {
    let mut process = Process::serving("old");
    process.request_replacement(0, 2, RejectedToken::Digest(digest("old")));
    assert_eq!(process.replace(0, named("new")), [Observed::Wake(1), Observed::Token(2)]);
    let (answer, _) = process.request_replacement(0, 3, RejectedToken::Digest(digest("new")));
    assert!(matches!(answer, TokenLookup::Failed(problem) if problem.code == Code::TokenReplacedRecently));
    let (answer, _) = process.request_replacement(0, 4, RejectedToken::Cached);
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "new"));
}

#[test]
fn a_rejection_without_a_cached_token_wakes_this_worker_for_the_exchange() {
    let mut process = Process::new();
    let (answer, rejection) = process.request_replacement(0, 2, RejectedToken::Digest(digest("other")));
    assert!(matches!(answer, TokenLookup::Pending));
    assert_eq!((rejection.newly_rejected, rejection.wake), (false, queues(&[0])));
}

#[test]
fn a_rejection_is_logged_once_with_its_origin() {
    let event = |by: RejectedBy<'_>| {
        let event = by.event(&spec());
        (event.level, event.to_string())
    };
    let about = "identity=payments scope=https://vault.azure.net/.default";
    let detail = r#"next_forced_in_ms=30000 detail="the cached token was rejected: a replacement is fetched""#;
    assert_eq!(event(RejectedBy::Caller), (Level::Info, format!("event=rejected by=caller {about} {detail}")));
    assert_eq!(
        event(RejectedBy::Upstream(&"destinations[0]")),
        (Level::Warn, format!("event=rejected by=upstream {about} decided_by=destinations[0] status=401 {detail}"))
    );
}

#[test]
fn the_rejection_of_an_expired_token_forces_no_exchange() {
    let mut process = Process::serving("old");
    process.advance(Duration::from_secs(3600));
    let (answer, rejection) = process.request_replacement(0, 2, RejectedToken::Cached);
    assert!(matches!(answer, TokenLookup::Pending) && !rejection.newly_rejected);
    assert_eq!(process.shared.read(process.spec.key()).forced_at, None);
}
