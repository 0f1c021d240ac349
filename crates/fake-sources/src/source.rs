//! What all sources have in common: their state, their faults and the order of a response.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fake_entra::{Credential, Directory, Issuer};
use fake_http::{Request, Response};

use crate::faults::Fault;
use crate::token::Mint;

/// A service that issues federated tokens over HTTP.
pub trait Source: Clone + Send + Sync + 'static {
    /// The state that all sources have.
    fn state(&self) -> &State;

    /// The `sub` of its tokens.
    fn subject(&self) -> String;

    /// Checks a request and responds to it, without regard to faults of the delivery.
    ///
    /// # Errors
    /// When the service rejects the request.
    fn answer(&self, request: &Request, mint: &Mint<'_>) -> Result<Response, Rejection>;

    /// Responds to a request that arrives at `now`. The response contains the delay and the disconnect that the transport must apply.
    fn respond(&self, request: &Request, now: SystemTime) -> Response {
        let fault = self.state().begin();
        if let Some(Fault::Respond(response)) = fault {
            return response;
        }
        let token_fault = match &fault {
            Some(Fault::Token(fault)) => Some(fault),
            _ => None,
        };
        let mint = Mint { issuer: self.state().issuer(), now, fault: token_fault };
        let response = match self.answer(request, &mint) {
            Ok(response) => {
                self.state().counters().stats.issued += 1;
                response
            }
            Err(rejection) => {
                self.state().counters().stats.rejected.push(rejection.reason);
                rejection.response
            }
        };
        match fault {
            Some(Fault::Deliver(delivery)) => delivery.apply(response),
            _ => response,
        }
    }

    /// Adds faults after those that are already pending.
    fn add_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().counters().faults.extend(faults);
    }

    /// Returns the counters since the start or the last [`Source::reset`].
    fn stats(&self) -> Stats {
        self.state().counters().stats.clone()
    }

    /// Removes pending faults and resets the counters.
    fn reset(&self) {
        *self.state().counters() = Counters::default();
    }

    /// Creates the federated credential that lets this source's tokens for `audience` authenticate an application.
    fn credential(&self, tenant_id: &str, client_id: &str, audience: &str) -> Credential {
        Credential {
            tenant_id: tenant_id.to_owned(),
            client_id: client_id.to_owned(),
            issuer: self.state().issuer().url().to_owned(),
            subject: self.subject(),
            audience: audience.to_owned(),
        }
    }

    /// Makes the fake Entra accept this source's tokens for an application: it trusts the issuer's keys and has the credential.
    ///
    /// # Errors
    /// When Entra rejects the credential, see [`Directory::register_credential`].
    fn register(&self, directory: &Directory, tenant_id: &str, client_id: &str) -> Result<(), String> {
        let issuer = self.state().issuer();
        directory.trust_issuer(issuer.url(), issuer.jwks());
        directory.register_credential(self.credential(tenant_id, client_id, crate::AUDIENCE))
    }
}

/// The counters of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests received, including those that a fault affected.
    pub requests: u64,
    /// Responses with a token, even when a fault affected their delivery.
    pub issued: u64,
    /// Why requests were rejected, in order.
    pub rejected: Vec<String>,
}

/// The issuer, the faults and the counters of a source. Clones share them.
#[derive(Clone)]
pub struct State {
    issuer: Issuer,
    counters: Arc<Mutex<Counters>>,
}

#[derive(Default)]
pub(crate) struct Counters {
    faults: VecDeque<Fault>,
    stats: Stats,
}

impl State {
    pub(crate) fn new(issuer: Issuer) -> Self {
        Self { issuer, counters: Arc::default() }
    }

    /// The issuer that signs the tokens.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    fn begin(&self) -> Option<Fault> {
        let mut counters = self.counters();
        counters.stats.requests += 1;
        counters.faults.pop_front()
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A rejected request.
#[derive(Debug)]
pub struct Rejection {
    /// The response that the service sends.
    pub response: Response,
    /// What is wrong with the request, for the author of a test. It contains no secret.
    pub reason: String,
}

impl Rejection {
    pub(crate) fn new(response: Response, reason: impl Into<String>) -> Self {
        Self { response, reason: reason.into() }
    }
}
