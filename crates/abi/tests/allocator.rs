//! Tests the allocator natively, with libc's `malloc` below it as in the module. The rest of the crate needs a host.

// A test may panic. Other systems have no `malloc_usable_size`.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

// Only the crate itself exports it.
#[allow(unreachable_pub)]
#[path = "../src/allocator.rs"]
mod allocator;
