//! The host calls that root and streams share. Headers are bytes throughout: the SDK's `&str` getters trap on others.

use entra_exchange_abi::hostcalls::{self, LogLevel, MapType, Status};
use entra_exchange_core::broker::{Build, QueueId, ReadinessStatus, SharedData, StreamId};
use entra_exchange_core::decision::Effect;
use entra_exchange_core::event::{Event, Level};
use entra_exchange_core::http::{Reply, RequestAccess};
use entra_exchange_core::policy::{NODE_ROUTE, OWN_HEADER, readiness_reply};
use entra_exchange_core::problem::Code;
use entra_exchange_core::request_log::response_code_details;
use entra_exchange_core::time::Timestamp;

/// The message that only has the root context take another turn: no key is as short.
pub(crate) const ANOTHER_TURN: &[u8] = b"";

/// Envoy's clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::default().plus(hostcalls::get_current_time().unwrap_or_default())
}

/// Which module this is.
pub(crate) const BUILD: Build = Build { version: VERSION, commit: env!("ENTRA_EXCHANGE_COMMIT") };

const VERSION: &str =
    if cfg!(feature = "next") { concat!(env!("CARGO_PKG_VERSION"), "+next") } else { env!("CARGO_PKG_VERSION") };

/// The fingerprint of the sources, for the tests: they do not take another checkout's module for this one's.
#[used]
static SOURCES: &str = env!("ENTRA_EXCHANGE_SOURCES");

/// The memory that all workers share.
pub(crate) struct Shared;

impl SharedData for Shared {
    fn get(&self, name: &str) -> Option<(Vec<u8>, u32)> {
        hostcalls::get_shared_data(name).ok()
    }

    fn set(&self, name: &str, value: &[u8], cas: Option<u32>) -> bool {
        hostcalls::set_shared_data(name, value, cas).is_ok()
    }
}

/// Has the root context behind this queue take a turn: to look at a key again, when the message is one.
pub(crate) fn enqueue(queue: QueueId, message: &[u8]) {
    // A queue that is gone belonged to a VM that is gone: nobody waits there.
    let _ = hostcalls::enqueue_shared_queue(queue.0, message);
}

/// Writes an event to Envoy's log.
pub(crate) fn log(event: &Event) {
    let level = match event.level {
        Level::Info => LogLevel::Info,
        Level::Warn => LogLevel::Warn,
        Level::Error => LogLevel::Error,
    };
    let _ = hostcalls::log(level, &event.to_string());
}

/// The request in effect, as Envoy has it.
pub(crate) struct CurrentRequest;

impl RequestAccess for CurrentRequest {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok().flatten()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path).ok().flatten()
    }
}

/// Sets a header of the request in effect, in place of any other of its name; `None` takes it away.
fn set_header(name: &str, value: Option<&str>) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, value.map(str::as_bytes));
}

/// Lets the request in effect go on as it came: on a retry, or after an internal redirect, without the token that it got before.
pub(crate) fn forward_unchanged() {
    if let Some(header) = CurrentRequest.property(&[OWN_HEADER]).and_then(|name| String::from_utf8(name).ok())
        && !header.is_empty()
    {
        set_header(&header, None);
        set_filter_state(OWN_HEADER, "");
    }
}

/// Does to the request in effect what was decided; `code` says why, where it is answered with a problem. Returns whether it goes on.
pub(crate) fn apply(effect: &Effect, code: Option<Code>) -> bool {
    match effect {
        Effect::Authorize { header, value, without } => {
            without.iter().for_each(|name| set_header(name, None));
            set_header(header, Some(value));
            true
        }
        Effect::Pass => {
            forward_unchanged();
            true
        }
        Effect::Refuse(problem) => {
            send(&problem.reply_to(&CurrentRequest), code);
            false
        }
        Effect::Reply(reply) => {
            send(reply, code);
            false
        }
    }
}

/// Sets a value that access logs show as `%FILTER_STATE(wasm.<name>:PLAIN)%`, and that the filter finds on the next attempt. Returns
/// whether Envoy took it.
pub(crate) fn set_filter_state(name: &str, value: &str) -> bool {
    hostcalls::set_property(name, value.as_bytes()).is_ok()
}

/// Lets Envoy keep what is left under this name when an internal redirect makes another request of the same: else it would come
/// with our token, and nobody could tell. Returns whether it does.
pub(crate) fn keep_over_redirects(name: &str) -> bool {
    // `envoy.source.extensions.common.wasm.DeclarePropertyArguments`: field 1 is the name, field 5 how long it lives, 1 for
    // as long as the client's request.
    let Ok(length) = u8::try_from(name.len()) else { return false };
    let arguments = [&[0x0a, length], name.as_bytes(), &[0x28, 0x01]].concat();
    // What was declared already, by another plugin configuration in this VM, is a bad argument, and stays so.
    matches!(hostcalls::call_foreign_function("declare_property", &arguments), Ok(_) | Err(Status::BAD_ARGUMENT))
}

/// Whether the answer that has come is a 401.
pub(crate) fn is_unauthorized() -> bool {
    let status = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status");
    status.ok().flatten().is_some_and(|status| status == b"401")
}

/// Answers the request in effect. With a code, Envoy's response code details name it.
pub(crate) fn send(reply: &Reply, code: Option<Code>) {
    let details = code.map(response_code_details).unwrap_or_default();
    let headers: Vec<(&str, &str)> = reply.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let _ = hostcalls::send_local_response(reply.status, &details, &headers, &reply.body);
}

/// Answers a request that asks whether the pod is ready.
pub(crate) fn tell_readiness(status: &ReadinessStatus) {
    send(&readiness_reply(status, &CurrentRequest), status.outcome().err().map(|problem| problem.code));
}

/// Marks the request in effect as one that may go on to the node's metadata service, and has Envoy select its route again: a route may
/// match on the mark.
pub(crate) fn lead_to_node() {
    set_filter_state(NODE_ROUTE.0, NODE_ROUTE.1);
    let _ = hostcalls::call_foreign_function("clear_route_cache", &[]);
}

/// Whether the node's id is that of an Istio gateway.
pub(crate) fn is_gateway() -> bool {
    let id = hostcalls::get_property(&["xds", "node", "id"]).ok().flatten();
    id.is_some_and(|id| id.starts_with(b"router~"))
}

/// Does something to a paused request from the root context `root`: what is set and sent belongs to the stream meanwhile.
pub(crate) fn with_stream(stream: StreamId, root: u32, what: impl FnOnce()) {
    if hostcalls::set_effective_context(stream.0).is_ok() {
        what();
        let _ = hostcalls::set_effective_context(root);
    }
}
