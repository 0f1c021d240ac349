//! The calls that get a federated token, as `explain` describes them.

use std::fmt;

use entra_exchange_core::assertion::Source;
use serde::Serialize;

/// A call to a source of federated tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceCall {
    /// The kind of the source, as in the configuration.
    pub source: &'static str,
    /// The cluster.
    pub cluster: String,
    /// The method.
    pub method: &'static str,
    /// `:authority`
    pub authority: String,
    /// `:path`, with the query.
    pub path: String,
}

/// The calls that get the token of a source, in order: first those of the sources whose tokens it needs.
pub(crate) fn of(source: &Source) -> Vec<SourceCall> {
    let mut calls = source.input().map(of).unwrap_or_default();
    let (method, authority, path) = source.target();
    let (cluster, authority, path) = (source.cluster().to_owned(), authority.to_owned(), path.to_owned());
    calls.push(SourceCall { source: source.kind(), cluster, method, authority, path });
    calls
}

/// One line for each call, which says what it is for.
pub(crate) fn lines(calls: &[SourceCall]) -> Vec<String> {
    let line = |(index, call): (usize, &SourceCall)| {
        let is_last = index.saturating_add(1) == calls.len();
        format!("{call}: {}", if is_last { "the federated token" } else { "the token for the next call" })
    };
    calls.iter().enumerate().map(line).collect()
}

impl fmt::Display for SourceCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, cluster, method, authority, path } = self;
        match *source {
            // The authority of a file is its cluster.
            "file" => write!(formatter, "{method} {path} from cluster {cluster}"),
            _ => write!(formatter, "{method} {authority}{path} from cluster {cluster} ({source})"),
        }
    }
}
