//! What a configuration says about the federated tokens of an identity: their source, and the claims that are known from it.

use crate::inventory::Configuration;
use crate::tree::Node;

/// The entry of `assertions` that an identity uses if it names none.
const PROJECTED_TOKEN: &str = "projected_token";

/// The source of an identity's federated tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenSource<'a> {
    /// The name of the entry in `assertions`.
    pub(crate) name: &'a str,
    /// The issuer that the configuration demands (`expect.iss`).
    pub(crate) expected_issuer: Option<&'a str>,
    /// The issuer that such a source has, unless it is one of the organization's own.
    pub(crate) usual_issuer: Option<&'static str>,
    /// The subject that the configuration demands (`expect.sub`).
    pub(crate) subject: Option<&'a str>,
    /// The audience that the configuration sets.
    pub(crate) audience: Option<&'a str>,
}

/// The source of an identity's federated tokens. `None` stands for the identity that is created implicitly.
pub(crate) fn of<'a>(configuration: &'a Configuration<'_>, identity: Option<&'a Node>) -> TokenSource<'a> {
    let name = identity.and_then(|identity| identity.text_of("assertion")).unwrap_or(PROJECTED_TOKEN);
    let mut entries = configuration.get("assertions").into_iter().flat_map(Node::items);
    let entry = entries.find(|entry| entry.text_of("name").unwrap_or(PROJECTED_TOKEN) == name);
    let expected = |claim: &str| entry?.get("expect")?.text_of(claim);
    TokenSource {
        name,
        expected_issuer: expected("iss"),
        usual_issuer: match entry.and_then(|entry| entry.text_of("source")) {
            // docs.github.com, "OpenID Connect reference"; cloud.google.com, "Verify VM identity".
            Some("github_actions") => Some("https://token.actions.githubusercontent.com"),
            Some("google_metadata") => Some("https://accounts.google.com"),
            _ => None,
        },
        subject: expected("sub"),
        audience: entry.and_then(|entry| entry.text_of("audience")),
    }
}
