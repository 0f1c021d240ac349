//! The tokens that a VM has sent, by which the filter recognizes its own token when a request passes it again: on a retry in a cluster's
//! filter chain, and after an internal redirect. Envoy then still has the header that the filter has set.

use std::cell::Cell;
use std::sync::Arc;

use crate::azure::HeaderForm;
use crate::entra::AccessToken;
use crate::time::Timestamp;

/// The maximum number of tokens. Beyond it, the one that expires first is dropped.
const CAPACITY: usize = 16_384;

/// The tokens that a VM has sent. A VM has one of these for all its configurations: a request may begin under one and be redirected under
/// the next.
#[derive(Default)]
pub struct SentTokens {
    tokens: Cell<Vec<SentToken>>,
    /// The names of all headers that may hold one of them.
    headers: Cell<Vec<Arc<str>>>,
    /// Whether the filter has run in a cluster's filter chain, where a request passes it again on a retry.
    in_cluster: Cell<bool>,
}

/// A token that was sent. It is kept until it expires, even if the cache has replaced or dropped it.
#[derive(Clone, Copy)]
struct SentToken {
    digest: [u8; 32],
    expires_at: Timestamp,
}

impl SentTokens {
    /// Adds the names of headers that a configuration injects tokens into.
    pub(crate) fn add_headers(&self, names: impl IntoIterator<Item = Arc<str>>) {
        let mut headers = self.headers.take();
        for name in names {
            if !headers.contains(&name) {
                headers.push(name);
            }
        }
        self.headers.set(headers);
    }

    /// Adds a token before it is sent for the first time.
    pub(crate) fn add(&self, token: &AccessToken, expires_at: Timestamp, now: Timestamp) {
        let digest = token.digest();
        let mut tokens = self.tokens.take();
        if tokens.iter().all(|sent| sent.digest != digest) {
            tokens.retain(|sent| sent.expires_at > now);
            if tokens.len() >= CAPACITY
                && let Some((first, _)) = tokens.iter().enumerate().min_by_key(|(_, sent)| sent.expires_at)
            {
                tokens.swap_remove(first);
            }
            tokens.push(SentToken { digest, expires_at });
        }
        self.tokens.set(tokens);
    }

    /// Whether no token was sent.
    pub(crate) fn is_empty(&self) -> bool {
        let tokens = self.tokens.take();
        let is_empty = tokens.is_empty();
        self.tokens.set(tokens);
        is_empty
    }

    /// Records that the filter runs in a cluster's filter chain.
    pub(crate) fn note_cluster(&self) {
        self.in_cluster.set(true);
    }

    /// Whether the filter has run in a cluster's filter chain.
    pub(crate) const fn in_cluster(&self) -> bool {
        self.in_cluster.get()
    }

    /// Returns the names of the headers that hold a token that was sent. `value` returns the value of a header.
    pub(crate) fn headers_with<'a>(&self, value: impl Fn(&str) -> Option<&'a [u8]>) -> Vec<Arc<str>> {
        let (headers, tokens) = (self.headers.take(), self.tokens.take());
        let was_sent = |token: AccessToken| {
            let digest = token.digest();
            tokens.iter().any(|sent| sent.digest == digest)
        };
        let holds_one = |name: &&Arc<str>| value(name).and_then(token_in).is_some_and(was_sent);
        let found = headers.iter().filter(holds_one).cloned().collect();
        self.headers.set(headers);
        self.tokens.set(tokens);
        found
    }
}

/// The token in a header's value, in any of the forms in which the filter sends tokens.
fn token_in(value: &[u8]) -> Option<AccessToken> {
    let in_form = [HeaderForm::Bearer, HeaderForm::CosmosDb].into_iter().find_map(|form| form.token_in(value));
    in_form.or_else(|| AccessToken::parse(str::from_utf8(value).ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    fn token(text: &str) -> AccessToken {
        AccessToken::parse(text).unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    /// Tokens that were sent in these headers, and expire in an hour.
    pub(crate) fn sent(headers: &[&str], tokens: &[&str]) -> SentTokens {
        let sent = SentTokens::default();
        sent.add_headers(headers.iter().map(|name| Arc::from(*name)));
        tokens.iter().for_each(|text| sent.add(&token(text), at(3600), at(0)));
        sent
    }

    fn is_recognized(sent: &SentTokens, value: &str) -> bool {
        !sent.headers_with(|_| Some(value.as_bytes())).is_empty()
    }

    #[test]
    fn a_token_is_recognized_in_every_form_and_only_in_headers_that_tokens_are_injected_into() {
        let sent = sent(&["authorization", "x-token"], &["ours"]);
        for form in [HeaderForm::Bearer, HeaderForm::CosmosDb] {
            assert!(is_recognized(&sent, &form.value(&token("ours"))), "{form:?}");
            assert!(!is_recognized(&sent, &form.value(&token("theirs"))), "{form:?}");
        }
        assert!(is_recognized(&sent, "ours"));
        for value in ["Bearer ours ", "bearer ours", "Bearer", "", "our", "Basic ours"] {
            assert!(!is_recognized(&sent, value), "{value:?}");
        }
        let in_api_key = sent.headers_with(|name| (name == "api-key").then_some(&b"ours"[..]));
        assert_eq!(in_api_key, []);
        let in_one = sent.headers_with(|name| (name == "x-token").then_some(&b"ours"[..]));
        assert_eq!(in_one, [Arc::from("x-token")]);
    }

    #[test]
    fn a_token_is_kept_until_it_expires_however_many_follow() {
        let sent = sent(&["authorization"], &[]);
        sent.add(&token("first"), at(3600), at(0));
        for number in 0..100 {
            sent.add(&token(&format!("later{number}")), at(7200), at(3599));
        }
        assert!(is_recognized(&sent, "Bearer first"));
        sent.add(&token("last"), at(7200), at(3600));
        assert!(!is_recognized(&sent, "Bearer first") && is_recognized(&sent, "Bearer later0"));
    }

    #[test]
    fn the_token_that_expires_first_is_dropped_when_all_places_are_taken() {
        let sent = sent(&["authorization"], &[]);
        sent.add(&token("soon"), at(100), at(0));
        for number in 1..=CAPACITY {
            sent.add(&token(&format!("t{number}")), at(200), at(0));
        }
        assert!(!is_recognized(&sent, "Bearer soon"));
        assert!(is_recognized(&sent, "Bearer t1") && is_recognized(&sent, &format!("Bearer t{CAPACITY}")));
        let tokens = sent.tokens.take();
        assert_eq!(tokens.len(), CAPACITY);
    }
}
