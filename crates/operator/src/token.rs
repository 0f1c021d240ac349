//! `inspect`: what a token says, and what Entra will think of it. The signature is never shown.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use entra_exchange_core::assertion::Assertion;
use entra_exchange_core::time::Timestamp;
use entra_exchange_core::untrusted::UntrustedText;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::times::{distance, rfc3339};

/// What a token says.
#[derive(Clone, Debug, Serialize)]
pub struct Inspected {
    /// The fields of the header.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
    /// Whether Entra issued it, so that it is an access token and not a federated one.
    pub is_entras: bool,
    /// Why Entra would not accept it as a federated token; `None` if nothing speaks against it.
    pub problem: Option<Objection>,
    /// What a federated credential that matches the token must have; `None` without these claims, or for a token of Entra.
    pub credential: Option<Credential>,
}

/// Why Entra would not accept a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Objection {
    /// The code with which the filter reports it.
    pub code: &'static str,
    /// What was found.
    pub detail: String,
    /// An instruction.
    pub remedy: String,
}

/// The three values that a federated credential and a token have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Credential {
    /// The issuer.
    pub issuer: String,
    /// The subject.
    pub subject: String,
    /// The audience.
    pub audience: String,
}

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotToken(&'static str);

impl std::fmt::Display for NotToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0)
    }
}

/// Reads a token, with or without `Bearer` before it. `now` is in seconds since 1970.
///
/// # Errors
/// If the text is not a JWT (RFC 7519).
pub fn inspect(text: &str, now: u64) -> Result<Inspected, NotToken> {
    let token = plain(text);
    if token.is_empty() {
        return Err(NotToken("is empty: expected a JWT"));
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, _signature] = parts.as_slice() else {
        return Err(NotToken(match parts.len() {
            5 => "is an encrypted token (JWE), which only its audience can read",
            _ => "is not a JWT: expected three parts, separated by dots",
        }));
    };
    let header = object(header).ok_or(NotToken("is not a JWT: its header is not JSON in base64url"))?;
    let claims = object(claims).ok_or(NotToken("is not a JWT: its claims are not JSON in base64url"))?;
    let is_entras = text_of(&claims, "iss").is_some_and(is_entra);
    let problem = objection(token, is_entras, now);
    let credential = credential(&claims).filter(|_| !is_entras);
    Ok(Inspected { header, claims, is_entras, problem, credential })
}

/// The token without `Bearer` before it.
pub(crate) fn plain(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("bearer ")).unwrap_or(text).trim()
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    match serde_json::from_slice(&bytes).ok()? {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

pub(crate) fn text_of<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}

/// Whether an issuer is Entra (learn.microsoft.com, "Access token claims reference": `iss`).
fn is_entra(issuer: &str) -> bool {
    let host = issuer.strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    entra_exchange_core::authority::Authority::parse(&format!("https://{host}"), false).is_ok()
        || host == "sts.chinacloudapi.cn"
}

fn objection(token: &str, is_entras: bool, now: u64) -> Option<Objection> {
    if is_entras {
        return Some(Objection {
            code: "assertion_invalid",
            detail: "Entra issued this token itself, and does not accept it as a federated token (AADSTS700222)"
                .to_owned(),
            remedy: "Use a token of the cluster or of another issuer.".to_owned(),
        });
    }
    let problem = Assertion::parse(token.as_bytes(), Timestamp::from_unix_seconds(now)).err()?;
    Some(Objection { code: problem.code.as_str(), detail: problem.detail, remedy: problem.remedy })
}

fn credential(claims: &Map<String, Value>) -> Option<Credential> {
    let audience = match claims.get("aud")? {
        Value::Array(list) => list.first()?.as_str()?,
        single => single.as_str()?,
    };
    let text = |name: &str| text_of(claims, name).map(str::to_owned);
    Some(Credential { issuer: text("iss")?, subject: text("sub")?, audience: audience.to_owned() })
}

/// How a configured federated credential compares with a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The name of the credential.
    pub name: String,
    /// What differs; empty if the credential matches.
    pub differences: Vec<String>,
}

