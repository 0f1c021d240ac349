//! Tests of readiness, after events in every order.

use super::*;

/// The readiness that the identities of these token specs decide.
pub(super) fn readiness_of(specs: &[&TokenSpec]) -> Arc<Readiness> {
    let of = |spec: &&TokenSpec| Decisive { name: spec.identity().to_owned(), credential: Ok(Credential::of(spec)) };
    Arc::new(Readiness { identities: specs.iter().map(of).collect() })
}

fn code(status: &ReadinessStatus) -> Result<(), Code> {
    status.outcome().map_err(|problem| problem.code)
}

/// An event in a pod whose tokens are requested.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Happening {
    CachedToken,
    /// AADSTS90002.
    CredentialRefused,
    /// AADSTS700213, in both attempts.
    CredentialRefusedTwice,
    /// AADSTS700213 in the first attempt, a token in the second.
    CredentialRefusedOnce,
    /// AADSTS500011.
    ResourceRefused,
    Outage,
    Throttled,
    /// The kubelet writes another token.
    FileRenewed,
    /// The file holds no token.
    FileBroken,
    /// The issued tokens expire.
    TokensEnd,
}

use Happening::*;

const HAPPENINGS: [Happening; 10] = [
    CachedToken,
    CredentialRefused,
    CredentialRefusedTwice,
    CredentialRefusedOnce,
    ResourceRefused,
    Outage,
    Throttled,
    FileRenewed,
    FileBroken,
    TokensEnd,
];

/// A model of the definition of readiness.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    /// The token in the file; `None` if it is not usable.
    file: Option<u32>,
    last_reading_usable: bool,
    /// The rejected token, if Entra's last response about the credential was a rejection.
    refused: Option<u32>,
    has_token: bool,
}

impl Expected {
    fn happens(&mut self, happening: Happening, number: u32) {
        match happening {
            FileRenewed => self.file = Some(number),
            FileBroken => self.file = None,
            TokensEnd => self.has_token = false,
            // An exchange reads the file first.
            _ if self.file.is_none() => self.last_reading_usable = false,
            _ => self.last_reading_usable = true,
        }
        match (happening, self.file) {
            (CachedToken | CredentialRefusedOnce, Some(_)) => (self.refused, self.has_token) = (None, true),
            (CredentialRefused | CredentialRefusedTwice, Some(file)) => self.refused = Some(file),
            _ => {}
        }
    }

    /// Returns the expected readiness. A probe reads the file if its last read was not usable or if the rejected token may have been
    /// renewed.
    fn is_ready(&mut self) -> bool {
        let refused = self.refused.filter(|_| !self.has_token);
        if !self.last_reading_usable || refused.is_some() {
            self.last_reading_usable = self.file.is_some();
        }
        self.last_reading_usable && (refused.is_none() || refused != self.file)
    }
}

/// A pod and the content of its token file.
struct Pod {
    process: Process,
    file: CallResult,
    scopes: u32,
}

impl Pod {
    fn new() -> Self {
        let process = Process::new();
        let mut pod = Self { process, file: answer(503, &json!({})), scopes: 0 };
        pod.renew(0);
        pod
    }

    fn renew(&mut self, number: u32) {
        let mut claims = claims();
        claims["exp"] = json!(u64::MAX);
        claims["jti"] = json!(number);
        let body = jwt(&json!({"alg": "RS256"}), &claims).into_bytes();
        self.file = Ok(CallResponse {
            status: 200,
            retry_after: None,
            request_id: None,
            grpc: None,
            body,
            is_envoys_own: false,
        });
    }

    /// Performs an exchange for a separate scope. The result counts whichever exchange receives it.
    fn exchange(&mut self, worker: usize, answers: &[CallResult]) {
        // A federated token that was read less than a second ago is used again.
        self.process.advance(READING_PERIOD);
        self.scopes += 1;
        self.process.spec = spec_of("payments", &format!("{}/.default", self.scopes), &["entra"], None);
        self.process.pending(worker, self.scopes);
        assert_eq!(self.process.poll(worker), [Observed::Read]);
        for answer in answers {
            if !self.reads_a_token(worker) {
                return;
            }
            self.process.endpoint(worker, answer.clone());
            self.process.advance(IMMEDIATE_RETRY_DELAY);
            self.process.poll(worker);
        }
    }

    /// Returns whether the file holds a token. A file without one is read again, because it may be partially written.
    fn reads_a_token(&mut self, worker: usize) -> bool {
        let first = self.process.assertion_answer(worker, self.file.clone());
        if !first.is_empty() {
            return first == [Observed::EndpointCall];
        }
        self.process.advance(PARTIAL_FILE_RETRY_DELAY);
        assert_eq!(self.process.poll(worker), [Observed::Read]);
        self.process.assertion_answer(worker, self.file.clone()) == [Observed::EndpointCall]
    }

