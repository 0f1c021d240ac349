//! The HTTP server of the fakes.
//!
//! A fake is a function from a [`Request`] to a [`Response`], so a test can call it without a network. [`Server`] serves it on
//! loopback ports, in plaintext or over TLS, and applies the delay and the disconnect of a response.

#![forbid(unsafe_code)]

mod connection;
mod request;
mod response;
mod server;
mod tls;

pub use connection::Handler;
pub use request::Request;
pub use response::{Disconnect, Response};
pub use server::{Endpoint, Server};
pub use tls::Tls;
