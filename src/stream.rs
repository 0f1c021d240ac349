//! One request: decided at its headers, paused while its connection is made or its token is fetched.

use std::cell::RefCell;
use std::rc::Rc;

use entra_exchange_core::broker::StreamId;
use entra_exchange_core::policy::Policy;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

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

impl Context for Stream {
    fn on_done(&mut self) -> bool {
        self.worker.borrow_mut().forget(self.id);
        true
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let goes_on = self.worker.borrow_mut().receive(self.id, &self.policy);
        if goes_on { Action::Continue } else { Action::Pause }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.worker.borrow_mut().answered(self.id);
        Action::Continue
    }
}
