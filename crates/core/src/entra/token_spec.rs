//! Token specs: the parameters with which a token is requested, and the key under which it is cached.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::assertion::Source;
use crate::authority::Authority;
use crate::time::Timestamp;

/// The cache key of a token: a hash of the authority, tenant, client, scope and source of the assertion.
///
/// Two token specs with different keys get different tokens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenKey([u8; 32]);

/// Hashes the parts with SHA-256. Each part is preceded by its length, so that different lists give different hashes.
fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// The key of a credential: a hash of the authority, tenant, client and source of the assertion.
///
/// It is a [`TokenKey`] without the scope. Identities with different names share it if they are the same client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CredentialKey([u8; 32]);

impl CredentialKey {
    /// The first byte of the hash, which is uniformly distributed.
    pub(crate) const fn first_byte(&self) -> u8 {
        let [first, ..] = self.0;
        first
    }
}

impl TokenKey {
    fn of(parts: &[&str]) -> Self {
        Self(hash(parts))
    }

    /// The key as bytes, for messages between workers.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key that [`Self::as_bytes`] gave; `None` if the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The first byte of the hash, which is uniformly distributed.
    pub(crate) const fn first_byte(&self) -> u8 {
        let [first, ..] = self.0;
        first
    }
}

impl TokenKey {
    /// The first four bytes in hexadecimal, for people.
    pub(crate) fn short(&self) -> String {
        let [a, b, c, d, ..] = self.0;
        format!("{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TokenKey({}…)", self.short())
    }
}

/// A token spec: everything that is needed to request a token, and the key under which the token is cached.
///
/// It is not an OAuth grant; the grant is always client credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    key: TokenKey,
    identity: String,
    authority: Authority,
    tenant_id: String,
    client_id: String,
    scope: String,
    assertion: Source,
    clusters: Vec<String>,
    discard_before: Option<Timestamp>,
    listed: bool,
}

/// The parts of a [`TokenSpec`].
#[derive(Clone, Debug)]
pub struct TokenSpecParts<'a> {
    /// The identity's name in the configuration.
    pub identity: &'a str,
    /// The authority that issues the token.
    pub authority: &'a Authority,
    /// The tenant's id or one of its domain names.
    pub tenant_id: &'a str,
    /// The application's or managed identity's client id.
    pub client_id: &'a str,
    /// `<resource>/.default`.
    pub scope: &'a str,
    /// The source of the federated token.
    pub assertion: &'a Source,
    /// The Envoy clusters that lead to the authority, in the order in which they are tried.
    pub clusters: &'a [String],
    /// The time before which issued tokens are discarded (`discard_tokens_before`).
    pub discard_before: Option<Timestamp>,
}

impl TokenSpec {
    /// Builds a token spec and its key. The identity's name, the clusters and `discard_before` are not part of the key: they
    /// do not change which token Entra issues.
    pub fn new(parts: &TokenSpecParts<'_>) -> Self {
        let key = TokenKey::of(&[
            parts.authority.host(),
            parts.tenant_id,
            parts.client_id,
            parts.scope,
            parts.assertion.kind(),
            parts.assertion.id(),
        ]);
        Self {
            key,
            identity: parts.identity.to_owned(),
            authority: parts.authority.clone(),
            tenant_id: parts.tenant_id.to_owned(),
            client_id: parts.client_id.to_owned(),
            scope: parts.scope.to_owned(),
            assertion: parts.assertion.clone(),
            clusters: parts.clusters.to_vec(),
            discard_before: parts.discard_before,
            listed: true,
        }
    }

    /// Marks the scope as chosen by a caller and not named by the configuration. Such tokens are subject to
    /// [`crate::broker::UnlistedLimits`].
    #[must_use]
    pub fn unlisted(self) -> Self {
        Self { listed: false, ..self }
    }

    /// Whether the configuration names the scope. It does unless [`Self::unlisted`] was called.
    pub const fn is_listed(&self) -> bool {
        self.listed
    }

