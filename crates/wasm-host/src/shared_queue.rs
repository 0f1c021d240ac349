//! Shared queues between VMs, as `shared_queue.cc` of Envoy's proxy-wasm host implements them.

use std::collections::{HashMap, VecDeque};

use crate::log::Thread;
use crate::status::Status;

/// All queues of a process by id.
#[derive(Default)]
pub(crate) struct SharedQueues {
    ids: HashMap<Vec<u8>, u32>,
    queues: HashMap<u32, Queue>,
}

struct Queue {
    reader: Reader,
    messages: VecDeque<Vec<u8>>,
}

/// The context that is notified of messages in a queue.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) thread: Thread,
    /// The root context's id. The VM that replaces a crashed one has the same id, so it is notified.
    pub(crate) context: u32,
}

impl SharedQueues {
    /// Registers the reader of a queue and returns the queue's id. The last reader replaces earlier ones; the messages stay.
    pub(crate) fn register(&mut self, name: &[u8], reader: Reader) -> u32 {
        let next = u32::try_from(self.ids.len()).unwrap_or(u32::MAX) + 1;
        let number = *self.ids.entry(name.to_vec()).or_insert(next);
        self.queues.entry(number).or_insert_with(|| Queue { reader, messages: VecDeque::new() }).reader = reader;
        number
    }

    pub(crate) fn resolve(&self, name: &[u8]) -> Result<u32, Status> {
        self.ids.get(name).copied().ok_or(Status::NotFound)
    }

    /// Adds a message and returns the reader to notify.
    pub(crate) fn enqueue(&mut self, number: u32, message: &[u8]) -> Result<Reader, Status> {
        let queue = self.queues.get_mut(&number).ok_or(Status::NotFound)?;
        queue.messages.push_back(message.to_vec());
        Ok(queue.reader)
    }

    pub(crate) fn dequeue(&mut self, number: u32) -> Result<Vec<u8>, Status> {
        self.queues.get_mut(&number).ok_or(Status::NotFound)?.messages.pop_front().ok_or(Status::Empty)
    }
}
