//! Routes each callback to the root context that it belongs to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::hostcalls::{self, BufferType};
use crate::{Action, Plugin};

/// The root contexts of a VM and the streams of each. A VM has several root contexts when several listeners have plugin
/// configurations with the same `vm_id`.
pub struct Contexts<P> {
    roots: RefCell<Vec<(u32, P)>>,
    /// The root context of each stream that belongs to another one than the first of `roots`. With a single root context, as is usual,
    /// nothing is kept for a stream.
    of_others: RefCell<Option<Streams>>,
}

type Streams = HashMap<u32, u32, BuildHasherDefault<ContextHasher>>;

/// Hashes a context id with one multiplication, which is enough: the host assigns sequential ids.
#[derive(Default)]
struct ContextHasher(u64);

impl Hasher for ContextHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl<P: Plugin> Contexts<P> {
    /// Creates an empty registry.
    pub const fn empty() -> Self {
        Self { roots: RefCell::new(Vec::new()), of_others: RefCell::new(None) }
    }

    /// `proxy_on_context_create`. A parent id of 0 denotes a root context.
    pub fn create(&self, context: u32, root: u32) {
        if root == 0 {
            self.roots.borrow_mut().push((context, P::new(context)));
        } else if self.roots.borrow().first().is_none_or(|(first, _)| *first != root) {
            self.of_others.borrow_mut().get_or_insert_default().insert(context, root);
        }
    }

    /// `proxy_on_vm_start`
    pub fn on_vm_start(&self, root: u32) -> u32 {
        u32::from(self.root(root, Plugin::on_vm_start).unwrap_or(false))
    }

    /// `proxy_on_configure`
    pub fn on_configure(&self, root: u32, size: usize) -> u32 {
        let read = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        let configuration = read.ok().flatten().unwrap_or_default();
        u32::from(self.root(root, |plugin| plugin.on_configure(configuration)).unwrap_or(false))
    }

    /// `proxy_on_tick`
    pub fn on_tick(&self, root: u32) {
        self.root(root, Plugin::on_tick);
    }

    /// `proxy_on_queue_ready`
    pub fn on_queue_ready(&self, root: u32, queue: u32) {
        self.root(root, |plugin| plugin.on_queue_ready(queue));
    }

    /// `proxy_on_http_call_response`. The host delivers the response to the root context, whichever context was active when the call
    /// was made.
    pub fn on_http_call_response(&self, root: u32, call: u32, headers: usize, body_size: usize) {
        self.root(root, |plugin| plugin.on_http_call_response(call, headers, body_size));
    }

    /// `proxy_on_request_headers`
    pub fn on_request_headers(&self, stream: u32) -> u32 {
        // An unknown stream must not be forwarded without a decision.
        self.stream(stream, |plugin| plugin.on_request_headers(stream)).unwrap_or(Action::Pause).code()
    }

    /// `proxy_on_response_headers`
    pub fn on_response_headers(&self, stream: u32) -> u32 {
        self.stream(stream, |plugin| plugin.on_response_headers(stream)).unwrap_or(Action::Continue).code()
    }

    /// `proxy_on_delete`
    pub fn delete(&self, context: u32) {
        let is_root = self.root(context, |_| ()).is_some();
        if is_root {
            return self.roots.borrow_mut().retain(|(root, _)| *root != context);
        }
        self.stream(context, |plugin| plugin.on_delete(context));
        if let Some(streams) = self.of_others.borrow_mut().as_mut() {
            streams.remove(&context);
        }
    }

    /// Calls the root context of a stream. The host deletes a root context after all of its streams.
    fn stream<T>(&self, stream: u32, act: impl FnOnce(&mut P) -> T) -> Option<T> {
        let other = self.of_others.borrow().as_ref().and_then(|streams| streams.get(&stream).copied());
        match other {
            Some(root) => self.root(root, act),
            None => self.roots.borrow_mut().first_mut().map(|(_, plugin)| act(plugin)),
        }
    }

    fn root<T>(&self, root: u32, act: impl FnOnce(&mut P) -> T) -> Option<T> {
        let mut roots = self.roots.borrow_mut();
        let (_, plugin) = roots.iter_mut().find(|(number, _)| *number == root)?;
        Some(act(plugin))
    }
}
