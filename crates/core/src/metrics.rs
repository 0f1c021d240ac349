//! What is counted and timed.
//!
//! Tags precede the metric's name in the form of Istio's own metrics: `tag=.=value;.;name`. Istio's `extraStatTags` removes exactly
//! `tag=.=value;.;`, so a dot before a tag would remain and become an underscore in Prometheus. A name of an
//! identity is one of few and plain ([`crate::config`] sees to that), so the number of series is bounded.

use crate::problem::Code;

/// How a value is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is added to a number that only grows.
    Counter,
    /// It is added to a number that grows and shrinks. Every worker adds to the same one.
    Sum,
    /// It takes the place of the former.
    Gauge,
    /// It goes into a distribution.
    Histogram,
}

/// One value for one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// How the value is taken.
    pub kind: Kind,
    /// The metric's name, with its tags.
    pub name: String,
    /// Milliseconds for what ends in `_ms`, seconds since the Unix epoch for what ends in `_timestamp_seconds`, else a number of things.
    pub value: i64,
}

/// How a request that concerned the filter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went on with a token.
    Injected,
    /// It was forwarded unchanged, though its destination is listed: its action is `pass`, or no token could be had and
    /// `on_failure` is `pass`.
    Passed,
    /// It was forwarded unchanged, because it brought a credential that is kept.
    Kept,
    /// It went on as it came, and a token was fetched all the same, to see whether that works.
    Reported,
    /// It was refused by the configuration.
    Refused,
    /// It was refused because there was no token.
    Failed,
    /// A managed-identity caller got a token.
    Answered,
}

impl Outcome {
    /// The word for metrics and logs.
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

/// A request ended so. `code` says why one was refused or failed: there are as many series as identities times codes.
pub fn request(identity: &str, outcome: Outcome, code: Option<Code>) -> Measurement {
    let tags = [("identity", identity), ("outcome", outcome.as_str())];
    let code = code.map(|code| ("code", code.as_str()));
    count(name("entra_exchange_requests_total", tags.into_iter().chain(code)))
}

/// A request had to wait for an exchange; it is counted again by how it ended.
pub fn waited(identity: &str, milliseconds: u128) -> [Measurement; 2] {
    [
        count(name("entra_exchange_requests_total", [("identity", identity), ("outcome", "waited")])),
        histogram("entra_exchange_wait_ms", milliseconds),
    ]
}

/// So many more requests wait (or fewer).
pub fn waiters(more: i64) -> Measurement {
    Measurement { kind: Kind::Sum, name: "entra_exchange_waiters".to_owned(), value: more }
}

/// So many more leases are held (or fewer).
pub(crate) fn leases(more: i64) -> Measurement {
    Measurement { kind: Kind::Sum, name: "entra_exchange_leases".to_owned(), value: more }
}

/// An exchange ended so. `class` says how a failure passes.
pub(crate) fn exchange(identity: &str, outcome: &str, class: &str) -> Measurement {
    let tags = [("identity", identity), ("outcome", outcome), ("class", class)];
    count(name("entra_exchange_exchanges_total", tags))
}

/// An exchange took this long, from the assertion to the answer.
pub(crate) fn exchange_took(milliseconds: u128) -> Measurement {
    histogram("entra_exchange_exchange_ms", milliseconds)
}

/// The federated token was read, or not.
pub(crate) fn assertion_read(outcome: &str) -> Measurement {
    count(name("entra_exchange_assertion_reads_total", [("outcome", outcome)]))
}

/// The earliest end among an identity's tokens.
pub(crate) fn token_expiry(identity: &str, unix_seconds: u64) -> Measurement {
    gauge(name("entra_exchange_token_expiry_timestamp_seconds", [("identity", identity)]), unix_seconds)
}

/// The configuration that is in use, as a number: proxies with the same configuration have the same.
pub(crate) fn configuration_hash(hash: u64) -> Measurement {
    gauge("entra_exchange_configuration_hash".to_owned(), hash)
}

/// The build of the filter; the value is 1.
pub(crate) fn build_info(version: &str, commit: &str) -> Measurement {
    gauge(name("entra_exchange_build_info", [("version", version), ("commit", commit)]), 1)
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

fn name<'a>(base: &str, tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let tags: String = tags.into_iter().map(|(tag, value)| format!("{tag}=.={value};.;")).collect();
    tags + base
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_stand_in_the_name_as_istio_reads_them() {
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
