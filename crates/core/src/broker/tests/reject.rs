//! Rejected and discarded tokens, and tokens from the future: another is fetched first, and then takes their place.

use super::*;

/// A token whose text tells it from others.
fn named(name: &str) -> CallResult {
    answer(200, &json!({"token_type": "Bearer", "expires_in": 3600, "access_token": name}))
}

fn digest(name: &str) -> [u8; 32] {
    crate::entra::AccessToken::parse(name).unwrap().digest()
}

impl Process {
    /// The text of the token that a request gets at once.
    fn served(&mut self, worker: usize) -> String {
        match self.ask(worker, 999).0 {
            TokenLookup::Ready(cached) => cached.token().expose().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    /// Both workers serve a token of this name, and have looked at it since.
    fn serving(name: &str) -> Self {
        let mut process = Self::new();
        process.exchange(0, 1, named(name));
        process.ready(1);
        assert_eq!(process.poll(1), []);
        process.advance(Duration::from_secs(60));
        process
    }

    /// The upstream of this worker's requests answers 401 to the token that it serves.
    fn rejected(&mut self, worker: usize) -> Rejection {
        let key = self.spec.key();
        let token = self.workers[worker].slots[&key].token.clone().unwrap();
        self.workers[worker].reject(key, &token, self.now, &self.shared)
    }

    fn ask_for_another(&mut self, worker: usize, stream: u32, stale: Stale) -> (TokenLookup, Rejection) {
        let (need, stream) = (Need::LongLived, StreamId(stream));
        self.workers[worker].get_another(&self.spec, need, stale, stream, self.now, &self.shared)
    }

    /// One exchange of this worker's, from its wake-up on.
    fn replace(&mut self, worker: usize, answer: CallResult) -> Vec<Observed> {
        assert_eq!(self.poll(worker), [Observed::Read]);
        assert_eq!(self.assertion(worker), [Observed::EndpointCall]);
        self.endpoint(worker, answer)
    }
}

fn queues(numbers: &[u32]) -> Vec<QueueId> {
    numbers.iter().map(|number| QueueId(*number)).collect()
}

#[test]
fn a_rejected_token_is_served_until_another_is_there_and_then_by_no_worker() {
    let mut process = Process::serving("old");
    let rejection = process.rejected(0);
    assert!(rejection.marked);
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
fn a_rejected_token_is_served_while_its_replacement_cannot_be_had() {
    for answer in [answer_500(), refusal(90_002)] {
        let mut process = Process::serving("old");
        process.rejected(1);
        assert_eq!(process.replace(1, answer), []);
        assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
        // It is tried again, although nobody asks, and taken by all.
        process.advance(process.due_in(1).unwrap());
        assert_eq!(process.replace(1, named("new")), [Observed::Wake(0)]);
        process.poll(0);
        assert_eq!((process.served(0), process.served(1)), ("new".into(), "new".into()));
    }
}

#[test]
fn the_next_worker_fetches_when_the_one_that_rejects_dies() {
    let mut process = Process::serving("old");
    process.rejected(0);
    assert_eq!(process.replace(1, named("new")), [Observed::Wake(0)]);
    assert_eq!(process.served(1), "new");
}

#[test]
fn a_caller_that_rejects_the_token_gets_another_or_the_failure_and_all_others_are_served() {
    for stale in [Stale::Any, Stale::Digest(digest("old"))] {
        let mut process = Process::serving("old");
        let (answer, rejection) = process.ask_for_another(1, 2, stale);
        assert!(matches!(answer, TokenLookup::Pending));
        assert_eq!((rejection.marked, rejection.wake), (true, queues(&[0, 1])));
        assert_eq!(process.served(1), "old");
        assert_eq!(process.replace(1, answer_500()), [Observed::Problem(2, Code::EntraUnavailable)]);
        assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
        // While the back-off runs it is told the failure at once, and never gets the old token.
        let (answer, _) = process.ask_for_another(0, 3, stale);
        assert!(matches!(answer, TokenLookup::Failed(problem) if problem.code == Code::EntraUnavailable));
        process.advance(process.due_in(1).unwrap());
        let (answer, _) = process.ask_for_another(0, 4, stale);
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
fn a_caller_that_rejects_the_token_and_waits_too_long_does_not_get_it() {
    let mut process = Process::serving("old");
    process.ask_for_another(0, 2, Stale::Any);
    process.poll(0);
    process.assertion(0);
    process.advance(Limits::default().wait);
    assert_eq!(process.poll(0), [Observed::Read, Observed::Problem(2, Code::TokenWaitTimeout)]);
    assert_eq!(process.served(0), "old");
}

#[test]
fn a_full_queue_does_not_give_the_caller_the_token_that_it_rejects() {
    let mut process = Process::new();
    process.workers[0] = Broker::new(WorkerId(7), QueueId(0), Limits { waiting: 1, ..Limits::default() });
    process.exchange(0, 1, named("old"));
    let ask = |process: &mut Process, stream| process.ask_for_another(0, stream, Stale::Any).0;
    assert!(matches!(ask(&mut process, 2), TokenLookup::Pending));
    assert!(matches!(ask(&mut process, 3), TokenLookup::Failed(problem) if problem.code == Code::TooManyWaiting));
    assert_eq!(process.served(0), "old");
}

#[test]
fn a_caller_that_rejects_another_token_gets_the_cached_one() {
    let mut process = Process::serving("old");
    let (answer, rejection) = process.ask_for_another(1, 2, Stale::Digest(digest("another")));
    assert!(matches!(answer, TokenLookup::Ready(_)));
    assert_eq!(rejection, Rejection::default());
}

#[test]
fn a_worker_that_missed_the_wake_up_takes_the_newer_token_for_the_one_that_is_rejected_there() {
    let mut process = Process::serving("old");
    process.rejected(0);
    process.replace(0, named("new"));
    assert_eq!(process.served(1), "old", "its wake-up is on its way");
    let (answer, rejection) = process.ask_for_another(1, 3, Stale::Digest(digest("old")));
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "new"));
    assert!(!rejection.marked);
    let mut process = Process::serving("old");
    process.rejected(0);
    process.replace(0, named("new"));
    assert!(!process.rejected(1).marked);
    assert_eq!(process.served(1), "new");
}

#[test]
fn rejections_force_one_exchange_in_thirty_seconds_for_all_workers_together() {
    let mut process = Process::serving("old");
    process.rejected(0);
    let forced = process.now;
    process.replace(0, named("new"));
    process.poll(1);
    process.advance(Duration::from_secs(10));
    // The upstream rejects the new one too: it stays in use.
    assert_eq!(process.rejected(1), Rejection::default());
    assert_eq!(process.poll(1), []);
    // Who wants a new one gets it: it is. Who wants another than this one is told when.
    let (answer, _) = process.ask_for_another(1, 3, Stale::Any);
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "new"));
    let TokenLookup::Failed(problem) = process.ask_for_another(0, 4, Stale::Digest(digest("new"))).0 else { panic!() };
    assert_eq!(problem.code, Code::TokenReplacedRecently);
    assert_eq!(problem.retry_after, Some(Duration::from_secs(20)));
    process.now = forced.plus(FORCED_PERIOD);
    assert!(process.rejected(1).marked);
}

#[test]
fn a_rejection_from_before_the_clock_was_set_back_does_not_keep_the_next_one_away() {
    let mut process = Process::serving("old");
    process.rejected(0);
    process.replace(0, named("new"));
    process.now = process.now.minus(Duration::from_secs(3600));
    process.exchange(0, 2, named("after"));
    process.advance(Duration::from_secs(1));
    assert!(process.rejected(0).marked);
    // Another worker may have read the clock a moment later.
    let mut process = Process::serving("old");
    process.rejected(0);
    process.replace(0, named("new"));
    process.now = process.now.minus(GRACE);
    assert!(!process.rejected(0).marked);
}

#[test]
fn a_dead_worker_is_woken_no_more_after_the_next_token() {
    let mut process = Process::serving("old");
    process.rejected(0);
    assert_eq!(process.replace(0, named("new")), [Observed::Wake(1)]);
    // Worker 1 is dead and does not answer.
    process.advance(FORCED_PERIOD);
    assert_eq!(process.rejected(0).wake, queues(&[0]));
    assert_eq!(process.replace(0, named("newer")), []);
}

#[test]
fn a_worker_in_which_nobody_uses_the_token_lets_it_go_when_another_replaces_it() {
    let mut process = Process::serving("old");
    process.refresh(0);
    process.poll(1);
    assert_eq!(process.workers[1].slots.len(), 1, "it was used");
    process.ready(0);
    process.poll(0);
    process.refresh(0);
    process.poll(1);
    assert!(process.workers[1].slots.is_empty() && process.workers[1].timers.is_empty());
}

#[test]
fn a_cached_request_reads_nothing_that_is_shared() {
    let mut process = Process::serving("old");
    process.rejected(0);
    process.poll(1);
    process.shared.values.borrow_mut().clear();
    assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
    assert!(process.shared.values.borrow().is_empty());
}

#[test]
fn an_expired_token_is_not_sent_after_the_clock_was_set_back() {
    for (age, back, usable) in [(600, 3600, false), (600, 602, false), (600, 601, true), (600, 60, true)] {
        let mut process = Process::serving("old");
        process.now = START.plus(Duration::from_secs(age)).minus(Duration::from_secs(back));
        for worker in [0, 1] {
            let served = matches!(process.ask(worker, 2).0, TokenLookup::Ready(_));
            assert_eq!(served, usable, "worker {worker}, {age} s old, {back} s back");
        }
        if !usable {
            assert_eq!(process.poll(0), [Observed::Read]);
            // It does not come into use again when the clock has caught up.
            assert!(shared::read(&process.shared, process.spec.key()).token.is_none());
        }
    }
}

#[test]
fn the_time_that_an_answer_took_counts_also_when_the_clock_is_set_back_meanwhile() {
    let mut process = Process::new();
    process.pending(0, 1);
    process.poll(0);
    process.assertion(0);
    process.advance(Duration::from_secs(5));
    assert_eq!(process.poll(0), []);
    process.now = process.now.minus(Duration::from_secs(3600));
    assert_eq!(process.endpoint(0, token(3600)), [Observed::Token(1)]);
    assert_eq!(process.due_in(0).map(|due| due < Duration::from_secs(3300)), Some(true));
    let TokenLookup::Ready(cached) = process.ask(0, 2).0 else { panic!() };
    assert_eq!(cached.expires_at().since(process.now), Duration::from_secs(3595));
}

#[test]
fn a_discarded_token_is_better_than_none() {
    let spec = |before| grant_of("payments", "s/.default", &["entra"], Some(before));
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
fn a_time_in_the_future_discards_nothing_until_it_comes() {
    let mut process = Process::new();
    process.spec = grant_of("payments", "s/.default", &["entra"], Some(START.plus(Duration::from_secs(60))));
    process.exchange(0, 1, named("old"));
    process.ready(0);
    process.advance(Duration::from_secs(60));
    process.pending(0, 2);
    assert_eq!(process.replace(0, named("new")), [Observed::Token(2)]);
    process.ready(0);
}

#[test]
fn a_warm_token_that_is_rejected_is_replaced_although_nobody_asks() {
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
fn a_request_that_waited_for_another_workers_token_is_woken_when_that_is_replaced() {
    let mut process = Process::new();
    process.pending(1, 1);
    process.poll(1);
    process.advance(READ_TIMEOUT + GRACE);
    process.exchange(0, 2, named("old"));
    // Its lease was taken over: it serves its own request with the other worker's token.
    assert_eq!(process.assertion(1), [Observed::Token(1)]);
    assert_eq!(process.rejected(0).wake, queues(&[0, 1]));
}

#[test]
fn a_caller_gets_no_token_with_the_hash_that_it_rejects_whichever_worker_fetched_it() {
    let mut process = Process::new();
    process.exchange(0, 1, named("old"));
    process.ready(1);
    process.poll(1);
    process.advance(Duration::from_secs(3320));
    assert_eq!(process.replace(0, named("new")), [Observed::Wake(1)]);
    // Worker 1 has the old one still, and too little is left of that.
    assert_eq!(process.served(1), "old");
    let (answer, rejection) = process.ask_for_another(1, 3, Stale::Digest(digest("new")));
    assert!(matches!(answer, TokenLookup::Pending) && rejection.marked);
    assert_eq!(process.replace(1, named("newest")), [Observed::Wake(0), Observed::Token(3)]);
    assert_eq!(process.served(1), "newest");
}

#[test]
fn a_retry_of_the_request_that_was_rejected_waits_for_another_token_and_any_other_retry_carries_the_same() {
    let mut process = Process::serving("old");
    let carried = Stale::Carried(digest("old"));
    // After a 503 the token is as good as before.
    let (answer, rejection) = process.ask_for_another(0, 2, carried);
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "old"));
    assert_eq!(rejection, Rejection::default());
    process.rejected(0);
    let (answer, rejection) = process.ask_for_another(0, 3, carried);
    assert!(matches!(answer, TokenLookup::Pending) && !rejection.marked);
    assert_eq!(process.served(0), "old", "another request");
    assert_eq!(process.replace(0, named("new")), [Observed::Wake(1), Observed::Token(3)]);
    // The new one is rejected as well, which forces no exchange so soon: it is as good as any.
    process.rejected(0);
    let (answer, _) = process.ask_for_another(0, 4, Stale::Carried(digest("new")));
    assert!(matches!(answer, TokenLookup::Ready(cached) if cached.token().expose() == "new"));
}

#[test]
fn a_worker_that_holds_a_rejected_token_is_woken_also_after_a_shorter_token_came_and_ended() {
    let mut process = Process::serving("old");
    process.rejected(0);
    let short = answer(200, &json!({"token_type": "Bearer", "expires_in": 10, "access_token": "short"}));
    assert_eq!(process.replace(0, short), [Observed::Wake(1)]);
    process.advance(Duration::from_secs(10));
    process.poll(1);
    assert_eq!(process.served(1), "old", "better than none");
    // The rejection counts no more, and the entry has no token. It survives a write on its shelf all the same.
    process.advance(FORCED_PERIOD);
    shared::update(&process.shared, process.spec.key(), process.now, |_| Update::Commit(()));
    assert_eq!(process.exchange(0, 2, named("new")), [Observed::Wake(1), Observed::Token(2)]);
    process.poll(1);
    assert_eq!(process.served(1), "new");
}

#[test]
fn a_caller_is_not_given_the_token_that_it_rejects_when_entra_issues_that_again() {
    for stale in [Stale::Any, Stale::Digest(digest("old"))] {
        let mut process = Process::serving("old");
        assert!(matches!(process.ask_for_another(1, 2, stale).0, TokenLookup::Pending));
        // The caller does not make the filter ask Entra until another comes.
        assert_eq!(
            process.replace(1, named("old")),
            [Observed::Wake(0), Observed::Problem(2, Code::EntraReplyInvalid)]
        );
        assert_eq!((process.poll(0), process.poll(1)), (vec![], vec![]));
        assert_eq!((process.served(0), process.served(1)), ("old".into(), "old".into()));
    }
}

#[test]
fn a_caller_that_rejects_a_token_which_is_not_cached_is_not_given_it_when_entra_issues_it() {
    let mut process = Process::new();
    assert!(matches!(process.ask_for_another(0, 1, Stale::Digest(digest("old"))).0, TokenLookup::Pending));
    // Time that is set back meanwhile changes nothing.
    process.now = process.now.minus(Duration::from_secs(60));
    assert_eq!(process.replace(0, named("old")), [Observed::Problem(1, Code::EntraReplyInvalid)]);
    assert_eq!(process.poll(0), []);
    assert_eq!(process.served(0), "old");
}
