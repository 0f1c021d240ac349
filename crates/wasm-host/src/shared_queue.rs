//! Queues between VMs: `shared_queue.cc` of Envoy's proxy-wasm host.

use std::collections::{HashMap, VecDeque};

use crate::log::Thread;
use crate::status::Status;

/// All queues of a process, by number.
#[derive(Default)]
pub(crate) struct SharedQueues {
    numbers: HashMap<Vec<u8>, u32>,
    queues: HashMap<u32, Queue>,
}

struct Queue {
    reader: Reader,
    messages: VecDeque<Vec<u8>>,
}

/// Who is told that a message is there.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) thread: Thread,
    /// The root context. A VM that takes the place of a dead one has the same number for it, and is told.
    pub(crate) context: u32,
}

impl SharedQueues {
    /// One name is one queue. Who registers it last is its reader; the messages stay.
    pub(crate) fn register(&mut self, name: &[u8], reader: Reader) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX) + 1;
        let number = *self.numbers.entry(name.to_vec()).or_insert(next);
        self.queues.entry(number).or_insert_with(|| Queue { reader, messages: VecDeque::new() }).reader = reader;
        number
    }

    pub(crate) fn resolve(&self, name: &[u8]) -> Result<u32, Status> {
        self.numbers.get(name).copied().ok_or(Status::NotFound)
    }

    /// Puts a message in, and says who is to be told on a later turn.
    pub(crate) fn enqueue(&mut self, number: u32, message: &[u8]) -> Result<Reader, Status> {
        let queue = self.queues.get_mut(&number).ok_or(Status::NotFound)?;
        queue.messages.push_back(message.to_vec());
        Ok(queue.reader)
    }

    pub(crate) fn dequeue(&mut self, number: u32) -> Result<Vec<u8>, Status> {
        self.queues.get_mut(&number).ok_or(Status::NotFound)?.messages.pop_front().ok_or(Status::Empty)
    }
}
