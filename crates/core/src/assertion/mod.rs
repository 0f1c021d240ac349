//! The federated token (the client assertion): its sources, when each is asked, and checks that Entra can accept the token.
//!
//! `Assertions` holds one state machine for each source. Exchanges, readiness probes and gauges never ask a source themselves: they
//! call `Assertions::want` and get an assertion, a failure, or the answer that they must wait for one. A source is therefore asked
//! once for all that want it at the same time, and its answer, good or bad, serves everything that wants it within
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
//! At most one at a time in one Envoy process, whatever the number of workers and scopes, and none while its answer is used again or it backs
//! off. `Workers` is what the machine sees of the other workers: before it asks a source it claims the right to do so, and it publishes the
//! answer. The broker implements it with an entry of the store that has the form of a token's (`broker/sources.rs`): a lease that lasts
//! as long as the step that the worker executes, the workers to wake, and then the token or the failure with its back-off. So a worker that
//! dies or stalls delays the others until its lease expires: by the timeout of the source.
//!
//! An answer also serves the workers that waited for it while it is not used again. The rejection of an assertion, by Entra or by the source
//! whose input it is, drops it in all workers, unless the source has issued it since the rejected call began: for a burst of exchanges with
//! the same assertion, the source is asked once more.
//!
//! A file is read by each worker itself (`Source::is_shared`): Envoy serves it on this machine, it is used again for a second only, and so
//! the projected token stays out of shared data.

mod http;
mod machine;
mod source;
mod token;

pub use http::HttpSource;
pub(crate) use http::{
    BACK_OFF, Body, Expiry, Format, MAX_URL, NAMED, Named, Request, SPIFFE, Target, Text, basic, encode,
};
#[cfg(test)]
pub(crate) use machine::tests::Alone;
pub(crate) use machine::{Assertions, Claimed, Read, ReadResult, Wait, Workers};
pub use source::Source;
#[cfg(test)]
pub(crate) use token::tests;
pub use token::{Assertion, Claims};
pub(crate) use token::{Expected, Fingerprint, Lifetime};
