//! The gauges of each identity: the expiry of its tokens, its consecutive failures, and the age of its federated token.
//!
//! All workers of the process share a gauge, and the last value written wins. A worker therefore computes gauges from the store, not
//! from the tokens that it holds. Gauges change with exchanges and with time: an idle token must leave the minimum, and a federated
//! token that is not renewed must be detected before an exchange needs it. Every worker that has made an exchange for an identity
//! therefore observes it from then on ([`Broker::next_observation`]).

use std::sync::Arc;
use std::time::Duration;

use super::store::{Entry, Store};
use super::{Broker, Command, Turn, credential};
use crate::assertion::{Lifetime, Source};
use crate::entra::TokenSpec;
use crate::metrics;
use crate::time::Timestamp;

/// Time after which a token that is due, and that no worker tries to refresh, is idle and leaves the minimum.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// Interval at which a federated token that is older than 9/10 of its lifetime is read again until it is renewed. The kubelet renews
/// it at 8/10 (Kubernetes documentation, "Configure Service Accounts for Pods").
const REREAD_PERIOD: Duration = Duration::from_secs(60);

/// The identities that this worker observes. The configuration bounds their number.
#[derive(Default)]
pub(super) struct Observed(Vec<Identity>);

struct Identity {
    spec: Arc<TokenSpec>,
    /// The next time at which the gauges of its tokens can change without an exchange.
    tokens_at: Option<Timestamp>,
    /// The next read of its federated token.
    reading_at: Option<Timestamp>,
}

impl Observed {
    /// Returns the identity of a token spec, and adds it if it is not observed yet.
    fn identity(&mut self, spec: &Arc<TokenSpec>) -> Option<&mut Identity> {
        let known = self.0.iter().position(|identity| identity.spec.identity() == spec.identity());
        let index = known.unwrap_or_else(|| {
            self.0.push(Identity { spec: Arc::clone(spec), tokens_at: None, reading_at: None });
            self.0.len() - 1
        });
        self.0.get_mut(index)
    }

    /// Observes the identity of a token spec from now on.
    pub(super) fn add(&mut self, spec: &Arc<TokenSpec>) {
        self.identity(spec);
    }

    pub(super) fn set_back(&mut self, by: Duration) {
        for identity in &mut self.0 {
            identity.tokens_at = identity.tokens_at.map(|at| at.minus(by));
            identity.reading_at = identity.reading_at.map(|at| at.minus(by));
        }
    }

    /// Measures a federated token that was read, for each identity that uses this source.
    pub(super) fn record_reading(
        &mut self,
        source: &Source,
        lifetime: Lifetime,
        now: Timestamp,
        commands: &mut Vec<Command>,
    ) {
        for identity in &mut self.0 {
            if identity.spec.assertion() == source {
                identity.record_reading(lifetime, now, commands);
            }
        }
    }
}

impl Identity {
    /// Measures a federated token that was read. One that a source made for a call is not measured: it is used up, and the source is not
    /// asked again before an exchange needs another one.
    fn record_reading(&mut self, lifetime: Lifetime, now: Timestamp, commands: &mut Vec<Command>) {
        if !self.spec.assertion().holds_token() {
            return;
        }
        let issued_at = lifetime.issued_at.unwrap_or(now);
        let old_at = issued_at.plus(lifetime.expires_at.since(issued_at) / 10 * 9);
        self.reading_at = Some(old_at.max(now.plus(REREAD_PERIOD)));
        let name = self.spec.identity();
        if let Some(at) = lifetime.issued_at {
            commands.push(Command::Measure(metrics::federated_token_issued(name, at.unix_seconds())));
        }
        commands.push(Command::Measure(metrics::federated_token_expiry(name, lifetime.expires_at.unix_seconds())));
    }

