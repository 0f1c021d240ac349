//! A worker with one waiting request, which tests give responses to.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_exchange_core::assertion::Source;
use entra_exchange_core::authority::Authority;
use entra_exchange_core::broker::{
    CachedToken, Limits, MemoryStore, QueueId, RequiredLifetime, Store, StreamId, TokenLookup, WorkerId,
};
use entra_exchange_core::engine::{CallId, Driver, Finished, Host};
use entra_exchange_core::entra::{TokenSpec, TokenSpecParts};
use entra_exchange_core::event::{Event, Level};
use entra_exchange_core::http::{CallFailure, CallResponse, CallResult, HttpCall};
use entra_exchange_core::problem::Problem;
use entra_exchange_core::time::Timestamp;
use serde_json::{Value, json};

pub(crate) const TENANT: &str = "11111111-1111-4111-8111-111111111111";

/// The first representable time, a usual one, and one a day before the last.
pub(crate) const NOWS: [Timestamp; 3] = [
    Timestamp::from_unix_millis(0),
    Timestamp::from_unix_seconds(1_795_334_000),
    Timestamp::from_unix_millis(u64::MAX - 86_400_000),
];

pub(crate) struct Worker {
    pub(crate) driver: Driver,
    process: Process,
}

/// What the worker does.
struct Process {
    store: MemoryStore,
    now: Timestamp,
    last_call: u32,
    messages: Vec<Vec<u8>>,
    lines: Vec<String>,
}

impl Host for Process {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn start_call(&mut self, _: &HttpCall) -> Result<CallId, CallFailure> {
        self.last_call += 1;
        Ok(CallId(self.last_call))
    }

    fn wake(&mut self, _: QueueId, message: &[u8]) {
        self.messages.push(message.to_vec());
    }

    fn set_timer(&mut self, _: Option<Duration>) {}

    fn log(&mut self, event: &Event) {
        self.lines.push(event.to_string());
    }
}

/// The effects of a response.
pub(crate) struct Effects {
    pub(crate) outcome: Option<Result<Arc<CachedToken>, Problem>>,
    pub(crate) calls: bool,
    pub(crate) lines: Vec<String>,
}

pub(crate) fn response(status: u16, body: impl Into<Vec<u8>>) -> CallResponse {
    CallResponse { status, retry_after: None, request_id: None, grpc: None, body: body.into(), is_envoys_own: false }
}

pub(crate) fn jwt(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(header), part(claims))
}

impl Worker {
    /// A worker that waits for the assertion.
    pub(crate) fn reading(now: Timestamp) -> Self {
        let spec = Arc::new(TokenSpec::new(&TokenSpecParts {
            identity: "payments",
            authority: &Authority::public(),
            tenant_id: TENANT,
            client_id: "aaaaaaaa-0000-4000-8000-000000000001",
            scope: "https://vault.azure.net/.default",
            assertion: &Source::File { cluster: "projected_token".to_owned() },
            clusters: &["entra".to_owned()],
            discard_before: None,
        }));
        let store = MemoryStore::default();
        let mut process = Process { store, now, last_call: 0, messages: Vec::new(), lines: Vec::new() };
        let mut driver = Driver::new(WorkerId(7), QueueId(1), Limits::default(), Some(Level::Info));
        let lookup = driver.request_token(&spec, RequiredLifetime::Any, None, StreamId(1), now, &mut process);
        assert!(matches!(lookup, TokenLookup::Pending));
        let messages = std::mem::take(&mut process.messages);
        driver.woken(&messages, now, &mut process);
        assert_eq!(process.last_call, 1);
        Self { driver, process }
    }

    pub(crate) const fn now(&self) -> Timestamp {
        self.process.now
    }

    /// A worker that waits for the token endpoint's response.
    pub(crate) fn calling(now: Timestamp) -> Self {
        let mut worker = Self::reading(now);
        let claims = json!({"iss": "i", "sub": "s", "aud": "a", "exp": u64::MAX});
        let effects = worker.assertion(Ok(response(200, jwt(&json!({"alg": "RS256"}), &claims))));
        assert!(effects.calls);
        worker
    }

    /// Gives the worker this response for the assertion. If the worker reads again, because the file may have been read while
    /// it was being written, the same response follows.
    pub(crate) fn assertion(&mut self, answer: CallResult) -> Effects {
        let first = self.respond(answer.clone());
        if first.calls || first.outcome.is_some() {
            return first;
        }
        self.process.now = self.process.now.plus(Duration::from_millis(100));
        self.driver.timer(self.process.now, &mut self.process);
        self.respond(answer)
    }

    pub(crate) fn endpoint(&mut self, answer: CallResult) -> Effects {
        self.respond(answer)
    }

    /// Gives the worker this response to its last call.
    fn respond(&mut self, answer: CallResult) -> Effects {
        let call = CallId(self.process.last_call);
        let finished = self.driver.call_finished(call, answer, self.process.now, &mut self.process);
        let outcome = finished.into_iter().find_map(|finished| match finished {
            Finished::Token(_, outcome) => Some(outcome),
            Finished::Readiness(..) => None,
        });
        let lines = std::mem::take(&mut self.process.lines);
        Effects { outcome, calls: CallId(self.process.last_call) != call, lines }
    }
}