    /// The key under which the token is cached.
    pub const fn key(&self) -> TokenKey {
        self.key
    }

    /// The key of the credential with which the token is requested. It is computed on each call, because it is seldom needed.
    pub fn credential(&self) -> CredentialKey {
        CredentialKey(hash(&[
            self.authority.host(),
            &self.tenant_id,
            &self.client_id,
            self.assertion.kind(),
            self.assertion.id(),
        ]))
    }

    /// The identity's name in the configuration.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The authority whose token endpoint issues the token.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The id of the tenant, or one of its domain names.
    pub fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// The client id of the application or managed identity.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The resource with `/.default`.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The source of the federated token.
    pub const fn assertion(&self) -> &Source {
        &self.assertion
    }

    /// The Envoy clusters that lead to the authority, in the order in which they are tried.
    pub fn clusters(&self) -> &[String] {
        &self.clusters
    }

    /// The time before which issued tokens are discarded.
    pub const fn discard_before(&self) -> Option<Timestamp> {
        self.discard_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_transferred_as_bytes_and_displayed_by_its_first_four() {
        let key = crate::entra::tests_support::spec().key();
        assert_eq!(TokenKey::from_bytes(key.as_bytes()), Some(key));
        assert_eq!(TokenKey::from_bytes(b""), None);
        let start: String = key.as_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((key.short(), format!("{key:?}")), (start.clone(), format!("TokenKey({start}…)")));
        assert_eq!(Some(&key.first_byte()), key.as_bytes().first());
    }

    #[test]
    fn lists_of_parts_with_the_same_concatenation_have_different_keys() {
        assert_ne!(TokenKey::of(&["ab", "c"]), TokenKey::of(&["a", "bc"]));
        assert_ne!(TokenKey::of(&["a", ""]), TokenKey::of(&["", "a"]));
        assert_ne!(TokenKey::of(&["a"]), TokenKey::of(&["a", ""]));
    }

    #[test]
    fn a_key_changes_with_every_part_that_changes_the_token_and_with_no_other() {
        let (public, other) =
            (Authority::public(), Authority::parse("https://login.microsoftonline.us", false).unwrap());
        let (source, elsewhere) = (Source::File { cluster: "a".into() }, Source::File { cluster: "b".into() });
        let parts = TokenSpecParts {
            identity: "i",
            authority: &public,
            tenant_id: "t",
            client_id: "c",
            scope: "s/.default",
            assertion: &source,
            clusters: &[],
            discard_before: None,
        };
        let key = |parts: TokenSpecParts<'_>| TokenSpec::new(&parts).key();
        let one = key(parts.clone());
        for other in [
            TokenSpecParts { authority: &other, ..parts.clone() },
            TokenSpecParts { tenant_id: "u", ..parts.clone() },
            TokenSpecParts { client_id: "d", ..parts.clone() },
            TokenSpecParts { scope: "s//.default", ..parts.clone() },
            TokenSpecParts { assertion: &elsewhere, ..parts.clone() },
        ] {
            assert_ne!(one, key(other));
        }
        let credential = |parts: TokenSpecParts<'_>| TokenSpec::new(&parts).credential();
        assert_eq!(credential(parts.clone()), credential(TokenSpecParts { scope: "s//.default", ..parts.clone() }));
        for other in [
            TokenSpecParts { authority: &other, ..parts.clone() },
            TokenSpecParts { tenant_id: "u", ..parts.clone() },
            TokenSpecParts { client_id: "d", ..parts.clone() },
            TokenSpecParts { assertion: &elsewhere, ..parts.clone() },
        ] {
            assert_ne!(credential(parts.clone()), credential(other));
        }
        let clusters = ["entra_2".to_owned()];
        assert_eq!(
            one,
            key(TokenSpecParts {
                identity: "j",
                clusters: &clusters,
                discard_before: Some(Timestamp::default()),
                ..parts
            })
        );
    }
}
