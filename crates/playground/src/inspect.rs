//! `inspect`: what a token says. The signature is not part of the answer.

use operator::{signature, token};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::lines;

/// A token to inspect. `credentials` and `jwks` may be empty.
#[derive(Debug, Deserialize)]
pub(crate) struct Question {
    token: String,
    credentials: String,
    jwks: String,
    /// Seconds since 1970.
    now: u64,
}

pub(crate) fn answer(question: Question) -> Result<Value, String> {
    let inspected = token::inspect(&question.token, question.now).map_err(|reason| format!("the token {reason}"))?;
    let compared = match (lines::given(&question.credentials), &inspected.credential) {
        (None, _) => None,
        (Some(_), None) => {
            return Err("the token has no issuer, subject and audience, so no credential can match it".to_owned());
        }
        (Some(list), Some(credential)) => {
            Some(token::compare(credential, &list).map_err(|reason| format!("the list {reason}"))?)
        }
    };
    let verified = lines::given(&question.jwks).map(|keys| match signature::verify(&question.token, &keys) {
        Ok(signer) => json!(signer),
        Err(reason) => json!({ "reason": reason }),
    });
    Ok(json!({
        "text": inspected.text(question.now),
        "is_entras": inspected.is_entras,
        "problem": inspected.problem,
        "credential": inspected.credential,
        "credentials": compared,
        "signature": verified,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = include_str!("../../cli/tests/fixtures/token.jwt");
    const CREDENTIALS: &str = include_str!("../../cli/tests/fixtures/credentials.json");

    fn ask(token: &str, credentials: &str, jwks: &str) -> Result<Value, String> {
        let [token, credentials, jwks] = [token, credentials, jwks].map(str::to_owned);
        answer(Question { token, credentials, jwks, now: 1_769_825_400 })
    }

    #[test]
    fn a_token_is_compared_and_verified_without_its_signature_in_the_answer() {
        let answer = ask(TOKEN, CREDENTIALS, "{\"keys\": []}").unwrap_or_default();
        assert_eq!(answer.get("problem"), Some(&Value::Null));
        assert_eq!(answer.pointer("/credentials/0/name"), Some(&json!("payments-api")));
        assert_eq!(answer.pointer("/signature/reason"), Some(&json!("the key set has no keys")));
        let signature = TOKEN.trim().rsplit('.').next().unwrap_or_default();
        assert!(!signature.is_empty() && !answer.to_string().contains(signature));
    }

    #[test]
    fn a_text_that_is_not_a_token_is_an_error() {
        assert_eq!(ask("x", "", ""), Err("the token is not a JWT: expected three parts, separated by dots".to_owned()));
    }
}
