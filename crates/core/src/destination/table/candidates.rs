//! Lists the rules for a request's host, to explain which one applies. [`super::Table::find`] decides; this only compares.

use std::cmp::Reverse;

use super::{HTTP_PORT, Table};
use crate::decision::{Candidate, Match};
use crate::destination::prefixes;
use crate::destination::rule::Rule;
use crate::host::Authority;
use crate::path;
use crate::request::RequestView;

impl Table {
    /// Every rule for the request's host, in order of precedence. `applies` is the rule that was found.
    pub(in crate::destination) fn candidates(
        &self,
        authority: &Authority<'_>,
        view: &RequestView<'_>,
        applies: Option<&Rule>,
    ) -> Vec<Candidate> {
        let path = path::canonical(view.path().unwrap_or_default()).unwrap_or_default();
        let port = authority.host.port.unwrap_or(HTTP_PORT);
        let mut candidates = Vec::new();
        for (of_host, wildcard) in self.ports_of(&authority.host).into_iter().zip([false, true]) {
            for (own_port, paths) in of_host.into_iter().flat_map(|ports| ports.iter()) {
                let port_matches = !authority.port_is_invalid && own_port.is_none_or(|own| own == port);
                for (prefix, methods) in &paths.by_prefix {
                    let path_matches = prefixes::of(&path, paths.deepest).any(|start| start == prefix);
                    let named = methods.by_name.iter().map(|(method, rule)| (Some(method), rule));
                    for (method, rule) in named.chain(methods.any.iter().map(|rule| (None, rule))) {
                        let outcome = match () {
                            () if !port_matches => Match::OtherPort,
                            () if !path_matches => Match::OtherPath,
                            () if method.is_some_and(|method| **method != *view.method()) => Match::OtherMethod,
                            () if applies.is_some_and(|winner| std::ptr::eq(winner, &raw const **rule)) => {
                                Match::Applies
                            }
                            () => Match::LessSpecific,
                        };
                        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
                        let candidate = Candidate {
                            config_path: rule.config_path(),
                            label: rule.label().to_owned(),
                            port: *own_port,
                            wildcard,
                            path_prefix: text(prefix),
                            method: method.map(text),
                            outcome,
                        };
                        candidates.push(candidate);
                    }
                }
            }
        }
        candidates.sort_by_cached_key(|it| {
            let specific =
                (it.wildcard, it.port.is_none(), Reverse(it.path_prefix.matches('/').count()), it.method.is_none());
            (specific, it.path_prefix.clone(), it.method.clone())
        });
        candidates
    }
}
