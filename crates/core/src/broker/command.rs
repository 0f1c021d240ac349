//! What the broker requests from the engine's driver.

use std::sync::Arc;

use super::freshness::CachedToken;
use super::readiness::ReadinessStatus;
use super::vocabulary::{QueueId, StreamId};
use crate::assertion::Source;
use crate::entra::TokenKey;
use crate::event::Event;
use crate::http::HttpCall;
use crate::metrics::Measurement;
use crate::problem::Problem;

/// The purpose of a call, which identifies it in the report of its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To ask this source for a federated token.
    Assertion(Source),
    /// To request the token with this key from the token endpoint.
    Token(TokenKey),
}

/// An action that the broker requests from the engine's driver.
pub(crate) enum Command {
    /// Start a call. Report its result with this purpose to [`super::Broker::call_finished`]. A call replaces an earlier one with the same
    /// purpose, whose result must not be reported.
    Call(Purpose, HttpCall),
    /// Answer a readiness probe that waits.
    FinishProbe(StreamId, ReadinessStatus),
    /// Make the worker that owns this queue poll the key ([`super::Broker::poll`]).
    Wake(QueueId, TokenKey),
    /// Give the worker that owns this queue another turn, in which it continues its waits for sources and its probes
    /// ([`super::Broker::continue_sources`], [`super::Broker::start_probe`]).
    Nudge(QueueId),
    /// Resume or answer a paused request with this result.
    Finish(StreamId, Result<Arc<CachedToken>, Problem>),
    /// Write an event to the log.
    Log(Event),
    /// Write an event of an exchange to the log, if the configuration logs exchanges.
    LogExchange(Event),
    /// Record a metric value.
    Measure(Measurement),
}
