//! The proxy-wasm ABI 0.2.1 (github.com/proxy-wasm/spec, `abi-versions/v0.2.1`), as far as the filter needs it.
//!
//! A host calls back only what a module exports, and each callback costs a call into the VM; so `plugin!` exports those
//! that the filter acts on and no others. The published SDK for Rust exports all of them, keeps a context object for each stream, gives the answer to a
//! call to whichever context was active when the call was made, and panics on statuses that it does not expect. Here a stream is
//! a number, the answer to a call goes to the root context, and every status is an `Err`.
//!
//! ```ignore
//! struct Filter { /* … */ }
//! impl entra_exchange_abi::Plugin for Filter { /* … */ }
//! entra_exchange_abi::plugin!(Filter);
//! ```
//!
//! `unsafe` is in `sys.rs` alone.

// Host calls exist in a host only.
#![cfg(target_family = "wasm")]

mod contexts;
pub mod hostcalls;
mod sys;

pub use contexts::Contexts;
#[doc(hidden)]
pub use sys::{allocate, initialize};

/// What a host does with a request when a callback returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on to the next filter.
    Continue,
    /// Wait for [`hostcalls::resume_http_request`] or [`hostcalls::send_local_response`].
    Pause,
}

impl Action {
    /// `proxy_action_t`
    #[doc(hidden)]
    pub const fn code(self) -> u32 {
        match self {
            Self::Continue => 0,
            Self::Pause => 1,
        }
    }
}

/// One plugin configuration in one VM: the root context. A host calls one method at a time and never one within another.
pub trait Plugin {
    /// Makes the root context with this number.
    fn new(context: u32) -> Self;

    /// The VM starts. `false` refuses it.
    fn on_vm_start(&mut self) -> bool;

    /// The plugin's configuration is here. `false` rejects it.
    fn on_configure(&mut self, configuration: Vec<u8>) -> bool;

    /// The period of [`hostcalls::set_tick_period`] is over.
    fn on_tick(&mut self);

    /// A shared queue that this VM registered has a message.
    fn on_queue_ready(&mut self, queue: u32);

    /// The answer to [`hostcalls::dispatch_http_call`] is here, with this many headers and bytes of body. Without headers there is
    /// none: the connection broke.
    fn on_http_call_response(&mut self, call: u32, headers: usize, body_size: usize);

    /// The headers of a request are here.
    fn on_request_headers(&mut self, stream: u32) -> Action;

    /// The headers of the response to a request are here.
    fn on_response_headers(&mut self, stream: u32) -> Action;

    /// A stream is over, and its number may be used for another.
    fn on_delete(&mut self, stream: u32);
}

/// Exports the callbacks of a [`Plugin`] to the host.
#[macro_export]
macro_rules! plugin {
    ($plugin:ty) => {
        mod proxy_wasm_exports {
            use super::*;

            thread_local! {
                static CONTEXTS: $crate::Contexts<$plugin> = const { $crate::Contexts::empty() };
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_abi_version_0_2_1() {}

            #[unsafe(no_mangle)]
            extern "C" fn _initialize() {
                $crate::initialize();
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
                $crate::allocate(size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_context_create(context: u32, root: u32) {
                CONTEXTS.with(|contexts| contexts.create(context, root));
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_vm_start(root: u32, _configuration_size: usize) -> u32 {
                CONTEXTS.with(|contexts| contexts.on_vm_start(root))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_configure(root: u32, configuration_size: usize) -> u32 {
                CONTEXTS.with(|contexts| contexts.on_configure(root, configuration_size))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_tick(root: u32) {
                CONTEXTS.with(|contexts| contexts.on_tick(root));
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_queue_ready(root: u32, queue: u32) {
                CONTEXTS.with(|contexts| contexts.on_queue_ready(root, queue));
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_http_call_response(root: u32, call: u32, headers: usize, body: usize, _: usize) {
                CONTEXTS.with(|contexts| contexts.on_http_call_response(root, call, headers, body));
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_headers(stream: u32, _headers: usize, _end_of_stream: u32) -> u32 {
                CONTEXTS.with(|contexts| contexts.on_request_headers(stream))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_response_headers(stream: u32, _headers: usize, _end_of_stream: u32) -> u32 {
                CONTEXTS.with(|contexts| contexts.on_response_headers(stream))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_delete(context: u32) {
                CONTEXTS.with(|contexts| contexts.delete(context));
            }
        }
    };
}
