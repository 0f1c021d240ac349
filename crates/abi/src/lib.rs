//! The proxy-wasm ABI 0.2.1 (github.com/proxy-wasm/spec, `abi-versions/v0.2.1`), reduced to the parts that the filter uses.
//!
//! A host invokes only the callbacks that a module exports, and each callback costs a call into the VM. Therefore `plugin!` exports
//! only the callbacks that the filter implements. The published SDK for Rust exports all of them, keeps a context object for each
//! stream, delivers the response to a call to the context that was active when the call was made, and panics on unexpected statuses.
//! In this crate a stream is an id, the root context receives every response, and every status is an `Err`.
//!
//! ```ignore
//! struct Filter { /* … */ }
//! impl entra_exchange_abi::Plugin for Filter { /* … */ }
//! entra_exchange_abi::plugin!(Filter);
//! ```
//!
//! Only `sys.rs` and `allocator.rs` contain `unsafe`.

// Host calls exist in a host only.
#![cfg(target_family = "wasm")]

mod allocator;
mod contexts;
pub mod hostcalls;
mod status;
mod sys;

#[doc(hidden)]
pub use allocator::Allocator;
pub use contexts::Contexts;
#[doc(hidden)]
pub use sys::allocate;

use hostcalls::LogLevel;

/// `_initialize`: the host calls it once, before any other function. A panic's text appears in the host's log.
#[doc(hidden)]
pub fn initialize() {
    sys::initialize_libc();
    std::panic::set_hook(Box::new(|panic| {
        let _ = hostcalls::log(LogLevel::Critical, &panic.to_string());
    }));
}

/// Tells the host how to handle a request when a callback returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Continue with the next filter.
    Continue,
    /// Stop the filter chain until [`hostcalls::resume_http_request`] or [`hostcalls::send_local_response`].
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

/// The root context: one plugin configuration in one VM. The host never calls a method while another one runs.
pub trait Plugin {
    /// Creates the root context with this id.
    fn new(context: u32) -> Self;

    /// Called when the VM starts. `false` rejects the start.
    fn on_vm_start(&mut self) -> bool;

    /// Called with the plugin's configuration. `false` rejects it.
    fn on_configure(&mut self, configuration: Vec<u8>) -> bool;

    /// Called whenever the period of [`hostcalls::set_tick_period`] has elapsed.
    fn on_tick(&mut self);

    /// Called when a shared queue that this VM registered has a message.
    fn on_queue_ready(&mut self, queue: u32);

    /// Called with the response to [`hostcalls::dispatch_http_call`]: its number of headers and the size of its body in bytes. Zero
    /// headers mean that there is no response because the connection was closed.
    fn on_http_call_response(&mut self, call: u32, headers: usize, body_size: usize);

    /// Called with the headers of a request.
    fn on_request_headers(&mut self, stream: u32) -> Action;

    /// Called with the headers of the response to a request.
    fn on_response_headers(&mut self, stream: u32) -> Action;

    /// Called when a stream has ended. The host may reuse its id.
    fn on_delete(&mut self, stream: u32);
}

/// Exports the callbacks of a [`Plugin`] to the host, and sets the allocator.
#[macro_export]
macro_rules! plugin {
    ($plugin:ty) => {
        mod proxy_wasm_exports {
            use super::*;

            #[global_allocator]
            static ALLOCATOR: $crate::Allocator = $crate::Allocator;

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
