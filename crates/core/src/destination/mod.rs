//! Which request gets which token: the only place that knows.

mod caller;
mod credential;
mod prefixes;
mod rule;
mod seen;
mod table;
mod way;

pub use credential::OWN_HEADER;
pub use way::is_established;

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Config, Token, Whose};
use crate::decision::{ConfigPath, Decision, Refusal, Report};
use crate::entra::Grant;
use crate::host::Host;
use crate::http::Request;
use crate::problem::{Code, Problem};
use rule::{Holder, Holders, Rule};
use seen::Seen;
use table::{Found, Table};

/// The destinations of a configuration, ready to be looked up.
pub(crate) struct Destinations {
    table: Table<Arc<Rule>>,
    warm: Vec<Arc<Grant>>,
}

impl Destinations {
    pub(crate) fn new(config: &Config) -> Self {
        let mut tokens = Tokens { config, known: HashMap::new() };
        let mut table = Table::default();
        let mut warm: Vec<Arc<Grant>> = Vec::new();
        for destination in &config.destinations {
            let token = destination.action.token();
            let holders = token.map(|token| tokens.holders(token));
            if let (Some(holders), Some(true)) = (&holders, token.map(|token| token.warm)) {
                warm.extend(holders.grants().filter(|grant| !warm.contains(grant)).cloned().collect::<Vec<_>>());
            }
            for host in &destination.hosts {
                let rule = Arc::new(Rule::new(destination, host, holders.clone()));
                for prefix in &destination.path_prefixes {
                    for method in &destination.methods {
                        table.insert(host, prefix, method.as_deref(), !rule.is_report(), Arc::clone(&rule));
                    }
                }
            }
        }
        Self { table, warm }
    }

    /// The tokens that are to be kept fresh even when nobody asks.
    pub(crate) fn warm(&self) -> &[Arc<Grant>] {
        &self.warm
    }

    pub(crate) fn decide(&self, host: &Host<'_>, request: &dyn Request) -> Decision {
        let seen = Seen::new(request);
        match self.table.find(host, &seen) {
            Found::Nothing => Decision::Ignore,
            Found::Rule(rule) => rule.decide(&seen),
            Found::Ambiguous { what, guarded } => {
                let problem = Problem::new(
                    Code::AmbiguousPath,
                    format!(
                        "the path of the request to {:?} has {what}, and which rule it falls under is not clear",
                        host.name
                    ),
                    "Send the path as it is meant: without empty and dot segments, backslashes and needless escapes.",
                );
                if guarded {
                    let reply = problem.reply_to(request);
                    Decision::Refuse(Refusal { problem, decided_by: ConfigPath::Destinations, reply })
                } else {
                    Decision::Report(Report::refused(&problem))
                }
            }
        }
    }
}

/// The tokens of a configuration. Ten thousand destinations may share one.
struct Tokens<'a> {
    config: &'a Config,
    known: HashMap<(Whose, &'a str), Arc<Holders>>,
}

impl<'a> Tokens<'a> {
    fn holders(&mut self, token: &'a Token) -> Arc<Holders> {
        let config = self.config;
        let holders = self.known.entry((token.whose, token.scope.as_str())).or_insert_with(|| {
            let holder = |identity| Arc::new(Holder::new(identity, &token.scope));
            Arc::new(match token.whose {
                Whose::Identity(place) => match config.identities.get(place) {
                    Some(identity) if identity.principals.is_empty() => Holders::Anybody(holder(identity)),
                    identity => Holders::among(identity.into_iter().map(|identity| (identity, holder(identity)))),
                },
                Whose::Caller => Holders::among(config.identities.iter().map(|identity| (identity, holder(identity)))),
            })
        });
        Arc::clone(holders)
    }
}

#[cfg(test)]
mod tests;
