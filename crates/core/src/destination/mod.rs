//! Decides which token a request to a destination gets, and under which conditions.

mod client_certificate;
mod credential;
mod prefixes;
mod rule;
mod table;
mod transport;

use std::sync::Arc;

use crate::config::{Config, Token, TokenOwner};
use crate::decision::{Candidate, ConfigPath, Decision, Refusal, Report};
use crate::entra::TokenSpec;
use crate::fast_map::FastMap;
use crate::host::{Authority, Host};
use crate::problem::{Code, Problem};
use crate::protocol::Protocol;
use crate::request::RequestView;
use crate::untrusted::UntrustedText;
use rule::{IdentityToken, Rule, TokenChooser};
use table::{Ambiguity, Found, Table};

/// The destinations of a configuration, compiled into a lookup table.
pub(crate) struct Destinations {
    table: Table,
    warm: Vec<Arc<TokenSpec>>,
    /// The names of all headers that tokens are injected into.
    headers: Vec<Arc<str>>,
}

impl Destinations {
    pub(crate) fn new(config: &Config) -> Self {
        let mut tokens = Tokens { config, known: FastMap::default() };
        let mut table = Table::default();
        let mut warm: Vec<Arc<TokenSpec>> = Vec::new();
        let mut headers: Vec<Arc<str>> = Vec::new();
        for destination in &config.destinations {
            let token = destination.action.token();
            let chooser = token.map(|token| tokens.chooser(token));
            if let (Some(chooser), Some(true)) = (&chooser, token.map(|token| token.warm)) {
                warm.extend(chooser.specs().filter(|spec| !warm.contains(spec)).cloned().collect::<Vec<_>>());
            }
            for host in &destination.hosts {
                let rule = Arc::new(Rule::new(destination, host, chooser.clone()));
                if let Some(header) = rule.header()
                    && let Err(index) = headers.binary_search(header)
                {
                    headers.insert(index, Arc::clone(header));
                }
                for prefix in &destination.path_prefixes {
                    for method in &destination.methods {
                        table.insert(host, prefix, method.as_deref(), Arc::clone(&rule));
                    }
                }
            }
        }
        Self { table, warm, headers }
    }

    /// The names of all headers that tokens are injected into.
    pub(crate) fn headers(&self) -> &[Arc<str>] {
        &self.headers
    }

    /// The tokens to fetch in advance and keep fresh, even without requests that use them.
    pub(crate) fn warm(&self) -> &[Arc<TokenSpec>] {
        &self.warm
    }

    /// Every rule for the request's host, in order of precedence, and which one [`Self::decide`] uses.
    pub(crate) fn candidates(&self, authority: &Authority<'_>, view: &RequestView<'_>) -> Vec<Candidate> {
        let applies = match self.table.find(authority, view) {
            Found::Rule(rule) => Some(rule),
            Found::Nothing | Found::Ambiguous { .. } => None,
        };
        self.table.candidates(authority, view, applies)
    }

    /// Decides how to handle a request to this authority.
    pub(crate) fn decide(&self, authority: &Authority<'_>, view: &RequestView<'_>) -> Decision {
        match self.table.find(authority, view) {
            Found::Nothing => Decision::Ignore,
            Found::Rule(rule) => rule.decide(view),
            Found::Ambiguous { reason, guarded } => {
                let problem = ambiguous(&reason, &authority.host);
                if guarded {
                    let protocol = Protocol::of_client(view);
                    Decision::Refuse(Box::new(Refusal { problem, decided_by: ConfigPath::Destinations, protocol }))
                } else {
                    Decision::Report(Report::refused(ConfigPath::Destinations, problem))
                }
            }
        }
    }
}

/// The problem that several rules may apply to a request, depending on how a server interprets it.
fn ambiguous(reason: &Ambiguity, host: &Host<'_>) -> Problem {
    let host = UntrustedText::new(&host.name);
    match reason {
        Ambiguity::Path(what) => Problem::new(
            Code::AmbiguousPath,
            format!("the path of the request to {host:?} has {what}, so it is ambiguous which rule applies"),
            "Send the path in its normal form, without empty and dot segments, matrix parameters, backslashes and double escapes.",
        ),
        Ambiguity::Method => Problem::new(
            Code::AmbiguousMethod,
            format!(
                "the method of the request to {host:?} has lower-case letters, and another rule applies to the same method in upper case"
            ),
            "Send the method in upper case, such as GET.",
        ),
        Ambiguity::Override(header) => Problem::new(
            Code::OverrideHeaderPresent,
            format!(
                "the request to {host:?} has the header {header}, which can make a server use another method or path than the \
                 one that was checked"
            ),
            "Send the method and path in the request line; or, if the server is known to ignore such headers, set \
             override_headers: allow on the destination.",
        ),
        Ambiguity::Port => Problem::new(
            Code::HostInvalid,
            format!("the port in the Host header of the request to {host:?} is not a number from 0 to 65535"),
            "Set the Host header to the host, with a valid port or none.",
        ),
    }
}

/// The tokens of a configuration, built once each: thousands of destinations may share one.
struct Tokens<'a> {
    config: &'a Config,
    known: FastMap<(TokenOwner, &'a str), Arc<TokenChooser>>,
}

impl<'a> Tokens<'a> {
    fn chooser(&mut self, token: &'a Token) -> Arc<TokenChooser> {
        let config = self.config;
        let chooser = self.known.entry((token.owner, token.scope.as_str())).or_insert_with(|| {
            let identity_token = |identity| Arc::new(IdentityToken::new(identity, &token.scope));
            Arc::new(match token.owner {
                TokenOwner::Identity(index) => match config.identities.get(index) {
                    Some(identity) if identity.allowed_callers.is_empty() => {
                        TokenChooser::Single(identity_token(identity))
                    }
                    identity => {
                        TokenChooser::among(identity.into_iter().map(|identity| (identity, identity_token(identity))))
                    }
                },
                TokenOwner::Caller => {
                    TokenChooser::among(config.identities.iter().map(|identity| (identity, identity_token(identity))))
                }
            })
        });
        Arc::clone(chooser)
    }
}

#[cfg(test)]
mod tests;
