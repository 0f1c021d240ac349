//! The table that finds the rule for a request. The cost of a lookup does not depend on the number of rules: there is one for the
//! host and one for its wildcard, each with the port and without, and one for each path prefix to which a rule may apply.

mod candidates;

use std::sync::Arc;

use super::prefixes;
use super::rule::Rule;
use crate::fast_map::FastMap;
use crate::host::{Authority, Host, HostName, HostPattern};
use crate::override_headers;
use crate::path;
use crate::request::RequestView;
use crate::small_map::SmallMap;

/// The port of an authority without a port: plain HTTP, because apps send plain HTTP to the filter.
const HTTP_PORT: u16 = 80;

/// The rules, by host, port, path prefix and method.
#[derive(Default)]
pub(super) struct Table {
    exact: FastMap<HostName<'static>, Ports>,
    /// By the part after `*.`.
    wildcards: FastMap<HostName<'static>, Ports>,
}

/// By port; `None` matches any port.
type Ports = SmallMap<Option<u16>, Paths>;

/// By path prefix, in canonical form and without a trailing slash.
#[derive(Default)]
struct Paths {
    by_prefix: FastMap<Vec<u8>, Methods>,
    /// The number of segments of the longest prefix.
    deepest: usize,
    /// Whether a rule is limited to some methods.
    by_method: bool,
    /// Whether a rule has another action than `report`.
    guards: bool,
    /// Whether a rule has the action `refuse`.
    refuses: bool,
    /// Whether a rule rejects override headers.
    rejects_overrides: bool,
}

/// By method, with the rule for all other methods.
#[derive(Default)]
struct Methods {
    by_name: SmallMap<Vec<u8>, Arc<Rule>>,
    any: Option<Arc<Rule>>,
}

/// The result of a lookup.
pub(super) enum Found<'a> {
    /// No rule applies.
    Nothing,
    /// This rule applies.
    Rule(&'a Rule),
    /// Which rule applies depends on how a server interprets the request.
    Ambiguous {
        /// The reason.
        reason: Ambiguity,
        /// Whether the request must be rejected, because one of the rules has another action than `report`.
        guarded: bool,
    },
}

/// Why it is ambiguous which rule applies.
pub(super) enum Ambiguity {
    /// The path contains this, which servers interpret in different ways.
    Path(&'static str),
    /// The method has lower-case letters, and another rule applies to the same method in upper case.
    Method,
    /// This header overrides the method or path.
    Override(String),
    /// The authority's port is not a number from 0 to 65535.
    Port,
}

impl Table {
    /// Adds a rule for a host, a path prefix (empty for any path) and a method (`None` for any method).
    pub(super) fn insert(&mut self, host: &HostPattern, prefix: &str, method: Option<&str>, rule: Arc<Rule>) {
        let hosts = if host.wildcard { &mut self.wildcards } else { &mut self.exact };
        let ports = hosts.entry(HostName(host.host.name.clone())).or_default();
        if ports.get_mut(&host.host.port).is_none() {
            ports.insert(host.host.port, Paths::default());
        }
        let Some(paths) = ports.get_mut(&host.host.port) else { return };
        paths.deepest = paths.deepest.max(prefix.matches('/').count());
        paths.by_method |= method.is_some();
        paths.guards |= !rule.is_report();
        paths.refuses |= rule.is_refuse();
        paths.rejects_overrides |= !rule.allows_override_headers();
        let methods = paths.by_prefix.entry(prefix.as_bytes().to_vec()).or_default();
        match method {
            Some(method) => methods.by_name.insert(method.as_bytes().to_vec(), rule),
            None => methods.any = Some(rule),
        }
    }

    /// Finds the most specific rule for a request. The exact host precedes a wildcard, then a port precedes any port, then the
    /// longest path prefix wins, then a method precedes any method.
    pub(super) fn find<'a>(&'a self, authority: &'a Authority<'_>, view: &RequestView<'_>) -> Found<'a> {
        let hosts = self.ports_of(&authority.host);
        if let [None, None] = hosts {
            return Found::Nothing;
        }
        if authority.port_is_invalid {
            let mut rules = hosts.into_iter().flatten().flat_map(SmallMap::values).peekable();
            if rules.peek().is_none() {
                return Found::Nothing;
            }
            return Found::Ambiguous { reason: Ambiguity::Port, guarded: rules.any(|paths| paths.guards) };
        }
        let ports = [Some(authority.host.port.unwrap_or(HTTP_PORT)), None];
        for of_host in hosts.into_iter().flatten() {
            for paths in ports.iter().filter_map(|port| of_host.get(port)) {
                match paths.find(view) {
                    Found::Nothing => {}
                    Found::Ambiguous { reason, guarded } => {
                        // A wider rule may apply, and may refuse what this one only reports.
                        let mut all =
                            hosts.into_iter().flatten().flat_map(|of_host| ports.map(|port| of_host.get(&port)));
                        let guarded = guarded || all.any(|paths| paths.is_some_and(|paths| paths.refuses));
                        return Found::Ambiguous { reason, guarded };
                    }
                    found @ Found::Rule(_) => return found,
                }
            }
        }
        Found::Nothing
    }

    /// The rules of the exact host, then those of its wildcard.
    fn ports_of<'a>(&'a self, host: &'a Host<'_>) -> [Option<&'a Ports>; 2] {
        let by_wildcard = || self.wildcards.get(&HostName::of(host.name.split_once('.')?.1));
        [self.exact.get(&HostName::of(&host.name)), if self.wildcards.is_empty() { None } else { by_wildcard() }]
    }
}

impl Paths {
    fn find(&self, view: &RequestView<'_>) -> Found<'_> {
        let depends = self.by_method || self.deepest > 0;
        if !depends {
            let rule = self.by_prefix.get(&[][..]).and_then(|methods| methods.any.as_deref());
            return rule.map_or(Found::Nothing, Found::Rule);
        }
        let ambiguous = |reason| Found::Ambiguous { reason, guarded: self.guards };
        let path = if self.deepest == 0 { &[] } else { view.path().unwrap_or_default() };
        let path = match path::canonical(path) {
            Ok(path) => path,
            Err(what) => return ambiguous(Ambiguity::Path(what)),
        };
        let method = if self.by_method { view.method() } else { &[] };
        let rule = self.rule(&path, method);
        if method.iter().any(u8::is_ascii_lowercase) {
            // Methods are case-sensitive (RFC 9110, section 9.1), but some servers treat `delete` as `DELETE`.
            let in_upper_case = self.rule(&path, &method.to_ascii_uppercase());
            if rule.map(std::ptr::from_ref) != in_upper_case.map(std::ptr::from_ref) {
                return ambiguous(Ambiguity::Method);
            }
        }
        if self.rejects_overrides && !rule.is_some_and(|rule| rule.allows_override_headers()) {
            let header = override_headers::in_request(view);
            if let Some(header) = header {
                return ambiguous(Ambiguity::Override(header.into_owned()));
            }
        }
        rule.map_or(Found::Nothing, Found::Rule)
    }

    /// The rule for a canonical path and a method. A longer prefix precedes a matching method.
    fn rule(&self, path: &[u8], method: &[u8]) -> Option<&Rule> {
        let rules = prefixes::of(path, self.deepest).filter_map(|prefix| self.by_prefix.get(prefix));
        rules.filter_map(|methods| methods.find(method)).next()
    }
}

impl Methods {
    fn find(&self, method: &[u8]) -> Option<&Rule> {
        let named = self.by_name.get(method);
        named.or(self.any.as_ref()).map(AsRef::as_ref)
    }
}