/// Compares the credentials that `az ad app federated-credential list` or `az identity federated-credential list` prints.
///
/// # Errors
/// If the text is not a list of credentials.
pub fn compare(token: &Credential, list: &str) -> Result<Vec<Comparison>, String> {
    #[derive(serde::Deserialize)]
    struct Listed {
        #[serde(default)]
        name: String,
        #[serde(default)]
        issuer: String,
        #[serde(default)]
        subject: Option<String>,
        #[serde(default)]
        audiences: Vec<String>,
    }
    let listed: Vec<Listed> = serde_json::from_str(list)
        .map_err(|error| format!("is not a list of federated credentials as JSON: {error}"))?;
    let compared = listed.into_iter().map(|one| {
        let audience = one.audiences.first().cloned().unwrap_or_default();
        let subject = one.subject.unwrap_or_default();
        let pairs = [
            ("issuer", &token.issuer, &one.issuer),
            ("subject", &token.subject, &subject),
            ("audience", &token.audience, &audience),
        ];
        let differences = pairs.into_iter().filter_map(|(name, token, credential)| differ(name, token, credential));
        Comparison { name: UntrustedText::new(&one.name).as_str().to_owned(), differences: differences.collect() }
    });
    Ok(compared.collect())
}

/// Entra compares exactly: a trailing slash and the case of letters count.
fn differ(name: &str, token: &str, credential: &str) -> Option<String> {
    if token == credential {
        return None;
    }
    let hint = if token.trim_end_matches('/') == credential.trim_end_matches('/') {
        ": only a trailing slash differs"
    } else if token.eq_ignore_ascii_case(credential) {
        ": only upper and lower case differ"
    } else {
        ""
    };
    let shown = |text: &str| UntrustedText::new(text).as_str().to_owned();
    Some(format!("{name} is {:?}, the token has {:?}{hint}", shown(credential), shown(token)))
}

/// The claims that are shown first, each with what it is.
const SHOWN: &[(&str, &str)] = &[
    ("iss", "issuer"),
    ("sub", "subject"),
    ("aud", "audience"),
    ("tid", "tenant"),
    ("appid", "client"),
    ("azp", "client"),
    ("oid", "object"),
    ("idtyp", "kind"),
    ("roles", "roles"),
    ("scp", "scopes"),
    ("xms_cc", "capabilities"),
    ("iat", "issued"),
    ("nbf", "valid from"),
    ("exp", "expires"),
];

impl Credential {
    /// The credential for people, three lines.
    pub fn text(&self) -> String {
        let [issuer, subject, audience] =
            [&self.issuer, &self.subject, &self.audience].map(|text| UntrustedText::new(text));
        [
            row("credential", &format!("issuer {issuer}")),
            row("", &format!("subject {subject}")),
            row("", &format!("audience {audience}")),
        ]
        .join("\n")
    }
}

impl Inspected {
    /// The token for people, one field a line. `now` is in seconds since 1970.
    pub fn text(&self, now: u64) -> String {
        let mut lines = Vec::new();
        for (name, what) in [("alg", "algorithm"), ("kid", "key"), ("typ", "type")] {
            if let Some(value) = self.header.get(name) {
                lines.push(row(what, &shown(value)));
            }
        }
        for (name, what) in SHOWN {
            let Some(value) = self.claims.get(*name) else { continue };
            let is_time = matches!(*name, "iat" | "nbf" | "exp");
            let seconds = value.as_f64().filter(|_| is_time).map(whole);
            lines.push(row(
                what,
                &match seconds {
                    Some(seconds) => format!("{} ({})", rfc3339(seconds), distance(seconds, now)),
                    None => shown(value),
                },
            ));
        }
        let mut others: Vec<&str> = self
            .claims
            .keys()
            .map(String::as_str)
            .filter(|name| SHOWN.iter().all(|(other, _)| other != name))
            .collect();
        others.sort_unstable();
        if !others.is_empty() {
            let names = UntrustedText::new(&others.join(", "));
            lines.push(row("others", names.as_str()));
        }
        lines.push(row(
            "Entra",
            match (&self.problem, self.is_entras) {
                (None, _) => "accepts such a token, if a federated credential matches it",
                (Some(_), true) => "issued it: an access token, which its audience accepts",
                (Some(_), false) => "does not accept it",
            },
        ));
        if let Some(Objection { code, detail, remedy }) = self.problem.as_ref().filter(|_| !self.is_entras) {
            lines.extend([row("  code", code), row("  cause", detail), row("  remedy", remedy)]);
        }
        lines.join("\n")
    }
}

