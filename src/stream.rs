//! One request: decided at its headers, paused while its token is fetched.

use std::cell::RefCell;
use std::rc::Rc;

use entra_exchange_core::broker::StreamId;
use entra_exchange_core::destination::{Decision, Policy};
use entra_exchange_core::http::Request;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType};

use crate::envoy;
use crate::worker::Worker;

/// One request.
pub(crate) struct Stream {
    id: StreamId,
    policy: Rc<Policy>,
    worker: Rc<RefCell<Worker>>,
}

impl Stream {
    pub(crate) const fn new(id: StreamId, policy: Rc<Policy>, worker: Rc<RefCell<Worker>>) -> Self {
        Self { id, policy, worker }
    }
}

/// The request's headers as Envoy has them.
struct Headers;

impl Request for Headers {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok().flatten()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path.to_vec()).ok().flatten()
    }
}

impl Context for Stream {
    fn on_done(&mut self) -> bool {
        if let Some(at_work) = self.worker.borrow_mut().at_work() {
            at_work.forget(self.id);
        }
        true
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let effect = match self.policy.decide(&Headers) {
            Decision::Pass => return Action::Continue,
            Decision::Reply(reply) => {
                envoy::send(&reply);
                return Action::Pause;
            }
            Decision::Exchange(grant, delivery) => {
                self.worker.borrow_mut().ask(&grant, delivery, self.id, envoy::now())
            }
        };
        match effect {
            Some(effect) if envoy::apply(&effect) => Action::Continue,
            // Answered, or waiting.
            _ => Action::Pause,
        }
    }
}