    fn happens(&mut self, happening: Happening, worker: usize, number: u32) {
        match happening {
            CachedToken => self.exchange(worker, &[token(3600)]),
            CredentialRefused => self.exchange(worker, &[refusal(90_002)]),
            CredentialRefusedTwice => self.exchange(worker, &[refusal(700_213), refusal(700_213)]),
            CredentialRefusedOnce => self.exchange(worker, &[refusal(700_213), token(3600)]),
            ResourceRefused => self.exchange(worker, &[refusal(500_011)]),
            Outage => self.exchange(worker, &[answer(500, &json!({}))]),
            Throttled => {
                self.exchange(worker, &[answer(429, &json!({"error": "x"}))]);
                self.process.advance(Duration::from_secs(120));
            }
            FileRenewed => self.renew(number),
            FileBroken => self.file = answer(200, &json!("no token")),
            TokensEnd => self.process.advance(Duration::from_secs(3600)),
        }
    }

    fn is_ready(&mut self, worker: usize) -> bool {
        self.process.advance(READING_PERIOD);
        let spec = Arc::clone(&self.process.spec);
        let readiness = readiness_of(&[&spec]);
        let Process { workers, shared, now, .. } = &mut self.process;
        if let Some(status) = workers[worker].check_readiness(&readiness, StreamId(999_999), *now, shared) {
            return status.outcome().is_ok();
        }
        assert_eq!(observed(workers[worker].start_probe(*now, shared)), [Observed::Read]);
        let mut answered = self.process.assertion_answer(worker, self.file.clone());
        if answered.is_empty() {
            self.process.advance(PARTIAL_FILE_RETRY_DELAY);
            assert_eq!(self.process.poll(worker), [Observed::Read]);
            answered = self.process.assertion_answer(worker, self.file.clone());
        }
        answered == [Observed::Ready(999_999)]
    }
}

#[test]
fn readiness_follows_its_definition_in_every_order_of_events() {
    let count = HAPPENINGS.len();
    let (mut ready, mut not_ready) = (0, 0);
    for order in 0..count.pow(4) {
        let happenings: Vec<Happening> =
            (0..4).map(|index: u32| HAPPENINGS[order / count.pow(index) % count]).collect();
        let (mut pod, mut expected) = (Pod::new(), Expected { file: Some(0), ..Expected::default() });
        for (number, happening) in (1..).zip(&happenings) {
            // One worker performs the exchange, and the other one answers the probe.
            let worker = number as usize % 2;
            pod.happens(*happening, worker, number);
            expected.happens(*happening, number);
            let is_ready = expected.is_ready();
            assert_eq!(pod.is_ready(1 - worker), is_ready, "{number} of {happenings:?}: {expected:?}");
            if is_ready { ready += 1 } else { not_ready += 1 }
        }
    }
    assert!(ready > 1000 && not_ready > 1000, "{ready} ready, {not_ready} not ready");
}

#[test]
fn a_pod_whose_federated_token_entra_rejects_is_ready_once_the_file_holds_another() {
    let mut pod = Pod::new();
    pod.exchange(0, &[refusal(90_002)]);
    assert!(!pod.is_ready(0) && !pod.is_ready(1));
    pod.renew(1);
    assert!(pod.is_ready(0) && pod.is_ready(1));
    pod.exchange(1, &[refusal(90_002)]);
    assert!(!pod.is_ready(0) && !pod.is_ready(1));
}

#[test]
fn a_request_for_a_wrong_resource_leaves_a_pod_ready() {
    let mut pod = Pod::new();
    for code in [500_011, 50_001, 70_011, 28_002, 700_022, 700_023, 53_003, 999] {
        pod.exchange(0, &[refusal(code)]);
        assert!(pod.is_ready(0) && pod.is_ready(1), "{code}");
    }
}

