//! Simulates a proxy with one worker and the broker of `crates/core`.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_exchange_core::assertion::Source;
use entra_exchange_core::authority::Authority;
use entra_exchange_core::broker::{
    Limits, MemoryStore, QueueId, RequiredLifetime, Store, StreamId, TokenLookup, WorkerId,
};
use entra_exchange_core::engine::{CallId, Driver, Finished, Host};
use entra_exchange_core::entra::{TokenSpec, TokenSpecParts};
use entra_exchange_core::event::Event;
use entra_exchange_core::http::{CallFailure, CallResponse, HttpCall};
use entra_exchange_core::time::Timestamp;
use serde_json::json;

use crate::{DAY, Day, LIFETIME, OUTAGE};

/// The start of the day in Unix seconds.
const MIDNIGHT: u64 = 1_795_305_600;

const TOKEN_CLUSTER: &str = "projected_token";

static SPEC: LazyLock<Arc<TokenSpec>> = LazyLock::new(|| {
    Arc::new(TokenSpec::new(&TokenSpecParts {
        identity: "fleet",
        authority: &Authority::public(),
        tenant_id: "11111111-1111-4111-8111-111111111111",
        client_id: "aaaaaaaa-0000-4000-8000-000000000001",
        scope: "https://vault.azure.net/.default",
        assertion: &Source::File { cluster: TOKEN_CLUSTER.to_owned() },
        clusters: &["entra".to_owned()],
        discard_before: None,
    }))
});

/// A federated token that is valid all day. Its signature is not verified here.
static ASSERTION: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"iss": "https://issuer.example", "sub": "s", "aud": "a", "exp": MIDNIGHT + 2 * DAY});
    format!("{}.{}.c2ln", part(json!({"alg": "RS256"})), part(claims)).into_bytes()
});

static TOKEN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    json!({"token_type": "Bearer", "expires_in": LIFETIME, "access_token": "t"}).to_string().into_bytes()
});

/// A proxy during its day.
struct Proxy<'a> {
    store: MemoryStore,
    day: &'a mut Day,
    second: u64,
    messages: Vec<Vec<u8>>,
    /// The responses to calls, which arrive in the same second.
    responses: Vec<CallResponse>,
}

impl Host for Proxy<'_> {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(MIDNIGHT + self.second)
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn start_call(&mut self, call: &HttpCall) -> Result<CallId, CallFailure> {
        let response = if call.cluster == TOKEN_CLUSTER {
            response(200, &ASSERTION)
        } else {
            self.day.record_exchange(self.second);
            if OUTAGE.contains(&self.second) { response(503, b"") } else { response(200, &TOKEN) }
        };
        self.responses.push(response);
        Ok(CallId(0))
    }

    fn wake(&mut self, _: QueueId, message: &[u8]) {
        self.messages.push(message.to_vec());
    }

    fn set_timer(&mut self, _: Option<Duration>) {}

    fn log(&mut self, _: &Event) {}
}

/// Simulates the day of a proxy. Its index is the seed of its jitter.
pub(crate) fn day(index: u64, day: &mut Day) {
    let store = MemoryStore::default();
    let mut proxy = Proxy { store, day, second: 0, messages: Vec::new(), responses: Vec::new() };
    // The multiplier spreads the bits like those of a random id.
    let worker = WorkerId(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut driver = Driver::new(worker, QueueId(0), Limits::default(), None);
    while proxy.second < DAY {
        let now = proxy.now();
        let lookup = driver.request_token(&SPEC, RequiredLifetime::Any, None, StreamId(0), now, &mut proxy);
        let mut is_served = matches!(lookup, TokenLookup::Ready(_));
        let mut finished = driver.timer(now, &mut proxy);
        loop {
            is_served |= finished.iter().any(|end| matches!(end, Finished::Token(_, Ok(_))));
            finished = if let Some(response) = proxy.responses.pop() {
                driver.call_finished(CallId(0), Ok(response), now, &mut proxy)
            } else if !proxy.messages.is_empty() {
                driver.woken(&std::mem::take(&mut proxy.messages), now, &mut proxy)
            } else {
                break;
            };
        }
        proxy.day.without_token += u64::from(!is_served);
        // The app sends requests continuously. Nothing changes before the driver's next timer, or before the next second without a token.
        let due = driver.next_due(now).map_or(DAY, |due| due.unix_seconds().saturating_sub(MIDNIGHT) + 1);
        proxy.second = if is_served { due.max(proxy.second + 1) } else { proxy.second + 1 };
    }
}

fn response(status: u16, body: &[u8]) -> CallResponse {
    CallResponse { status, retry_after: None, request_id: None, grpc: None, body: body.to_vec(), is_envoys_own: false }
}
