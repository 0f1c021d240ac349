//! The number of allocations of a request whose token is in the worker's memory, without those of the host: between a callback and the host
//! calls that follow from it, the engine allocates nothing to forward a request.

// A test may panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use entra_exchange_core::broker::{MemoryStore, QueueId, Store, StreamId};
use entra_exchange_core::engine::{CallId, Engine, Flow, Host, HttpHost, MetricId};
use entra_exchange_core::event::Event;
use entra_exchange_core::http::{CallFailure, CallResponse, HttpCall, Reply};
use entra_exchange_core::metrics::Kind;
use entra_exchange_core::request::{DescribedRequest, RequestSource};
use entra_exchange_core::sent::SentTokens;
use entra_exchange_core::status_page::Build;
use entra_exchange_core::time::Timestamp;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts the allocations of each thread.
struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONFIGURATION: &[u8] = br#"{
    "identities": [{"tenant_id": "11111111-1111-4111-8111-111111111111", "client_id": "aaaaaaaa-0000-4000-8000-000000000001"}],
    "destinations": [{"hosts": ["kv.vault.azure.net"], "scope": "https://vault.azure.net/.default", "tls_clusters": ["vault"]}],
    "managed_identity": {"imds": {}}
}"#;

/// A process with one request, which allocates nothing for the engine's host calls of a request.
#[derive(Default)]
struct Process {
    store: MemoryStore,
    sent: SentTokens,
    request: DescribedRequest,
    messages: Vec<Vec<u8>>,
    calls: Vec<HttpCall>,
    is_injected: bool,
    replied: Option<u16>,
}

impl Host for Process {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(1_795_334_000)
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
        self.calls.push(call.clone());
        Ok(CallId(u32::try_from(self.calls.len()).unwrap()))
    }

    fn wake(&mut self, _: QueueId, message: &[u8]) {
        self.messages.push(message.to_vec());
    }

    fn set_timer(&mut self, _: Option<Duration>) {}

    fn log(&mut self, _: &Event) {}

    fn metric(&mut self, _: Kind, _: &str) -> Option<MetricId> {
        Some(MetricId(1))
    }

    fn record(&mut self, _: MetricId, _: Kind, _: i64) {}
}

impl HttpHost for Process {
    fn request(&self, _: StreamId) -> Option<&dyn RequestSource> {
        Some(&self.request)
    }

    fn response_status(&self, _: StreamId) -> Option<u16> {
        Some(200)
    }

    fn set_header(&mut self, _: StreamId, _: &str, value: Option<&str>) {
        self.is_injected |= value == Some("Bearer abc");
    }

    fn set_filter_state(&mut self, _: StreamId, _: &str, _: &str) {}

    fn clear_route_cache(&mut self, _: StreamId) {}

    fn reply(&mut self, _: StreamId, reply: &Reply, _: &str) {
        self.replied = Some(reply.status);
    }

    fn resume(&mut self, _: StreamId) {}

    fn sent(&self) -> &SentTokens {
        &self.sent
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        None
    }

    fn random(&mut self) -> u64 {
        7
    }

    fn register_queue(&mut self, _: &str) -> QueueId {
        QueueId(0)
    }
}

/// An engine whose worker has the token, and its process.
fn with_token() -> (Engine, Process) {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let mut process = Process { request: listed(), ..Process::default() };
    let build = Build { version: "1.0", commit: "test" };
    let mut engine = Engine::configure(CONFIGURATION, &|_| None, build, &mut process).unwrap();
    assert_eq!(engine.request(StreamId(1), &mut process), Flow::Pause);
    let messages = std::mem::take(&mut process.messages);
    engine.woken(&messages, &mut process);
    let claims = r#"{"iss": "https://issuer.example", "sub": "s", "aud": "a", "exp": 1795337600}"#;
    let federated = format!("{}.{}.c2ln", BASE64.encode(r#"{"alg": "RS256"}"#), BASE64.encode(claims));
    let ok =
        |body: String| Ok(CallResponse::new(|name| (name == ":status").then(|| b"200".to_vec()), body.into_bytes()));
    engine.call_finished(CallId(1), ok(federated), &mut process);
    let answer = r#"{"token_type": "Bearer", "expires_in": 3600, "access_token": "abc"}"#;
    engine.call_finished(CallId(2), ok(answer.to_owned()), &mut process);
    engine.stream_gone(StreamId(1), &mut process);
    (engine, process)
}

fn listed() -> DescribedRequest {
    let mut request = DescribedRequest::new("GET", "kv.vault.azure.net", "/secrets/db");
    request.cluster_name = Some("vault".to_owned());
    request
}

fn managed_identity() -> DescribedRequest {
    let target = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
    let mut request = DescribedRequest::new("GET", "169.254.169.254", target).with_header("metadata", b"true");
    request.destination_address = Some("127.0.0.1:15002".parse().unwrap());
    request
}

/// The number of allocations of a request, from its headers to the end of its stream, after others of its kind.
fn allocations(request: DescribedRequest, flow: Flow) -> (usize, Process) {
    let (mut engine, mut process) = with_token();
    process.request = request;
    process.is_injected = false;
    let mut number = 0;
    for stream in (2..12).map(StreamId) {
        let before = ALLOCATIONS.get();
        let answer = engine.request(stream, &mut process);
        engine.response(stream, &mut process);
        engine.stream_gone(stream, &mut process);
        number = ALLOCATIONS.get() - before;
        assert_eq!(answer, flow);
    }
    (number, process)
}

#[test]
fn a_request_for_an_unlisted_host_allocates_nothing() {
    let request = DescribedRequest::new("GET", "elsewhere.example", "/");
    let (number, process) = allocations(request, Flow::Continue);
    assert_eq!((number, process.is_injected), (0, false));
}

#[test]
fn a_request_with_a_cached_token_allocates_nothing() {
    let (number, process) = allocations(listed(), Flow::Continue);
    assert_eq!((number, process.is_injected), (0, true));
}

/// Most are the texts of the reply and of the query's parameters.
#[test]
fn a_managed_identity_reply_allocates_no_more_often_than_is_written_here() {
    let (number, process) = allocations(managed_identity(), Flow::Pause);
    assert_eq!((number, process.replied), (22, Some(200)));
}
