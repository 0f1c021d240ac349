//! Forwards Envoy's callbacks to the engine.

use entra_exchange_abi::hostcalls::{self, BufferType, MapType};
use entra_exchange_abi::{Action, Plugin};
use entra_exchange_core::broker::StreamId;
use entra_exchange_core::engine::{CallId, Engine, Flow, Host as _};
use entra_exchange_core::event::Event;
use entra_exchange_core::http::CallResponse;
use entra_exchange_core::status_page::Build;

use crate::host::Envoy;

/// The version and commit of this module.
const BUILD: Build = Build { version: VERSION, commit: env!("ENTRA_EXCHANGE_COMMIT") };

const VERSION: &str =
    if cfg!(feature = "next") { concat!(env!("CARGO_PKG_VERSION"), "+next") } else { env!("CARGO_PKG_VERSION") };

/// The fingerprint of the sources, by which tests reject a module that was built from other sources.
#[used]
static SOURCES: &str = env!("ENTRA_EXCHANGE_SOURCES");

/// The filter for one plugin configuration in one VM.
pub(crate) struct Filter {
    envoy: Envoy,
    /// The engine; `None` until a configuration is accepted. Without it every request is paused, and none is forwarded.
    engine: Option<Engine>,
}

impl Filter {
    /// Passes an event of the root context to the engine.
    fn root_event(&mut self, event: impl FnOnce(&mut Engine, &mut Envoy)) {
        self.envoy.enter_root_callback();
        if let Some(engine) = &mut self.engine {
            event(engine, &mut self.envoy);
        }
    }
}

impl Plugin for Filter {
    fn new(context: u32) -> Self {
        Self { envoy: Envoy::new(context), engine: None }
    }

    fn on_vm_start(&mut self) -> bool {
        self.envoy.log(&Event::info("start").with("version", BUILD.version).with("commit", BUILD.commit));
        true
    }

    fn on_configure(&mut self, text: Vec<u8>) -> bool {
        self.envoy.enter_root_callback();
        let engine = Engine::configure(&text, &|name| std::env::var(name).ok(), BUILD, &mut self.envoy);
        let accepted = engine.is_some();
        // A rejected configuration leaves the previous engine in place.
        self.engine = engine.or(self.engine.take());
        accepted
    }

    fn on_tick(&mut self) {
        self.root_event(|engine, envoy| engine.timer(envoy));
    }

    fn on_queue_ready(&mut self, queue: u32) {
        let mut messages = Vec::new();
        while let Ok(Some(message)) = hostcalls::dequeue_shared_queue(queue) {
            messages.push(message);
        }
        self.root_event(|engine, envoy| engine.woken(&messages, envoy));
    }

    fn on_http_call_response(&mut self, number: u32, headers: usize, body_size: usize) {
        let response = response(headers, body_size);
        self.root_event(|engine, envoy| engine.call_finished(CallId(number), Ok(response), envoy));
    }

    fn on_request_headers(&mut self, stream: u32) -> Action {
        self.envoy.enter_stream_callback(stream);
        match self.engine.as_mut().map(|engine| engine.request(StreamId(stream), &mut self.envoy)) {
            Some(Flow::Continue) => Action::Continue,
            Some(Flow::Pause) | None => Action::Pause,
        }
    }

    fn on_response_headers(&mut self, stream: u32) -> Action {
        self.envoy.enter_stream_callback(stream);
        if let Some(engine) = &mut self.engine {
            engine.response(StreamId(stream), &mut self.envoy);
        }
        Action::Continue
    }

    fn on_delete(&mut self, stream: u32) {
        self.envoy.enter_stream_callback(stream);
        if let Some(engine) = &mut self.engine {
            engine.stream_gone(StreamId(stream), &mut self.envoy);
        }
    }
}

/// Reads the response of the call that Envoy reports. A call without response headers failed, and Envoy has no map to read.
fn response(headers: usize, body_size: usize) -> CallResponse {
    if headers == 0 {
        return CallResponse::broken_off();
    }
    let value = |map: MapType, name: &str| hostcalls::get_map_value_bytes(map, name).ok().flatten();
    // The status of a gRPC call is in the trailers, or in the headers if there is no body.
    let trailer =
        |name: &str| name.starts_with("grpc-").then(|| value(MapType::HttpCallResponseTrailers, name)).flatten();
    let header = |name: &str| value(MapType::HttpCallResponseHeaders, name).or_else(|| trailer(name));
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).ok().flatten().unwrap_or_default();
    CallResponse::new(header, body)
}
