//! One request: decided at its headers, paused while its token is fetched.

use std::cell::RefCell;
use std::rc::Rc;

use entra_exchange_core::broker::{self, StreamId};
use entra_exchange_core::http::Request;
use entra_exchange_core::metrics::Outcome;
use entra_exchange_core::policy::{Decision, Policy};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType};

use crate::envoy::{self, Shared};
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
        self.worker.borrow_mut().forget(self.id);
        true
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let mut worker = self.worker.borrow_mut();
        match self.policy.decide(&Headers) {
            Decision::Ignore => Action::Continue,
            Decision::Pass(identity) => {
                worker.account(Some(&identity), Outcome::Passed);
                Action::Continue
            }
            Decision::Refuse(identity, reply) => {
                worker.account(identity.as_deref(), Outcome::Refused);
                envoy::send(&reply);
                Action::Pause
            }
            Decision::Report(grant) => {
                worker.account(Some(grant.identity()), Outcome::Reported);
                worker.want(&grant, envoy::now());
                Action::Continue
            }
            Decision::Reply(reply) => {
                envoy::send(&reply);
                Action::Pause
            }
            Decision::Check(readiness) => {
                if let Some(outcome) = worker.check(&readiness, self.id, envoy::now()) {
                    envoy::tell_readiness(&outcome);
                }
                Action::Pause
            }
            Decision::Status => {
                envoy::send(&broker::status(envoy::BUILD, envoy::now(), &Shared));
                Action::Pause
            }
            Decision::Exchange(grant, delivery) => {
                let ending = worker.ask(grant, delivery, self.id, envoy::now());
                // Without an ending it waits.
                let goes_on = ending.is_some_and(|ending| worker.end(self.id, ending));
                if goes_on { Action::Continue } else { Action::Pause }
            }
        }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.worker.borrow_mut().answered(self.id);
        Action::Continue
    }
}
