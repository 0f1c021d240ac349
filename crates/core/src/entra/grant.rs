//! What a token is asked for with, and the key under which it is kept.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Authority;
use crate::assertion::Source;
use crate::time::Timestamp;

/// Everything that makes two tokens different, hashed: authority, tenant, client, scope, source of the assertion.
///
/// Each part is preceded by its length, so that no two lists of parts give the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenKey([u8; 32]);

/// The parts, hashed with SHA-256, each preceded by its length.
fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// Everything that makes two credentials different, hashed: authority, tenant, client, source of the assertion. It is a
/// [`TokenKey`] without the scope; identities of other names that are the same client share it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CredentialKey([u8; 32]);

impl CredentialKey {
    /// The first byte, which is as good as random.
    pub(crate) const fn first_byte(&self) -> u8 {
        let [first, ..] = self.0;
        first
    }
}

impl TokenKey {
    fn of(parts: &[&str]) -> Self {
        Self(hash(parts))
    }

    /// The key as bytes, as workers send it to each other.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key of these bytes, when it is one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The first byte, which is as good as random.
    pub(crate) const fn first_byte(&self) -> u8 {
        let [first, ..] = self.0;
        first
    }
}

impl TokenKey {
    /// Its start, by which people tell keys apart.
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

/// One token that may be asked for: whose, for what, and by which ways. Its key is made with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
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

/// What a [`Grant`] is made of.
#[derive(Clone, Debug)]
pub struct GrantParts<'a> {
    /// The identity's name in the configuration.
    pub identity: &'a str,
    /// Which cloud.
    pub authority: &'a Authority,
    /// The tenant's id or one of its domain names.
    pub tenant_id: &'a str,
    /// The application's or managed identity's client id.
    pub client_id: &'a str,
    /// `<resource>/.default`.
    pub scope: &'a str,
    /// Where the federated token is read.
    pub assertion: &'a Source,
    /// The Envoy clusters that lead to the authority, in the order in which they are tried.
    pub clusters: &'a [String],
    /// Tokens that were issued before this time are not used.
    pub discard_before: Option<Timestamp>,
}

impl Grant {
    /// Makes the grant and its key. The identity's name, the ways to the authority and what is discarded are no part of
    /// the key: they change what the token is called and how it is fetched, not which token it is.
    pub fn new(parts: &GrantParts<'_>) -> Self {
        let key = TokenKey::of(&[
            parts.authority.host(),
            parts.tenant_id,
            parts.client_id,
            parts.scope,
            parts.assertion.kind(),
            parts.assertion.cluster(),
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

    /// The same for a scope that a caller chose and the configuration does not name: it is kept within a budget
    /// ([`crate::broker::UnlistedLimits`]).
    #[must_use]
    pub fn unlisted(self) -> Self {
        Self { listed: false, ..self }
    }

    /// Whether the configuration names the scope.
    pub const fn is_listed(&self) -> bool {
        self.listed
    }

    /// The key under which the token is cached.
    pub const fn key(&self) -> TokenKey {
        self.key
    }

    /// The key of the credential that the token is asked for with. It is made anew each time: few exchanges need it.
    pub fn credential(&self) -> CredentialKey {
        CredentialKey(hash(&[
            self.authority.host(),
            &self.tenant_id,
            &self.client_id,
            self.assertion.kind(),
            self.assertion.cluster(),
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

    /// Where the federated token is read.
    pub const fn assertion(&self) -> &Source {
        &self.assertion
    }

    /// The Envoy clusters that lead to the authority, in the order in which they are tried.
    pub fn clusters(&self) -> &[String] {
        &self.clusters
    }

    /// Tokens that were issued before this time are not used.
    pub const fn discard_before(&self) -> Option<Timestamp> {
        self.discard_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sent_as_bytes_and_shown_by_its_start() {
        let key = crate::entra::tests_support::grant().key();
        assert_eq!(TokenKey::from_bytes(key.as_bytes()), Some(key));
        assert_eq!(TokenKey::from_bytes(b""), None);
        let start: String = key.as_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((key.short(), format!("{key:?}")), (start.clone(), format!("TokenKey({start}…)")));
        assert_eq!(Some(&key.first_byte()), key.as_bytes().first());
    }

    #[test]
    fn parts_that_concatenate_alike_give_different_keys() {
        assert_ne!(TokenKey::of(&["ab", "c"]), TokenKey::of(&["a", "bc"]));
        assert_ne!(TokenKey::of(&["a", ""]), TokenKey::of(&["", "a"]));
        assert_ne!(TokenKey::of(&["a"]), TokenKey::of(&["a", ""]));
    }

    #[test]
    fn every_part_that_makes_another_token_makes_another_key() {
        let (public, other) =
            (Authority::public(), Authority::parse("https://login.microsoftonline.us", false).unwrap());
        let (source, elsewhere) = (Source::File { cluster: "a".into() }, Source::File { cluster: "b".into() });
        let parts = GrantParts {
            identity: "i",
            authority: &public,
            tenant_id: "t",
            client_id: "c",
            scope: "s/.default",
            assertion: &source,
            clusters: &[],
            discard_before: None,
        };
        let key = |parts: GrantParts<'_>| Grant::new(&parts).key();
        let one = key(parts.clone());
        for other in [
            GrantParts { authority: &other, ..parts.clone() },
            GrantParts { tenant_id: "u", ..parts.clone() },
            GrantParts { client_id: "d", ..parts.clone() },
            GrantParts { scope: "s//.default", ..parts.clone() },
            GrantParts { assertion: &elsewhere, ..parts.clone() },
        ] {
            assert_ne!(one, key(other));
        }
        let credential = |parts: GrantParts<'_>| Grant::new(&parts).credential();
        assert_eq!(credential(parts.clone()), credential(GrantParts { scope: "s//.default", ..parts.clone() }));
        for other in [
            GrantParts { authority: &other, ..parts.clone() },
            GrantParts { tenant_id: "u", ..parts.clone() },
            GrantParts { client_id: "d", ..parts.clone() },
            GrantParts { assertion: &elsewhere, ..parts.clone() },
        ] {
            assert_ne!(credential(parts.clone()), credential(other));
        }
        let ways = ["entra_2".to_owned()];
        assert_eq!(
            one,
            key(GrantParts { identity: "j", clusters: &ways, discard_before: Some(Timestamp::default()), ..parts })
        );
    }
}
