//! The caller of a request, by its client certificate. An egress gateway selects the identity by it.

use std::borrow::Cow;

use crate::problem::{Code, Problem};
use crate::request::RequestView;

/// Returns the URI in the caller's certificate, which names the caller.
///
/// Envoy's attribute has the first URI only. A certificate for a SPIFFE identity has exactly one (SPIFFE X.509-SVID, section 2).
/// A certificate with several is rejected if Envoy lists them all in `x-forwarded-client-cert`.
///
/// # Errors
/// If the caller presented no certificate with a URI, or one with several.
pub(super) fn principal<'a>(request: &RequestView<'a>) -> Result<Cow<'a, str>, Problem> {
    let Some(uri) = request.source().peer_uri().filter(|uri| !uri.is_empty()) else {
        return Err(Problem::new(
            Code::PrincipalNotListed,
            "the caller presented no certificate with a URI, and the identity is selected by that URI",
            "Have callers connect with mutual TLS (in Istio: ISTIO_MUTUAL at the gateway).",
        ));
    };
    let several = request.header("x-forwarded-client-cert").is_some_and(has_several_uris);
    if several {
        return Err(Problem::new(
            Code::PrincipalNotListed,
            "the caller's certificate has several URIs, so the caller is ambiguous",
            "Issue the caller a certificate with exactly one URI.",
        ));
    }
    Ok(uri)
}

/// Whether the last element, the certificate of this connection, has more than one URI. Elements are separated by commas, and
/// their pairs by semicolons. A value with either, or with `=`, is in double quotes, in which `\"` is a double quote
/// (Envoy, HTTP header manipulation, "x-forwarded-client-cert"). A header with an unclosed quote counts as several.
fn has_several_uris(certificates: &[u8]) -> bool {
    let (mut uris, mut quoted, mut escaped, mut part) = (0_usize, false, false, Vec::new());
    for byte in certificates.iter().chain(b";") {
        if std::mem::take(&mut escaped) {
            part.push(*byte);
            continue;
        }
        match byte {
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' | b',' if !quoted => {
                let is_uri = part.trim_ascii().get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"uri="));
                uris = uris.saturating_add(usize::from(is_uri));
                if *byte == b',' {
                    uris = 0;
                }
                part.clear();
            }
            _ => part.push(*byte),
        }
    }
    uris > 1 || quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_of_this_connection_may_have_one_uri() {
        for one in
            ["", "By=a;URI=spiffe://a", "URI=a;URI=b,Hash=x;URI=c;DNS=d", "Subject=\"CN=x;URI=a\";URI=b", "URI=;Hash=x"]
        {
            assert!(!has_several_uris(one.as_bytes()), "{one}");
        }
        for several in ["URI=a;URI=b", "URI=a,By=x;Uri=b; uri=c", "Subject=\"a,b\";URI=a;URI=b"] {
            assert!(has_several_uris(several.as_bytes()), "{several}");
        }
    }

    #[test]
    fn an_escaped_quote_does_not_end_a_quoted_value() {
        for one in [
            r#"Subject="CN=a \"b;URI=x";URI=y"#,
            r#"Subject="CN=\";URI=x;URI=z,";URI=y"#,
            r#"Subject="CN=a\\";URI=y"#,
            r"URI=\;DNS=b",
        ] {
            assert!(!has_several_uris(one.as_bytes()), "{one}");
        }
        for several in [
            r#"Subject="CN=a \"b,c";URI=x;URI=y"#,
            r#"Subject="CN=\"";URI=x;URI=y"#,
            r#"Subject="CN=a\\";URI=x;URI=y"#,
            r#"URI=x;Subject="CN=\",URI=a";URI=y"#,
            // Outside quotes a backslash has no meaning.
            r"URI=x\;URI=y",
            // The quote is not closed, so the end of the value is unknown.
            r#"Subject="CN=a\";URI=x;URI=y"#,
        ] {
            assert!(has_several_uris(several.as_bytes()), "{several}");
        }
    }
}
