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
use crate::host::{Authority, Host};
use crate::http::Request;
use crate::problem::{Code, Problem};
use crate::untrusted::UntrustedText;
use rule::{Holder, Holders, Rule};
use seen::Seen;
use table::{Found, Table, Unclear};

/// The destinations of a configuration, ready to be looked up.
pub(crate) struct Destinations {
    table: Table,
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
                        table.insert(host, prefix, method.as_deref(), Arc::clone(&rule));
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

    pub(crate) fn decide(&self, authority: &Authority<'_>, request: &dyn Request) -> Decision {
        let seen = Seen::new(request);
        match self.table.find(authority, &seen) {
            Found::Nothing => Decision::Ignore,
            Found::Rule(rule) => rule.decide(&seen),
            Found::Unclear { why, guarded } => {
                let problem = unclear(&why, &authority.host);
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

/// What to say of a request of which it is not clear which rule it falls under.
fn unclear(why: &Unclear, host: &Host<'_>) -> Problem {
    let host = UntrustedText::new(&host.name);
    match why {
        Unclear::Path(what) => Problem::new(
            Code::AmbiguousPath,
            format!("the path of the request to {host:?} has {what}, and which rule it falls under is not clear"),
            "Send the path in its plain form: without empty and dot segments, matrix parameters, backslashes, and escapes of \
             escapes.",
        ),
        Unclear::Method => Problem::new(
            Code::AmbiguousMethod,
            format!(
                "the method of the request to {host:?} has lower-case letters, and another rule is for the same method in upper case"
            ),
            "Send the method in upper case, such as GET.",
        ),
        Unclear::Override(header) => Problem::new(
            Code::OverrideHeaderPresent,
            format!(
                "the request to {host:?} has a header {header}, by which a server may take another method or path than the \
                 one that was checked"
            ),
            "Send the method and path in the request line; or set override_headers: allow at the destination, if the server \
             is known to ignore such headers.",
        ),
        Unclear::Port => Problem::new(
            Code::HostInvalid,
            format!("the port in the Host header of the request to {host:?} is not a number from 0 to 65535"),
            "Set the Host header to the host, with a valid port or none.",
        ),
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
