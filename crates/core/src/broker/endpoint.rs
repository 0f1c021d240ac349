//! The response of the token endpoint, and what follows from it for the exchange.

use std::sync::Arc;
use std::time::Duration;

use super::exchange::Failed;
use super::freshness::CachedToken;
use super::slot::{Attempt, Exchange, Slot};
use super::{Broker, Turn, credential};
use crate::entra::{self, RetryClass, TokenSpec};
use crate::http::CallResult;
use crate::problem::{Code, Problem};

impl Broker {
    /// Processes the response of the token endpoint.
    pub(super) fn endpoint_answered(&mut self, slot: &mut Slot, answer: CallResult, turn: &mut Turn<'_>) {
        let now = turn.now;
        let Exchange::Calling { call, .. } = std::mem::replace(&mut slot.exchange, Exchange::Idle) else { return };
        let call = *call;
        let spec = Arc::clone(&slot.spec);
        let cluster = spec.clusters().get(call.cluster_index).map(String::as_str).unwrap_or_default();
        match entra::read_answer(answer, cluster, &spec, &call.assertion, now) {
            entra::EndpointAnswer::Granted { token, expires_in, refresh_in, request_id } => {
                let cached = CachedToken::new(token, call.asked_at, expires_in, refresh_in, self.random.next());
                match (cached.is_usable(now), call.attempt) {
                    (true, _) => self.succeed(slot, cached, cluster, request_id.as_ref(), turn),
                    (false, Attempt::First) => self.read(slot, Attempt::Second, turn),
                    (false, Attempt::Second) => {
                        let problem = expired_on_arrival(&spec, expires_in, now.since(call.asked_at));
                        self.fail(slot, Failed::transient(problem, call.asked_at), turn);
                    }
                }
            }
            entra::EndpointAnswer::Unreached { problem } => {
                let began = call.asked_at;
                if let Some(problem) = self.call_next(slot, call, *problem, turn) {
                    self.fail(slot, Failed::transient(problem, began), turn);
                }
            }
            entra::EndpointAnswer::Refused { problem, retry_class, retry_after } => {
                let retry_class = credential::retry_class_of(turn.store, &spec, &problem, retry_class, now);
                if credential::is_refusal(&problem) {
                    let mut workers = self.sharing(turn);
                    self.assertions.refuse(spec.assertion(), &call.assertion, call.asked_at, &mut workers);
                }
                match (call.attempt, retry_class) {
                    (Attempt::First, RetryClass::Immediate | RetryClass::StaleAssertion) => {
                        self.retry_refused(slot, &problem, retry_class, turn);
                    }
                    _ => {
                        let (assertion, began) = (call.assertion.fingerprint(), call.asked_at);
                        credential::record_refusal(turn.store, &spec, &problem, assertion, now);
                        let refused = credential::is_refusal(&problem).then_some(assertion);
                        let failed = Failed { problem: *problem, retry_class, began, retry_after, refused };
                        self.fail(slot, failed, turn);
                    }
                }
            }
        }
    }
}

/// The problem of a token that has expired on arrival. Its back-off prevents an endless sequence of exchanges.
fn expired_on_arrival(spec: &TokenSpec, lifetime: Duration, took: Duration) -> Problem {
    Problem::new(
        Code::EntraReplyInvalid,
        format!(
            "the token's lifetime ({} s) had already elapsed when it arrived, after {} s",
            lifetime.as_secs(),
            took.as_secs()
        ),
        "Check Entra's response time, the token lifetime policy of the tenant, and this node's clock.",
    )
    .about(spec.identity(), spec.scope())
}
