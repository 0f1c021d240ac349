//! Who sends a request, where identities are given out by that: an egress gateway sees its callers' certificates.

use crate::http::RequestAccess;
use crate::problem::{Code, Problem};

/// The caller's name: the URI in its certificate.
///
/// Envoy tells the first URI only. A certificate for a SPIFFE identity has exactly one (SPIFFE X.509-SVID, section 2);
/// one with several is refused where Envoy writes them all into `x-forwarded-client-cert`.
pub(super) fn principal(request: &dyn RequestAccess) -> Result<String, Problem> {
    let uri = request.property(&["connection", "uri_san_peer_certificate"]).filter(|uri| !uri.is_empty());
    let Some(uri) = uri.and_then(|uri| String::from_utf8(uri).ok()) else {
        return Err(Problem::new(
            Code::PrincipalNotListed,
            "the caller showed no certificate with a URI, and identities are given out by that",
            "Have callers connect with mutual TLS (in Istio: ISTIO_MUTUAL at the gateway).",
        ));
    };
    let several = request.header("x-forwarded-client-cert").is_some_and(|certificates| has_several_uris(&certificates));
    if several {
        return Err(Problem::new(
            Code::PrincipalNotListed,
            "the caller's certificate has several URIs, so who it is is not clear",
            "Give the caller a certificate with one URI.",
        ));
    }
    Ok(uri)
}

/// Whether the last certificate, the one of this connection, has more than one URI. Elements are separated by commas and
/// their pairs by semicolons. A value with either, or with `=`, is in double quotes, and a double quote in it is `\"`
/// (Envoy, HTTP header manipulation, "x-forwarded-client-cert"). A header whose quotes do not close counts as several.
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
            // Not closed: where a value ends cannot be known.
            r#"Subject="CN=a\";URI=x;URI=y"#,
        ] {
            assert!(has_several_uris(several.as_bytes()), "{several}");
        }
    }
}
