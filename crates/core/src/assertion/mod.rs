//! The federated token (the client assertion): its sources, when each is asked, and checks that Entra can accept the token.
//!
//! `Assertions` holds one state machine for each source. Exchanges, readiness probes and gauges never ask a source themselves: they
//! call `Assertions::want` and get an assertion, a failure, or the answer that they must wait for one. A source is therefore asked
//! once for all that want it at the same time (in one worker), and its answer, good or bad, serves everything that wants it within
//! `Source::reuse_until`. An assertion that Entra rejects is dropped (`Assertions::refuse`), so that the retry reads the source again.
//!
//! The signature is not verified: Entra does that. Checking the claims here gives an operator a precise detail and remedy instead of an
//! AADSTS code.
//!
//! # How to add a source
//!
//! A source that is one HTTP call with the token at one place in the answer is a row of the table in `http/named.rs`, and a kind with its
//! own fields in `config/assertions.rs`. Any other source:
//!
//! 1. Add a variant to [`Source`] with the values of its configuration. A source can be printed; a secret in it is a
//!    `Secret`, which cannot.
//! 2. Add it to each method of [`Source`]. The machine, the broker, readiness and the gauges need no change: they know a source only by
//!    these methods.
//! 3. Read it from the configuration (`config/assertions.rs`).
//!
//! A source that needs another source's assertion ([`Source::input`]) waits until that one is known, and fails with it.
//!
//! # How many calls a source gets
//!
//! A worker has at most one call to a source at a time, whatever the number of scopes. Workers do not share assertions: the lease of an
//! exchange lets only one worker ask for a scope, so that at most as many workers ask as there are scopes due at the same time, each of them
//! once within the time for which an assertion is used again. At a cold start of forty scopes in four workers that is four calls
//! (`broker/tests/sources.rs`), and otherwise about one an hour. One call for all workers would need a lease of the source, its waiting
//! workers, and the assertion itself in shared data, for a saving of a few calls at the start.

mod http;
mod machine;
mod source;
mod token;

pub use http::HttpSource;
pub(crate) use http::{
    BACK_OFF, Body, Expiry, Format, MAX_URL, NAMED, Named, Request, SPIFFE, Target, Text, basic, encode,
};
pub(crate) use machine::{AssertionCall, Assertions, Read, ReadResult};
pub use source::Source;
#[cfg(test)]
pub(crate) use token::tests;
pub use token::{Assertion, Claims};
pub(crate) use token::{Expected, Fingerprint, Lifetime};
