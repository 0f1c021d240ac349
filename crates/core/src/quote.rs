//! What a message may show of an answer that a call got in place of the expected one.
//!
//! Such an answer is a service's error, or it comes from a proxy in between, or from an attacker. It may hold a token that nothing recognizes
//! by its form, such as that of a Vault. One rule decides for Entra's answers and for those of sources: an answer that may hold such a token
//! is not shown at all. What is shown may still contain tokens that are known, or have the form of one: the caller removes them
//! ([`UntrustedText::without`](crate::untrusted::UntrustedText::without)).

use crate::json::Json;
use crate::xml;

/// The number of bytes that a message shows. Envoy's own texts about a connection that failed are not longer.
pub(crate) const MAX_QUOTE: usize = 300;

/// The number of bytes that are read.
const MAX_READ: usize = 64 * 1024;

/// Words in the names of values that are tokens, or that a token could be got with.
const SECRET_NAMES: [&[u8]; 5] = [b"token", b"assertion", b"secret", b"password", b"jwt"];

/// The text of an answer with this status, or why it is not shown. `token` is the name of the field in which this service answers with a
/// token.
pub(crate) fn text_of(status: u16, body: &[u8], token: Option<&str>) -> Result<String, &'static str> {
    const HIDDEN: &str = "an answer that may contain a token";
    let body = body.get(..MAX_READ).unwrap_or(body).trim_ascii();
    let text = match body.first() {
        None => return Err("(no body)"),
        // Only an error has a reason to be shown, and no service answers with a token and the status of an error.
        _ if !(400..600).contains(&status) => return Err(HIDDEN),
        Some(b'<') => {
            let title = str::from_utf8(body).ok().and_then(|page| xml::element(page, "title"));
            ["HTML page: ", title.ok_or("an HTML page")?].concat()
        }
        Some(b'{') => {
            // JSON that is torn or invalid could hide the name of a token.
            let json = Json::parse(body).map_err(|_| HIDDEN)?;
            let mut text = String::new();
            write(&json, token, &mut text).ok_or(HIDDEN)?;
            text
        }
        // A string or a list of strings, which have no name.
        Some(b'"' | b'[') => return Err(HIDDEN),
        Some(_) => String::from_utf8_lossy(body).into_owned(),
    };
    if may_name_token(text.as_bytes(), token) { Err(HIDDEN) } else { Ok(text) }
}

/// Writes JSON without quotes and escapes. `None` if the name of a field says that its value is a secret.
fn write(json: &Json, token: Option<&str>, text: &mut String) -> Option<()> {
    match json {
        Json::Null => text.push_str("null"),
        Json::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Json::Integer(value) | Json::String(value) => text.push_str(value),
        // The standard library's formatting of such numbers would add 10 KB to the module, and no message needs them.
        Json::Float(_) => text.push('…'),
        Json::List(items) => {
            text.push('[');
            for item in items {
                separate(text);
                write(item, token, text)?;
            }
            text.push(']');
        }
        Json::Object(fields) => {
            text.push('{');
            for (name, value) in fields {
                let has_value = matches!(value, Json::String(_) | Json::List(_) | Json::Object(_));
                if has_value && (Some(&**name) == token || SECRET_NAMES.iter().any(|word| holds(name.as_bytes(), word)))
                {
                    return None;
                }
                separate(text);
                text.push_str(name);
                text.push_str(": ");
                write(value, token, text)?;
            }
            text.push('}');
        }
    }
    Some(())
}

fn separate(text: &mut String) {
    if !text.ends_with(['{', '[']) {
        text.push_str(", ");
    }
}

fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// Whether a text has a value after a name that ends with `token`, or after the name of the field in which the service answers with one: in
/// JSON inside the text, in a form, or in lines of names and values. In a sentence a space is before the name: `Invalid token: expired`.
fn may_name_token(text: &[u8], token: Option<&str>) -> bool {
    let is_name = |name: &[u8]| {
        text.windows(name.len()).enumerate().filter(|(_, part)| part.eq_ignore_ascii_case(name)).any(|(start, _)| {
            let after = text.get(start.saturating_add(name.len())..).unwrap_or_default();
            match after {
                [b'=', ..] => true,
                [b'"' | b'\'', after @ ..] => matches!(after.trim_ascii_start(), [b':' | b'=', ..]),
                [b':', ..] => {
                    let of_name = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
                    text.get(..start).and_then(|before| before.iter().rev().find(|byte| !of_name(byte))) != Some(&b' ')
                }
                _ => false,
            }
        })
    };
    is_name(b"token") || token.is_some_and(|token| !token.is_empty() && is_name(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: Result<String, &str> = Err("an answer that may contain a token");

    fn shown(status: u16, body: &str) -> Result<String, &'static str> {
        text_of(status, body.as_bytes(), Some("value"))
    }

    #[test]
    fn the_errors_of_services_are_shown() {
        for (body, text) in [
            // GitHub, Azure DevOps, Google, Vault, Keycloak and IMDS.
            (r#"{"message":"Not Found","status":"404"}"#, "{message: Not Found, status: 404}"),
            (
                r#"{"$id":"1","innerException":null,"message":"VS1: No."}"#,
                "{$id: 1, innerException: null, message: VS1: No.}",
            ),
            (r#"{"error":{"code":403,"message":"Denied"}}"#, "{error: {code: 403, message: Denied}}"),
            (r#"{"errors":["permission denied","two"]}"#, "{errors: [permission denied, two]}"),
            (
                r#"{"error":"invalid_token","error_description":"Invalid token: expired"}"#,
                "{error: invalid_token, error_description: Invalid token: expired}",
            ),
            (
                r#"{"error":"invalid_client","error_description":"Invalid client or Invalid client credentials"}"#,
                "{error: invalid_client, error_description: Invalid client or Invalid client credentials}",
            ),
            // .NET escapes an apostrophe.
            (r#" {"title":"It\u0027s wrong","ok":false,"retry":1.5} "#, "{title: It's wrong, ok: false, retry: …}"),
            (r#"{"error":"x","token":null}"#, "{error: x, token: null}"),
            ("{}", "{}"),
            (
                "upstream connect error or disconnect/reset before headers",
                "upstream connect error or disconnect/reset before headers",
            ),
            ("Invalid subject_token: expired", "Invalid subject_token: expired"),
            (
                "<html><head><title>403 Forbidden</title></head><body>access_token=0paque</body>",
                "HTML page: 403 Forbidden",
            ),
        ] {
            for status in [400, 401, 599] {
                assert_eq!(shown(status, body), Ok(text.to_owned()), "{body}");
            }
            for status in [0, 100, 200, 203, 302, 399, 600, 999] {
                assert_eq!(shown(status, body), HIDDEN, "{status} {body}");
            }
        }
        assert_eq!([shown(400, " \r\n"), shown(200, "")], [Err("(no body)"), Err("(no body)")]);
        assert_eq!(shown(400, "<html><body>access_token=0paque"), Err("an HTML page"));
    }

    #[test]
    fn an_answer_that_may_contain_a_token_is_not_shown() {
        for body in [
            r#"{"access_token":"0paque"}"#,
            r#"{"access_token" : "0paque","error":"x"}"#,
            r#"{"error":{"inner":[{"id_Token":"0paque"}]}}"#,
            r#"{"token":{"a":"0paque"}}"#,
            r#"{"tokens":["0paque"]}"#,
            r#"{"oidcToken":"0paque"}"#,
            r#"{"client_assertion":"0paque"}"#,
            r#"{"clientSecret":"0paque"}"#,
            // The field in which this service answers with its token.
            r#"{"value":"0paque"}"#,
            // A name that is escaped.
            r#"{"acces\u0073\u005ftoke\u006e":"0paque"}"#,
            // JSON or a form in a string.
            r#"{"message":"{\"access_token\" :\"0paque\"}"}"#,
            r#"{"message":"{\"access_tok\u0065n\":\"0paque\"}"}"#,
            r#"{"message":"access_token=0paque&x=y"}"#,
            // Torn, or not valid.
            r#"{"acces\u0073\u005ftoke\u006e":"0paque"#,
            r#"{"access_token":"0paque"}]"#,
            r#"{"0paque""#,
            // Without a name.
            r#""0paque""#,
            r#" ["0paque"]"#,
            // Text.
            "access_token=0paque&expires_in=3600",
            "ACCESS_TOKEN=0paque",
            "?\"access_token\":\"0paque\"}",
            "'token' : '0paque'",
            "access_token: 0paque",
            "x\naccess_token: 0paque",
            "token:0paque",
            "it is value=0paque",
            "<title>access_token=0paque</title>",
        ] {
            assert_eq!(shown(400, body), HIDDEN, "{body}");
        }
        let long = format!("{}access_token=0paque", "x".repeat(MAX_READ));
        assert!(!shown(400, &long).unwrap().contains("0paque"));
        let long = format!("{{\"x\":\"{}\",\"access_token\":\"0paque\"}}", "x".repeat(MAX_READ));
        assert_eq!(shown(400, &long), HIDDEN);
    }
}