#[test]
fn an_unread_token_is_read_once_for_all_probes_and_not_exchanged() {
    let mut process = Process::new();
    let readiness = readiness_of(&[&Arc::clone(&process.spec)]);
    let source = process.spec.assertion().clone();
    let ready = |process: &mut Process, worker: usize, stream: u32| {
        let status =
            process.workers[worker].check_readiness(&readiness, StreamId(stream), process.now, &process.shared);
        status.map(|status| code(&status))
    };
    assert_eq!((ready(&mut process, 0, 1), ready(&mut process, 0, 2), ready(&mut process, 0, 3)), (None, None, None));
    process.workers[0].forget(StreamId(3));
    assert_eq!(observed(process.workers[0].start_probe(process.now, &process.shared)), [Observed::Read]);
    assert_eq!(observed(process.workers[0].start_probe(process.now, &process.shared)), []);
    let missing = Ok(CallResponse {
        status: 503,
        retry_after: None,
        request_id: None,
        grpc: None,
        body: Vec::new(),
        is_envoys_own: true,
    });
    let answered = observed(process.workers[0].call_finished(
        &Purpose::Assertion(source.clone()),
        missing,
        process.now,
        &process.shared,
    ));
    assert_eq!(
        answered,
        [Observed::Problem(1, Code::AssertionUnavailable), Observed::Problem(2, Code::AssertionUnavailable)]
    );
    // Within a second the result holds for further probes. Later ones repeat the read until it succeeds.
    assert_eq!(ready(&mut process, 0, 7), None);
    let again = observed(process.workers[0].start_probe(process.now, &process.shared));
    assert_eq!(again, [Observed::Problem(7, Code::AssertionUnavailable)]);
    process.advance(READING_PERIOD);
    assert_eq!(ready(&mut process, 0, 4), None);
    assert_eq!(observed(process.workers[0].start_probe(process.now, &process.shared)), [Observed::Read]);
    let read = process.federated_token();
    let answered = observed(process.workers[0].call_finished(
        &Purpose::Assertion(source.clone()),
        read,
        process.now,
        &process.shared,
    ));
    assert_eq!(answered, [Observed::Ready(4)]);
    assert_eq!((ready(&mut process, 0, 5), ready(&mut process, 1, 6)), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn all_deciding_identities_must_be_ready_and_a_problem_in_the_pod_is_reported() {
    let mut process = Process::new();
    process.exchange(0, 1, token(3600));
    let accepted = Arc::clone(&process.spec);
    process.spec = spec_of("refused", "x/.default", &["entra"], None);
    process.exchange(0, 2, refusal(90_002));
    let refused = Arc::clone(&process.spec);
    // The original file: at the same time the claims are the same.
    let file = process.federated_token();
    let mut ready = |specs: &[&TokenSpec], missing: Option<Code>| {
        let read = file.clone();
        let mut readiness = (*readiness_of(specs)).clone();
        readiness.identities.extend(
            missing.map(|code| Decisive { name: "missing".to_owned(), credential: Err(Problem::new(code, "d", "r")) }),
        );
        let broker = &mut process.workers[1];
        if let Some(status) = broker.check_readiness(&Arc::new(readiness), StreamId(9), process.now, &process.shared) {
            return code(&status);
        }
        let source = accepted.assertion();
        if let [Effect::FinishProbe(StreamId(9), status)] = &broker.start_probe(process.now, &process.shared)[..] {
            return code(status);
        }
        match &broker.call_finished(&Purpose::Assertion(source.clone()), read, process.now, &process.shared)[..] {
            [_, Effect::FinishProbe(StreamId(9), status)] => code(status),
            _ => panic!("no answer"),
        }
    };
    assert_eq!(ready(&[&accepted], None), Ok(()));
    assert_eq!(ready(&[&refused], None), Err(Code::EntraRefused));
    assert_eq!(ready(&[&accepted, &refused], None), Err(Code::EntraRefused));
    assert_eq!(ready(&[&accepted], Some(Code::EnvVarMissing)), Err(Code::EnvVarMissing));
}

#[test]
fn each_deciding_source_is_read_and_a_probe_waits_for_all_of_them() {
    let mut process = Process::new();
    let source = |cluster: &str| crate::assertion::Source::File { cluster: cluster.to_owned() };
    let spec = |cluster: &str| {
        TokenSpec::new(&TokenSpecParts {
            identity: cluster,
            authority: &crate::authority::Authority::public(),
            tenant_id: "t",
            client_id: "c",
            scope: "s/.default",
            assertion: &source(cluster),
            clusters: &[],
            discard_before: None,
        })
    };
    let readiness = readiness_of(&[&spec("a"), &spec("b")]);
    let read = process.federated_token();
    let (broker, now) = (&mut process.workers[0], process.now);
    assert_eq!(broker.check_readiness(&readiness, StreamId(1), now, &process.shared), None);
    assert_eq!(observed(broker.start_probe(now, &process.shared)), [Observed::Read, Observed::Read]);
    assert_eq!(observed(broker.call_finished(&Purpose::Assertion(source("a")), read, now, &process.shared)), []);
    let answered =
        broker.call_finished(&Purpose::Assertion(source("b")), answer(503, &json!("x")), now, &process.shared);
    assert_eq!(observed(answered), [Observed::Problem(1, Code::AssertionUnavailable)]);
}

#[test]
fn a_source_is_read_once_at_a_time_also_when_the_clock_is_set_back() {
    let mut process = Process::new();
    let source = process.spec.assertion().clone();
    let readiness = readiness_of(&[&Arc::clone(&process.spec)]);
    let ready = |process: &mut Process, stream: u32| {
        process.workers[0].check_readiness(&readiness, StreamId(stream), process.now, &process.shared)
    };
    let check = |process: &mut Process| observed(process.workers[0].start_probe(process.now, &process.shared));
    assert_eq!(ready(&mut process, 1), None);
    assert_eq!(check(&mut process), [Observed::Read]);
    // A read without a response times out.
    process.now = process.now.minus(Duration::from_secs(3600));
    assert_eq!(ready(&mut process, 2), None);
    process.advance(READ_TIMEOUT + GRACE_PERIOD - Duration::from_millis(1));
    assert_eq!(check(&mut process), []);
    process.advance(Duration::from_millis(1));
    assert_eq!(check(&mut process), [Observed::Read]);
    let read = process.federated_token();
    let answered =
        process.workers[0].call_finished(&Purpose::Assertion(source.clone()), read, process.now, &process.shared);
    assert_eq!(observed(answered), [Observed::Ready(1), Observed::Ready(2)]);
}

#[test]
fn many_probes_are_answered_a_few_at_a_time_and_those_beyond_the_limit_from_the_known_state() {
    let mut process = Process::new();
    let readiness = readiness_of(&[&Arc::clone(&process.spec)]);
    for stream in 1..=1000 {
        let status = process.workers[0].check_readiness(&readiness, StreamId(stream), process.now, &process.shared);
        let expected = if stream <= 256 { None } else { Some(Err(Code::AssertionUnavailable)) };
        assert_eq!(status.map(|status| code(&status)), expected, "{stream}");
    }
    assert_eq!(observed(process.workers[0].start_probe(process.now, &process.shared)), [Observed::Read]);
    process.workers[0].forget(StreamId(20));
    process.advance(Duration::from_millis(500));
    process.workers[0].tick(process.now, &process.shared);
    assert_eq!(process.due_in(0), None, "nothing is to be released before the read ends");
    // Envoy executes the replies recursively.
    let mut answered = process.assertion(0);
    assert_eq!(answered.len(), 16);
    while let Some(due) = process.due_in(0).filter(|due| *due <= Duration::from_millis(1)) {
        process.advance(due);
        let next = observed(process.workers[0].tick(process.now, &process.shared));
        assert!((1..=16).contains(&next.len()), "{next:?}");
        answered.extend(next);
    }
    let expected: Vec<Observed> = (1..=256).filter(|stream| *stream != 20).map(Observed::Ready).collect();
    assert_eq!(answered, expected);
}

#[test]
fn probes_that_wait_for_their_release_are_answered_although_the_clock_is_set_back() {
    let mut process = Process::new();
    let readiness = readiness_of(&[&Arc::clone(&process.spec)]);
    for stream in 1..=17 {
        process.workers[0].check_readiness(&readiness, StreamId(stream), process.now, &process.shared);
    }
    process.workers[0].start_probe(process.now, &process.shared);
    assert_eq!(process.assertion(0).len(), 16);
    process.now = process.now.minus(Duration::from_secs(3600));
    // The next event observes the clock.
    process.workers[0].check_readiness(&readiness, StreamId(18), process.now, &process.shared);
    let due = process.due_in(0).unwrap();
    assert!(due <= Duration::from_millis(1), "{due:?}");
    process.advance(due);
    assert_eq!(observed(process.workers[0].tick(process.now, &process.shared)), [Observed::Ready(17)]);
}

#[test]
fn a_discarded_token_or_one_with_an_issue_time_in_the_future_does_not_make_a_pod_ready() {
    let mut pod = Pod::new();
    pod.exchange(0, &[token(3600)]);
    pod.process.advance(Duration::from_secs(60));
    pod.exchange(0, &[refusal(90_002)]);
    assert!(pod.is_ready(1), "the token can be sent");
    let after = pod.process.now;
    let spec = Arc::clone(&pod.process.spec);
    pod.process.spec = spec_of(spec.identity(), spec.scope(), &["entra"], Some(after));
    assert!(!pod.is_ready(1), "the token is discarded");
    let tomorrow = after.plus(Duration::from_secs(86_400));
    pod.process.spec = spec_of(spec.identity(), spec.scope(), &["entra"], Some(tomorrow));
    assert!(pod.is_ready(1), "a discard time in the future has no effect");
    pod.process.spec = spec;
    pod.process.now = pod.process.now.minus(Duration::from_secs(7200));
    assert!(!pod.is_ready(1), "the token is from before the clock was set back");
}
