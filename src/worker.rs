//! What one worker's VM knows: its broker, and what is to become of the requests that wait.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use entra_exchange_core::broker::{Answer, Broker, Grant, Issued, Limits, QueueId, StreamId, WorkerId};
use entra_exchange_core::destination::{Delivery, Effect};
use entra_exchange_core::problem::Problem;
use entra_exchange_core::time::Timestamp;
use proxy_wasm::hostcalls;

use crate::envoy::{Shared, nudge};

/// One worker's VM.
pub(crate) struct Worker {
    limits: Limits,
    /// Made with the first request that needs a token, or with the first tick when there are tokens to keep warm: the
    /// canary never has either.
    at_work: Option<AtWork>,
}

pub(crate) struct AtWork {
    pub(crate) broker: Broker,
    pub(crate) queue: QueueId,
    waiting: HashMap<StreamId, Delivery>,
}

impl Worker {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self { limits, at_work: None }
    }

    pub(crate) fn at_work(&mut self) -> Option<&mut AtWork> {
        self.at_work.as_mut()
    }

    /// Puts it to work, if it is not yet.
    pub(crate) fn begin(&mut self) -> &mut AtWork {
        let limits = self.limits;
        self.at_work.get_or_insert_with(|| AtWork::new(limits))
    }

    /// Gets a token for a request: what to do with it now, or `None` when it is to pause.
    pub(crate) fn ask(
        &mut self,
        grant: &Arc<Grant>,
        delivery: Delivery,
        stream: StreamId,
        now: Timestamp,
    ) -> Option<Effect> {
        let at_work = self.begin();
        let (answer, look) = at_work.broker.get(grant, delivery.need(), stream, now, &Shared);
        if look {
            nudge(at_work.queue, grant.key());
        }
        match answer {
            Answer::Ready(issued) => Some(delivery.deliver(Ok(&issued), now)),
            Answer::Failed(problem) => Some(delivery.deliver(Err(&problem), now)),
            Answer::Pending => {
                at_work.waiting.insert(stream, delivery);
                None
            }
        }
    }
}

impl AtWork {
    fn new(limits: Limits) -> Self {
        let worker = WorkerId(random());
        // One name has one reader, the last that registered it: so each worker has a name of its own.
        let name = format!("entra-exchange/{:016x}", worker.0);
        let queue = QueueId(hostcalls::register_shared_queue(&name).unwrap_or_default());
        Self { broker: Broker::new(worker, queue, limits), queue, waiting: HashMap::new() }
    }

    /// What to do to a request that waited.
    pub(crate) fn deliver(
        &mut self,
        stream: StreamId,
        outcome: Result<&Issued, &Problem>,
        now: Timestamp,
    ) -> Option<Effect> {
        Some(self.waiting.remove(&stream)?.deliver(outcome, now))
    }

    /// A request is gone.
    pub(crate) fn forget(&mut self, stream: StreamId) {
        if self.waiting.remove(&stream).is_some() {
            self.broker.forget(stream);
        }
    }
}

/// A random number: the standard library seeds its hash maps from the host's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