/// The seconds of a NumericDate, which may have a fraction. A cast from f64 saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) const fn whole(seconds: f64) -> u64 {
    seconds as u64
}

pub(crate) fn row(name: &str, value: &str) -> String {
    format!("{name:<12}  {value}")
}

/// A value of a token, cleaned: it comes from outside.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    UntrustedText::new(&text).as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_795_334_000;

    fn jwt(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2lnbmF0dXJl", part(header), part(claims))
    }

    fn projected() -> Value {
        json!({ "iss": "https://issuer.example/", "sub": "system:serviceaccount:payments:api",
            "aud": ["api://AzureADTokenExchange"], "iat": NOW - 60, "exp": NOW + 3540 })
    }

    #[test]
    fn a_projected_token_is_accepted_and_its_signature_is_not_shown() {
        let token = jwt(&json!({ "alg": "RS256", "kid": "k" }), &projected());
        let inspected = inspect(&format!("Bearer {token}\n"), NOW).unwrap();
        let text = inspected.text(NOW);
        assert!(inspected.problem.is_none() && text.contains("expires       2026-11-22T08:52:20Z (in 59m)"), "{text}");
        let all = text + &serde_json::to_string(&inspected).unwrap();
        assert!(!all.contains("c2ln"), "{all}");
    }

    #[test]
    fn what_the_filter_rejects_is_rejected_with_the_same_words() {
        let token = jwt(&json!({ "alg": "ES256" }), &projected());
        let problem = inspect(&token, NOW).unwrap().problem.unwrap();
        assert_eq!((problem.code, problem.detail.contains("ES256")), ("assertion_invalid", true));
        let later = inspect(&jwt(&json!({ "alg": "RS256" }), &projected()), NOW + 7200).unwrap().problem.unwrap();
        assert_eq!(later.code, "assertion_expired");
    }

    #[test]
    fn a_token_of_entra_is_an_access_token() {
        for issuer in ["https://sts.windows.net/t/", "https://login.microsoftonline.com/t/v2.0"] {
            let mut claims = projected();
            claims["iss"] = json!(issuer);
            let inspected = inspect(&jwt(&json!({ "alg": "RS256" }), &claims), NOW).unwrap();
            assert!(inspected.is_entras && inspected.credential.is_none());
        }
    }

    #[test]
    fn credentials_are_compared_exactly() {
        let token = credential(projected().as_object().unwrap()).unwrap();
        let list = json!([
            { "name": "right", "issuer": "https://issuer.example/", "subject": "system:serviceaccount:payments:api", "audiences": ["api://AzureADTokenExchange"] },
            { "name": "slash", "issuer": "https://issuer.example", "subject": "system:serviceaccount:payments:API", "audiences": [] },
        ]);
        let compared = compare(&token, &list.to_string()).unwrap();
        assert!(compared[0].differences.is_empty());
        let differences = compared[1].differences.join("\n");
        for part in ["only a trailing slash differs", "only upper and lower case differ", "audience is \"\""] {
            assert!(differences.contains(part), "{differences}");
        }
        assert!(compare(&token, "{}").is_err());
    }

    #[test]
    fn what_a_token_says_cannot_act_on_the_terminal() {
        let mut claims = projected();
        claims["iss"] = json!("https://a\u{1b}[2J");
        let inspected = inspect(&jwt(&json!({ "alg": "RS256" }), &claims), NOW).unwrap();
        let text = format!("{}{}", inspected.text(NOW), inspected.credential.unwrap().text());
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn a_text_that_is_not_a_token_is_named() {
        let reason = |text: &str| inspect(text, NOW).unwrap_err().to_string();
        assert!(reason("").contains("empty"));
        assert!(reason("a.b.c.d.e").contains("encrypted"));
        assert!(reason("hello").contains("three parts"));
        assert!(reason("e30.x.y").contains("claims"));
    }
}
