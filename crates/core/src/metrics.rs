//! The filter's metrics.
//!
//! Tags precede the metric's name in the form of Istio's own metrics: `tag=.=value;.;name`. Istio's `extraStatTags` removes exactly
//! `tag=.=value;.;`, so a dot before a tag would remain and become an underscore in Prometheus. The names of
//! identities are few and have plain characters only ([`crate::config`] checks them), so the number of series is bounded.

use crate::problem::Code;

/// How a value is recorded in a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The value is added to a counter.
    Counter,
    /// The value, which may be negative, is added to a gauge that all workers share.
    Sum,
    /// The value replaces that of a gauge.
    Gauge,
    /// The value is recorded in a histogram.
    Histogram,
}

/// One value for one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// How the value is recorded.
    pub kind: Kind,
    /// The metric's name, with its tags.
    pub name: String,
    /// The value, in milliseconds if the name ends in `_ms`, in seconds since the Unix epoch if it ends in
    /// `_timestamp_seconds`, else a plain number.
    pub value: i64,
}

/// The outcome of a request that the configuration applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request was forwarded with a token.
    Injected,
    /// The request was forwarded unchanged: its destination's action is `pass`, or no token was available and `on_failure` is
    /// `pass`.
    Passed,
    /// The request was forwarded unchanged, because it carries a credential and `existing_credential` is `keep`.
    Kept,
    /// The request was forwarded unchanged, because the action is `report`. A token was fetched to test the configuration.
    Reported,
    /// The configuration rejected the request.
    Refused,
    /// The request was rejected because no token was available.
    Failed,
    /// A managed-identity client received a token.
    Answered,
}

impl Outcome {
    /// The outcome as it appears in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Passed => "passed",
            Self::Kept => "kept",
            Self::Reported => "reported",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Answered => "answered",
        }
    }
}

/// Counts a request by its outcome. `code` is the problem's code of a rejected request, so the number of series is at most
/// that of identities times that of outcomes and codes.
pub fn request(identity: &str, outcome: Outcome, code: Option<Code>) -> Measurement {
    let tags = [("identity", identity), ("outcome", outcome.as_str()), ("code", code.map_or("", Code::as_str))];
    let tags = if code.is_some() { &tags[..] } else { tags.split_last().map_or(&tags[..], |(_, tags)| tags) };
    count(name("entra_exchange_requests_total", tags))
}

/// Counts a request that waited for an exchange, and records the time. The request is counted again by its outcome.
pub fn waited(identity: &str, milliseconds: u128) -> [Measurement; 2] {
    [
        count(name("entra_exchange_requests_total", &[("identity", identity), ("outcome", "waited")])),
        histogram("entra_exchange_wait_ms", milliseconds),
    ]
}

/// Changes the number of waiting requests by `more`, which may be negative.
pub fn waiters(more: i64) -> Measurement {
    Measurement { kind: Kind::Sum, name: "entra_exchange_waiters".to_owned(), value: more }
}

/// Changes the number of held leases by `more`, which may be negative.
pub(crate) fn leases(more: i64) -> Measurement {
    Measurement { kind: Kind::Sum, name: "entra_exchange_leases".to_owned(), value: more }
}

/// Counts an exchange by its outcome. `class` is the retry class of a failure.
pub(crate) fn exchange(identity: &str, outcome: &str, class: &str) -> Measurement {
    let tags = [("identity", identity), ("outcome", outcome), ("class", class)];
    count(name("entra_exchange_exchanges_total", &tags))
}

/// Records the time of an exchange that issued a token, from the request to the token endpoint to its response.
pub(crate) fn exchange_took(milliseconds: u128) -> Measurement {
    histogram("entra_exchange_exchange_ms", milliseconds)
}

/// Counts a read of the federated token by the kind of its source and its outcome.
pub(crate) fn assertion_read(source: &str, outcome: &str) -> Measurement {
    count(name("entra_exchange_assertion_reads_total", &[("source", source), ("outcome", outcome)]))
}

/// Sets the earliest expiry of an identity's tokens that are kept fresh; 0 if there is none.
pub(crate) fn token_expiry(identity: &str, unix_seconds: u64) -> Measurement {
    gauge(name("entra_exchange_token_expiry_timestamp_seconds", &[("identity", identity)]), unix_seconds)
}

