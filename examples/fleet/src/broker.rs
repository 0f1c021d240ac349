//! Simulates a proxy with one worker and the broker of `crates/core`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_exchange_core::assertion::Source;
use entra_exchange_core::broker::{
    Broker, Command, Limits, Need, QueueId, SharedData, StreamId, TokenLookup, WorkerId,
};
use entra_exchange_core::entra::{Authority, TokenSpec, TokenSpecParts};
use entra_exchange_core::http::Response;
use entra_exchange_core::time::Timestamp;
use serde_json::json;

use crate::{DAY, Day, LIFETIME, OUTAGE};

/// The start of the day in Unix seconds.
const MIDNIGHT: u64 = 1_795_305_600;

static GRANT: LazyLock<Arc<TokenSpec>> = LazyLock::new(|| {
    Arc::new(TokenSpec::new(&TokenSpecParts {
        identity: "fleet",
        authority: &Authority::public(),
        tenant_id: "11111111-1111-4111-8111-111111111111",
        client_id: "aaaaaaaa-0000-4000-8000-000000000001",
        scope: "https://vault.azure.net/.default",
        assertion: &Source::File { cluster: "projected_token".to_owned() },
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

/// The shared data of a process.
#[derive(Default)]
struct Shared(RefCell<HashMap<String, (Vec<u8>, u32)>>);

impl SharedData for Shared {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().get(name).cloned()
    }

    fn set(&self, name: &str, value: &[u8], _: Option<u32>) -> bool {
        self.0.borrow_mut().insert(name.to_owned(), (value.to_vec(), 1));
        true
    }
}

/// Simulates the day of a proxy. Its index is the seed of its jitter.
pub(crate) fn day(proxy: u64, day: &mut Day) {
    let shared = Shared::default();
    let key = GRANT.key();
    // The multiplier spreads the bits like those of a random id.
    let worker = WorkerId(proxy.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut broker = Broker::new(worker, QueueId(0), Limits::default());
    let mut second = 0;
    while second < DAY {
        let now = Timestamp::from_unix_seconds(MIDNIGHT + second);
        let (answer, _) = broker.get(&GRANT, Need::Usable, StreamId(0), now, &shared);
        let mut commands = broker.poll(key, now, &shared);
        commands.extend(broker.tick(now, &shared));
        let mut served = matches!(answer, TokenLookup::Ready(_));
        while let Some(command) = commands.pop() {
            commands.extend(match command {
                Command::ReadAssertion(_) => broker.assertion_arrived(key, Ok(response(200, &ASSERTION)), now, &shared),
                Command::CallEndpoint { .. } => {
                    day.record_exchange(second);
                    let answer = if OUTAGE.contains(&second) { response(503, b"") } else { response(200, &TOKEN) };
                    broker.endpoint_answered(key, Ok(answer), now, &shared)
                }
                Command::Finish(_, outcome) => {
                    served |= outcome.is_ok();
                    Vec::new()
                }
                _ => Vec::new(),
            });
        }
        day.without_token += u64::from(!served);
        // The app sends requests continuously. Nothing changes before the broker's next timer, or before the next second without a token.
        let due = broker.next_due().map_or(DAY, |due| due.unix_seconds().saturating_sub(MIDNIGHT) + 1);
        second = if served { due.max(second + 1) } else { second + 1 };
    }
}

fn response(status: u16, body: &[u8]) -> Response {
    Response { status, retry_after: None, request_id: None, body: body.to_vec(), is_envoys_own: false }
}
