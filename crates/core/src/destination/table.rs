//! The table in which a request's destination is found. What a look costs does not grow with the number of rules: it is
//! one for the host and one for its wildcard, for a port and any, for each segment of the path that a rule could hang on.

use std::collections::HashMap;
use std::sync::Arc;

use super::prefixes;
use super::request_view::RequestView;
use super::rule::Rule;
use crate::host::{Authority, Host, HostPattern};
use crate::override_headers;
use crate::path;
use crate::small_map::SmallMap;

/// The port of an authority without one: what reaches the filter is HTTP.
const HTTP_PORT: u16 = 80;

/// Rules by what a request must be like.
#[derive(Default)]
pub(super) struct Table {
    exact: HashMap<String, Ports>,
    /// By what stands after `*.`.
    wildcards: HashMap<String, Ports>,
}

/// By port; `None` is any.
type Ports = SmallMap<Option<u16>, Paths>;

/// By path prefix, canonical and without a slash at its end.
#[derive(Default)]
struct Paths {
    by_prefix: HashMap<Vec<u8>, Methods>,
    /// How many segments the longest prefix has.
    deepest: usize,
    /// Whether a rule is for some methods only.
    by_method: bool,
    /// Whether more than a report hangs on a path.
    guards: bool,
    /// Whether one of the rules refuses.
    refuses: bool,
    /// Whether one of the rules rejects override headers.
    rejects_overrides: bool,
}

/// By method.
#[derive(Default)]
struct Methods {
    by_name: SmallMap<Vec<u8>, Arc<Rule>>,
    any: Option<Arc<Rule>>,
}

/// What a look into the table comes to.
pub(super) enum Found<'a> {
    /// No rule is for such a request.
    Nothing,
    /// This rule decides.
    Rule(&'a Rule),
    /// It is not clear which rule the request falls under.
    Unclear {
        /// Why.
        why: Unclear,
        /// Whether more than a report hangs on it.
        guarded: bool,
    },
}

/// Why it is not clear which rule a request falls under.
pub(super) enum Unclear {
    /// The path has this, and can be read in two ways.
    Path(&'static str),
    /// The method has lower-case letters, and another rule is for the same method in upper case.
    Method,
    /// This header names another method or path.
    Override(&'static str),
    /// The authority's port is not a number from 0 to 65535.
    Port,
}

impl Table {
    /// Adds a rule for a host, a path prefix (the empty one is any path) and a method (`None` is any).
    pub(super) fn insert(&mut self, host: &HostPattern, prefix: &str, method: Option<&str>, rule: Arc<Rule>) {
        let hosts = if host.wildcard { &mut self.wildcards } else { &mut self.exact };
        let ports = hosts.entry(host.host.name.clone().into_owned()).or_default();
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

    /// The most specific rule for a request: the exact host before a wildcard, a port before any, the longest path,
    /// the method before any.
    pub(super) fn find(&self, authority: &Authority<'_>, view: &RequestView<'_>) -> Found<'_> {
        let hosts = self.ports_of(&authority.host);
        if authority.port_is_invalid {
            let mut rules = hosts.into_iter().flatten().flat_map(SmallMap::values).peekable();
            if rules.peek().is_none() {
                return Found::Nothing;
            }
            return Found::Unclear { why: Unclear::Port, guarded: rules.any(|paths| paths.guards) };
        }
        let ports = [Some(authority.host.port.unwrap_or(HTTP_PORT)), None];
        let candidates = || {
            hosts
                .into_iter()
                .flatten()
                .flat_map(|of_host| ports.iter().filter_map(|port| of_host.get(|other| other == port)))
        };
        for paths in candidates() {
            match paths.find(view) {
                Found::Nothing => {}
                // It may fall under a wider rule, which may refuse what this one only reports.
                Found::Unclear { why, guarded } => {
                    return Found::Unclear { why, guarded: guarded || candidates().any(|paths| paths.refuses) };
                }
                found @ Found::Rule(_) => return found,
            }
        }
        Found::Nothing
    }

    /// The rules of the exact host, then those of its wildcard.
    fn ports_of(&self, host: &Host<'_>) -> [Option<&Ports>; 2] {
        let parent = host.name.split_once('.').map(|(_, parent)| parent);
        [self.exact.get(&*host.name), parent.and_then(|parent| self.wildcards.get(parent))]
    }
}

impl Paths {
    fn find(&self, view: &RequestView<'_>) -> Found<'_> {
        let unclear = |why| Found::Unclear { why, guarded: self.guards };
        let path = if self.deepest == 0 { &[] } else { view.path().unwrap_or_default() };
        let path = match path::canonical(path) {
            Ok(path) => path,
            Err(what) => return unclear(Unclear::Path(what)),
        };
        let method = if self.by_method { view.method() } else { &[] };
        let rule = self.rule(&path, method);
        if method.iter().any(u8::is_ascii_lowercase) {
            // Methods are case-sensitive (RFC 9110, section 9.1), and yet some servers take `delete` for `DELETE`.
            let in_capitals = self.rule(&path, &method.to_ascii_uppercase());
            if rule.map(std::ptr::from_ref) != in_capitals.map(std::ptr::from_ref) {
                return unclear(Unclear::Method);
            }
        }
        let depends = self.by_method || self.deepest > 0;
        if depends && self.rejects_overrides && !rule.is_some_and(|rule| rule.allows_override_headers()) {
            let header = override_headers::in_request(view.request);
            if let Some(header) = header {
                return unclear(Unclear::Override(header));
            }
        }
        rule.map_or(Found::Nothing, Found::Rule)
    }

    /// The rule for a canonical path and a method: the longest path before the method.
    fn rule(&self, path: &[u8], method: &[u8]) -> Option<&Rule> {
        let rules = prefixes::of(path, self.deepest).filter_map(|prefix| self.by_prefix.get(prefix));
        rules.filter_map(|methods| methods.find(method)).next()
    }
}

impl Methods {
    fn find(&self, method: &[u8]) -> Option<&Rule> {
        let named = self.by_name.get(|name| name == method);
        named.or(self.any.as_ref()).map(AsRef::as_ref)
    }
}