/// Sets the number of consecutive failed exchanges of an identity: the maximum of its tokens, 0 if all last ones succeeded.
pub(crate) fn failures_in_a_row(identity: &str, failures: u32) -> Measurement {
    gauge(name("entra_exchange_failures_in_a_row", &[("identity", identity)]), failures.into())
}

/// Sets the time at which the federated token that was read last was issued.
pub(crate) fn federated_token_issued(identity: &str, unix_seconds: u64) -> Measurement {
    gauge(name("entra_exchange_federated_token_issued_timestamp_seconds", &[("identity", identity)]), unix_seconds)
}

/// Sets the time at which the federated token that was read last expires.
pub(crate) fn federated_token_expiry(identity: &str, unix_seconds: u64) -> Measurement {
    gauge(name("entra_exchange_federated_token_expiry_timestamp_seconds", &[("identity", identity)]), unix_seconds)
}

/// Sets the number of unlisted scopes that are kept for an identity.
pub(crate) fn unlisted_scopes(identity: &str, scopes: usize) -> Measurement {
    gauge(name("entra_exchange_unlisted_scopes", &[("identity", identity)]), u64::try_from(scopes).unwrap_or(u64::MAX))
}

/// Sets the maximum number of unlisted scopes that are kept for an identity.
pub(crate) fn unlisted_scopes_limit(scopes: usize) -> Measurement {
    gauge("entra_exchange_unlisted_scopes_limit".to_owned(), u64::try_from(scopes).unwrap_or(u64::MAX))
}

/// Counts a scope that was exchanged for the first time in this process.
pub(crate) fn new_scope(identity: &str) -> Measurement {
    count(name("entra_exchange_new_scopes_total", &[("identity", identity)]))
}

/// Counts a 401 of an upstream to a token that the filter injected.
pub fn rejected_by_upstream(identity: &str) -> Measurement {
    count(name("entra_exchange_upstream_rejections_total", &[("identity", identity)]))
}

/// Sets whether an identity that counts for readiness was ready at the last check.
pub(crate) fn ready(identity: &str, is_ready: bool) -> Measurement {
    gauge(name("entra_exchange_ready", &[("identity", identity)]), is_ready.into())
}

/// Sets the hash of the configuration in use. Proxies with the same configuration have the same hash.
pub(crate) fn configuration_hash(hash: u64) -> Measurement {
    gauge("entra_exchange_configuration_hash".to_owned(), hash)
}

/// Sets the version and commit of the filter, as tags; the value is 1.
pub(crate) fn build_info(version: &str, commit: &str) -> Measurement {
    gauge(name("entra_exchange_build_info", &[("version", version), ("commit", commit)]), 1)
}

fn gauge(name: String, value: u64) -> Measurement {
    Measurement { kind: Kind::Gauge, name, value: i64::try_from(value).unwrap_or(i64::MAX) }
}

fn count(name: String) -> Measurement {
    Measurement { kind: Kind::Counter, name, value: 1 }
}

fn histogram(name: &str, value: u128) -> Measurement {
    Measurement { kind: Kind::Histogram, name: name.to_owned(), value: i64::try_from(value).unwrap_or(i64::MAX) }
}

fn name(base: &str, tags: &[(&str, &str)]) -> String {
    let mut name = String::new();
    for (tag, value) in tags {
        for part in [tag, "=.=", value, ";.;"] {
            name.push_str(part);
        }
    }
    name.push_str(base);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_precede_the_name_in_the_form_that_istio_extracts() {
        let measurement = request("payments", Outcome::Injected, None);
        assert_eq!(measurement.name, "identity=.=payments;.;outcome=.=injected;.;entra_exchange_requests_total");
        assert_eq!((measurement.kind, measurement.value), (Kind::Counter, 1));
        let refused = request("payments", Outcome::Refused, Some(Code::ClusterNotListed));
        assert!(
            refused.name.ends_with("outcome=.=refused;.;code=.=cluster_not_listed;.;entra_exchange_requests_total"),
            "{}",
            refused.name
        );
    }
}
