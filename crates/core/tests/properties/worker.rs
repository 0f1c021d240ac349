//! A worker with one waiting request, which tests give responses to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_exchange_core::assertion::Source;
use entra_exchange_core::broker::{
    Broker, CachedToken, Command, Limits, Need, QueueId, SharedData, StreamId, TokenLookup, WorkerId, prepare,
};
use entra_exchange_core::entra::{Authority, TokenSpec, TokenSpecParts};
use entra_exchange_core::http::{CallResponse, CallResult};
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

#[derive(Default)]
struct Memory(RefCell<HashMap<String, (Vec<u8>, u32)>>);

impl SharedData for Memory {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().get(name).cloned()
    }

    fn set(&self, name: &str, value: &[u8], _: Option<u32>) -> bool {
        self.0.borrow_mut().insert(name.to_owned(), (value.to_vec(), 1));
        true
    }
}

pub(crate) struct Worker {
    pub(crate) broker: Broker,
    memory: Memory,
    spec: Arc<TokenSpec>,
    pub(crate) now: Timestamp,
}

/// The effects of a response.
pub(crate) struct Effects {
    pub(crate) outcome: Option<Result<Arc<CachedToken>, Problem>>,
    pub(crate) calls: bool,
    pub(crate) lines: Vec<String>,
}

pub(crate) fn response(status: u16, body: impl Into<Vec<u8>>) -> CallResponse {
    CallResponse { status, retry_after: None, request_id: None, body: body.into(), is_envoys_own: false }
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
        let memory = Memory::default();
        prepare(&memory);
        let mut broker = Broker::new(WorkerId(7), QueueId(1), Limits::default());
        let (answer, look) = broker.get(&spec, Need::Usable, StreamId(1), now, &memory);
        assert!(matches!(answer, TokenLookup::Pending) && look);
        let commands = broker.poll(spec.key(), now, &memory);
        assert!(matches!(commands.as_slice(), [Command::ReadAssertion(_), ..]));
        Self { broker, memory, spec, now }
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
        let key = self.spec.key();
        let first = effects(self.broker.assertion_arrived(key, answer.clone(), self.now, &self.memory));
        if first.calls || first.outcome.is_some() {
            return first;
        }
        self.now = self.now.plus(Duration::from_millis(100));
        self.broker.poll(key, self.now, &self.memory);
        effects(self.broker.assertion_arrived(key, answer, self.now, &self.memory))
    }

    pub(crate) fn endpoint(&mut self, answer: CallResult) -> Effects {
        effects(self.broker.endpoint_answered(self.spec.key(), answer, self.now, &self.memory))
    }
}

fn effects(commands: Vec<Command>) -> Effects {
    let mut effects = Effects { outcome: None, calls: false, lines: Vec::new() };
    for command in commands {
        match command {
            Command::Finish(_, outcome) => effects.outcome = Some(outcome),
            Command::CallEndpoint { .. } => effects.calls = true,
            Command::Log(event) => effects.lines.push(event.to_string()),
            Command::ReadAssertion(_)
            | Command::ReadForCheck(_)
            | Command::Checked(..)
            | Command::Wake(..)
            | Command::Measure(_) => {}
        }
    }
    effects
}
