//! Secrets from the configuration or the environment.

use std::fmt;

use subtle::ConstantTimeEq;

/// A secret: what App Service clients must send, or a bearer token with which a source is asked for federated tokens.
///
/// `Debug` hides it, so that a type that contains it can be printed. There is no `Display`, and it cannot be serialized.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for a request to the service that it belongs to.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `sent` equals the secret, compared in constant time.
    pub(crate) fn is(&self, sent: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(sent).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_a_secret_also_inside_of_other_values() {
        let secret = Secret::new("bearer-of-the-job".to_owned());
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(hidden))");
        assert!(secret.is(b"bearer-of-the-job") && !secret.is(b"bearer-of-the-jo"));
    }
}