    /// Measures the identity's tokens. `limit` is the maximum number of unlisted scopes.
    fn measure_tokens(&mut self, limit: usize, now: Timestamp, store: &dyn Store, commands: &mut Vec<Command>) {
        let state = store.read_credential(self.spec.credential());
        let mut tokens = Tokens::default();
        store.read_each(&state.known, &mut |entry| tokens.add(entry, now));
        self.tokens_at = tokens.changes_at;
        let name = self.spec.identity();
        let earliest = tokens.earliest.map_or(0, Timestamp::unix_seconds);
        commands.push(Command::Measure(metrics::token_expiry(name, earliest)));
        commands.push(Command::Measure(metrics::failures_in_a_row(name, tokens.failures)));
        if !state.budget.is_empty() {
            commands.push(Command::Measure(metrics::unlisted_scopes(name, state.budget.scopes())));
            commands.push(Command::Measure(metrics::unlisted_scopes_limit(limit)));
        }
    }
}

/// The gauge values that are computed from an identity's tokens.
#[derive(Default)]
struct Tokens {
    earliest: Option<Timestamp>,
    failures: u32,
    changes_at: Option<Timestamp>,
}

impl Tokens {
    fn add(&mut self, entry: &Entry, now: Timestamp) {
        let failure = entry.failure.as_ref().filter(|failure| !failure.is_expired(now));
        if let Some(failure) = failure {
            // The total of all causes. Throttling is counted for the credential.
            self.failures = self.failures.max(failure.failures).max(entry.causes.total());
            self.change_at(failure.expires_at(), now);
        }
        let Some(token) = entry.token.as_ref().filter(|token| token.is_usable(now)) else { return };
        let idle_at = token.refresh_at().plus(IDLE_AFTER);
        let is_refreshed = failure.is_some() || entry.lease.as_ref().is_some_and(|lease| lease.is_live(now));
        if now < idle_at || is_refreshed {
            earlier(&mut self.earliest, token.expires_at());
            self.change_at(idle_at, now);
            self.change_at(token.usable_until(), now);
        }
    }

    fn change_at(&mut self, at: Timestamp, now: Timestamp) {
        if at > now {
            earlier(&mut self.changes_at, at);
        }
    }
}

/// Replaces a time that is later or missing.
fn earlier(known: &mut Option<Timestamp>, at: Timestamp) {
    if known.is_none_or(|known| at < known) {
        *known = Some(at);
    }
}

impl Broker {
    /// The time at which [`Broker::observe`] must be called if no event occurs before.
    pub(crate) fn next_observation(&self) -> Option<Timestamp> {
        let mut next = None;
        for identity in &self.observed.0 {
            for at in [identity.tokens_at, identity.reading_at].into_iter().flatten() {
                earlier(&mut next, at);
            }
        }
        next
    }

    /// Measures the gauges that change with time, and requests reads of old federated tokens. Call it at
    /// [`Broker::next_observation`].
    pub(crate) fn observe(&mut self, now: Timestamp, store: &dyn Store) -> Vec<Command> {
        self.observe_clock(now);
        let mut turn = Turn::new(now, store);
        let mut sources = Vec::new();
        for identity in &mut self.observed.0 {
            if identity.tokens_at.is_some_and(|at| at <= now) {
                identity.measure_tokens(self.limits.unlisted.scopes, now, store, &mut turn.commands);
            }
            if identity.reading_at.is_some_and(|at| at <= now) {
                identity.reading_at = Some(now.plus(REREAD_PERIOD));
                sources.push(identity.spec.assertion().clone());
            }
        }
        for source in sources {
            if let Some(Ok(assertion)) = self.want(&source, &mut turn) {
                self.observed.record_reading(&source, assertion.lifetime(), now, &mut turn.commands);
            }
        }
        turn.commands
    }

    /// Measures an identity after one of its exchanges.
    pub(super) fn observe_exchange(&mut self, spec: &Arc<TokenSpec>, turn: &mut Turn<'_>) {
        if credential::record_known(turn.store, spec, turn.now) {
            turn.commands.push(Command::Measure(metrics::new_scope(spec.identity())));
        }
        let limit = self.limits.unlisted.scopes;
        if let Some(identity) = self.observed.identity(spec) {
            identity.measure_tokens(limit, turn.now, turn.store, &mut turn.commands);
        }
    }

    /// Measures the federated token that was read for an exchange.
    pub(super) fn observe_reading(&mut self, spec: &Arc<TokenSpec>, lifetime: Lifetime, turn: &mut Turn<'_>) {
        if let Some(identity) = self.observed.identity(spec) {
            identity.record_reading(lifetime, turn.now, &mut turn.commands);
        }
    }
}
