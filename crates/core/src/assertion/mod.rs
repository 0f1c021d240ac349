//! The federated token (the client assertion): its sources, when each is asked, and checks that Entra can accept the token.
//!
//! [`Assertions`] holds one state machine for each source. Exchanges, readiness probes and gauges never ask a source themselves: they
//! call [`Assertions::want`] and get an assertion, a failure, or the answer that they must wait for one. A source is therefore asked
//! once for all that want it at the same time (in one worker), and its answer, good or bad, serves everything that wants it within
//! [`Source::reuse`]. An assertion that Entra rejects is dropped ([`Assertions::refuse`]), so that the retry reads the source again.
//!
//! The signature is not verified: Entra does that. Checking the claims here gives an operator a precise detail and remedy instead of an
//! AADSTS code.
//!
//! # How to add a source
//!
//! 1. Add a variant to [`Source`] with the values of its configuration. A source can be printed; a secret in it is a
//!    [`Secret`](crate::secret::Secret), which cannot.
//! 2. Add its row to each method of [`Source`]: [`Source::kind`] and [`Source::id`] (they are part of the token key), [`Source::call`]
//!    (the request), [`Source::read`] (the answer, and the problems of this source), [`Source::timeout`], [`Source::pause_before_retry`] (the
//!    attempts), [`Source::reuse`] and [`Source::back_off`] (how long an answer, good or bad, is used again). The machine, the broker,
//!    readiness and the gauges need no change: they know a source only by these methods.
//! 3. Read it from the configuration (`config/identities.rs`).
//!
//! A source that needs another source's assertion (a chain) wants it through the same [`Assertions::want`] before it makes its own call:
//! its machine is in the state `Asking` from then on, and continues where [`Assertions::answered`] ends the other one's call.

mod machine;
mod source;
mod token;

pub(crate) use machine::{AssertionCall, Assertions, ReadResult};
pub use source::Source;
#[cfg(test)]
pub(crate) use token::tests;
pub use token::{Assertion, Claims};
pub(crate) use token::{Fingerprint, Lifetime};
