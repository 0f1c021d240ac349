//! The table in which a request's destination is found. What a look costs does not grow with the number of rules: it is
//! one for the host and one for its wildcard, for a port and any, for each segment of the path that a rule could hang on.

use std::collections::HashMap;

use super::prefixes;
use super::seen::Seen;
use crate::host::{Host, HostPattern};
use crate::path;

/// The port of an authority without one: what reaches the filter is HTTP.
const HTTP_PORT: u16 = 80;

/// Rules by what a request must be like.
pub(super) struct Table<T> {
    exact: HashMap<String, Ports<T>>,
    /// By what stands after `*.`.
    wildcards: HashMap<String, Ports<T>>,
}

/// By port; `None` is any.
type Ports<T> = HashMap<Option<u16>, Paths<T>>;

/// By path prefix, without a slash at its end.
struct Paths<T> {
    by_prefix: HashMap<Vec<u8>, Methods<T>>,
    /// How many segments the longest prefix has.
    deepest: usize,
    /// Whether more than a report hangs on a path.
    guards: bool,
}

/// By method.
struct Methods<T> {
    by_name: HashMap<Vec<u8>, T>,
    any: Option<T>,
}

/// What a look into the table comes to.
pub(super) enum Found<'a, T> {
    /// No rule is for such a request.
    Nothing,
    /// This rule decides.
    Rule(&'a T),
    /// Rules hang on the path, and it can be read in two ways.
    Ambiguous {
        /// How.
        what: &'static str,
        /// Whether more than a report hangs on it.
        guarded: bool,
    },
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: HashMap::new() }
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { by_prefix: HashMap::new(), deepest: 0, guards: false }
    }
}

impl<T> Default for Methods<T> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), any: None }
    }
}

impl<T> Table<T> {
    /// Adds a rule; `guards` says whether it is more than a report.
    pub(super) fn insert(&mut self, host: &HostPattern, prefix: &str, method: Option<&str>, guards: bool, rule: T) {
        let hosts = if host.wildcard { &mut self.wildcards } else { &mut self.exact };
        let ports = hosts.entry(host.host.name.clone().into_owned()).or_default();
        let paths = ports.entry(host.host.port).or_default();
        paths.deepest = paths.deepest.max(prefix.matches('/').count());
        paths.guards |= guards;
        let methods = paths.by_prefix.entry(prefix.as_bytes().to_vec()).or_default();
        match method {
            Some(method) => drop(methods.by_name.insert(method.as_bytes().to_vec(), rule)),
            None => methods.any = Some(rule),
        }
    }

    /// The most specific rule for a request: the exact host before a wildcard, a port before any, the longest path,
    /// the method before any.
    pub(super) fn find(&self, host: &Host<'_>, seen: &Seen<'_>) -> Found<'_, T> {
        let parent = host.name.split_once('.').map(|(_, parent)| parent);
        let hosts = [self.exact.get(&*host.name), parent.and_then(|parent| self.wildcards.get(parent))];
        let port = host.port.unwrap_or(HTTP_PORT);
        for ports in hosts.into_iter().flatten() {
            for paths in [Some(port), None].iter().filter_map(|port| ports.get(port)) {
                match paths.find(seen) {
                    Found::Nothing => {}
                    found => return found,
                }
            }
        }
        Found::Nothing
    }
}

impl<T> Paths<T> {
    fn find(&self, seen: &Seen<'_>) -> Found<'_, T> {
        let path = if self.deepest == 0 { &[] } else { seen.path().unwrap_or_default() };
        if let Some(what) = path::ambiguity(path) {
            return Found::Ambiguous { what, guarded: self.guards };
        }
        let rules = prefixes::of(path, self.deepest).filter_map(|prefix| self.by_prefix.get(prefix));
        rules.filter_map(|methods| methods.find(seen)).next().map_or(Found::Nothing, Found::Rule)
    }
}

impl<T> Methods<T> {
    fn find(&self, seen: &Seen<'_>) -> Option<&T> {
        let named = if self.by_name.is_empty() { None } else { self.by_name.get(seen.method()) };
        named.or(self.any.as_ref())
    }
}
