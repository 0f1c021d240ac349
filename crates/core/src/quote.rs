//! What a message may show of an answer that a call got in place of the expected one.
//!
//! Such an answer is a service's error, or it comes from a proxy in between, or from an attacker. It may hold a token that nothing recognizes
//! by its form, such as that of a Vault. One rule decides for Entra's answers and for those of sources: an answer that may hold such a token
//! is not shown at all. What is shown may still contain tokens that are known, or have the form of one: the caller removes them
//! ([`UntrustedText::without`](crate::untrusted::UntrustedText::without)).

use crate::xml;

/// The number of bytes that a message shows. Envoy's own texts about a connection that failed are not longer.
pub(crate) const MAX_QUOTE: usize = 300;

/// The number of bytes that are read.
const MAX_READ: usize = 64 * 1024;

/// The text of an answer with this status, or why it is not shown. `token` is the name of the field in which this service answers with a
/// token.
pub(crate) fn text_of(status: u16, body: &[u8], token: Option<&str>) -> Result<String, &'static str> {
    let body = body.get(..MAX_READ).unwrap_or(body).trim_ascii();
    let shown = match body.first() {
        None => return Err("(no body)"),
        Some(b'<') => {
            let title = str::from_utf8(body).ok().and_then(|page| xml::element(page, "title"));
            ["HTML page: ", title.ok_or("an HTML page")?].concat()
        }
        Some(_) => String::from_utf8_lossy(body).into_owned(),
    };
    // Only an error has a reason to be shown, and no service answers with a token and the status of an error. A string or a list of strings
    // in JSON has no name.
    let may_hold_token = !(400..600).contains(&status)
        || matches!(body.first(), Some(b'"' | b'['))
        || shown.as_bytes().windows(6).any(is_escaped_letter)
        || may_name_token(shown.as_bytes(), token);
    if may_hold_token { Err("an answer that may contain a token") } else { Ok(shown) }
}

/// Whether JSON spells a letter or digit with an escape, which no service needs: it could hide the name of a token, or the token.
const fn is_escaped_letter(part: &[u8]) -> bool {
    matches!(part, [b'\\', b'u', b'0', b'0', b'3', b'0'..=b'9'] | [b'\\', b'u', b'0', b'0', b'4'..=b'7', _])
}

/// Whether a text has a value after the name of a secret: in JSON, also inside a string and torn, in a form, or in lines of names and
/// values. In a sentence a space is before the name: `Invalid token: expired`.
fn may_name_token(text: &[u8], token: Option<&str>) -> bool {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let own = token.filter(|token| !token.is_empty()).unwrap_or("token");
    ["token", "assertion", "secret", "password", "jwt", own].iter().any(|word| {
        text.windows(word.len()).enumerate().any(|(start, part)| {
            if !part.eq_ignore_ascii_case(word.as_bytes()) {
                return false;
            }
            let rest = text.get(start..).unwrap_or_default();
            let end = rest.iter().position(|byte| !of_name(byte)).unwrap_or(rest.len());
            match rest.get(end..).unwrap_or_default() {
                [b'=', ..] => true,
                [b'"' | b'\'', after @ ..] | [b'\\', b'"', after @ ..] => {
                    matches!(after.trim_ascii_start(), [b':' | b'=', ..])
                }
                [b':', ..] => {
                    let before = text.get(..start).unwrap_or_default();
                    before.iter().rev().find(|byte| !of_name(byte)) != Some(&b' ')
                }
                _ => false,
            }
        })
    })
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
        for body in [
            // GitHub, Azure DevOps, Google, Vault, Keycloak and IMDS.
            r#"{"message":"Not Found","status":"404"}"#,
            r#"{"$id":"1","innerException":null,"message":"VS1: No."}"#,
            r#"{"error":{"code":403,"message":"Denied"}}"#,
            r#"{"errors":["permission denied","two"]}"#,
            r#"{"error":"invalid_token","error_description":"Invalid token: expired"}"#,
            r#"{"error":"invalid_client","error_description":"Invalid client or Invalid client credentials"}"#,
            // .NET escapes an apostrophe and a bracket.
            r#"{"title":"It\u0027s \u003cwrong"}"#,
            "upstream connect error or disconnect/reset before headers",
            "Invalid subject_token: expired",
        ] {
            for status in [400, 401, 599] {
                assert_eq!(shown(status, body), Ok(body.to_owned()), "{body}");
            }
            for status in [0, 100, 200, 203, 302, 399, 600, 999] {
                assert_eq!(shown(status, body), HIDDEN, "{status} {body}");
            }
        }
        let page = "<html><head><title>403 Forbidden</title></head><body>access_token=0paque</body>";
        assert_eq!(shown(403, page), Ok("HTML page: 403 Forbidden".to_owned()));
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
            r#"{"access_token":"0paque"#,
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
        assert!(!shown(400, &long).unwrap().contains("0paque"));
    }
}
