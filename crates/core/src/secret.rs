//! Secrets from the configuration or the environment.

use subtle::ConstantTimeEq;

use crate::untrusted;

/// A secret: what App Service clients must send, or a credential with which a source is asked for federated tokens.
///
/// It has neither `Debug` nor `Display`, and it cannot be serialized: a type that contains it says itself what is printed of it.
#[derive(Clone, Default, PartialEq, Eq)]
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

/// The secrets of a request, which its response may repeat.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<Secret>);

impl Secrets {
    pub(crate) fn push(&mut self, secret: Secret) {
        self.0.push(secret);
    }

    /// The beginning of a text from outside, without the pieces of these secrets ([`untrusted::remove_pieces`]).
    pub(crate) fn removed_from(&self, text: &str) -> String {
        let text = untrusted::beginning(text).to_owned();
        self.0.iter().fold(text, |text, secret| untrusted::remove_pieces(&text, secret.expose()))
    }

    /// Whether a text contains one of these secrets, or a long part of one ([`untrusted::holds`]).
    pub(crate) fn are_in(&self, text: &str) -> bool {
        self.0.iter().any(|secret| untrusted::holds(text, secret.expose()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_as_a_whole() {
        let secret = Secret::new("bearer-of-the-job".to_owned());
        assert!(secret.is(b"bearer-of-the-job") && !secret.is(b"bearer-of-the-jo"));
    }

    #[test]
    fn all_secrets_are_removed_from_a_text_whatever_their_length() {
        let mut secrets = Secrets::default();
        for secret in ["bearer-of-the-job", "a:b c", "\u{e4}"] {
            secrets.push(Secret::new(secret.to_owned()));
        }
        let text = secrets.removed_from("got BEARER of the job, a:b c and \u{e4}, but not a, b or c");
        assert_eq!(text, "got (hidden), (hidden) and (hidden), but not a, b or c");
    }

    #[test]
    fn a_text_contains_a_secret_if_it_has_twelve_of_its_letters_or_all_of_a_shorter_one() {
        let mut secrets = Secrets::default();
        for secret in ["0123456789abcdefghij", "payments-1", "short"] {
            secrets.push(Secret::new(secret.to_owned()));
        }
        for text in ["x/0123456789abcdefghij", "23456789-ABCD", "PAYMENTS_1", "a payments1."] {
            assert!(secrets.are_in(text), "{text}");
        }
        for text in ["", "short", "payments", "payments-2", "0123456789a/payments"] {
            assert!(!secrets.are_in(text), "{text}");
        }
    }
}
