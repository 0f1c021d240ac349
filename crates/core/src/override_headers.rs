//! Headers that override the method or path of a request in some servers and frameworks. Rules that were checked against the request
//! line do not apply to what such a server executes. `docs/destinations.md` explains the choice of headers.

use std::borrow::Cow;

use crate::request::RequestView;

/// The header names. A server that passes headers as variables (CGI, WSGI, Rack) does not distinguish hyphens and underscores.
const NAMES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// Returns the name of an override header that the request has, if any.
pub(crate) fn in_request<'a>(request: &'a RequestView<'_>) -> Option<Cow<'a, str>> {
    request.headers().names().find(|name| overrides(name)).map(String::from_utf8_lossy)
}

fn overrides(name: &[u8]) -> bool {
    let is_same = |(plain, sent): (u8, &u8)| plain == *sent || (plain == b'-' && *sent == b'_');
    NAMES.iter().any(|plain| plain.len() == name.len() && plain.bytes().zip(name).all(is_same))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::Sent;

    #[test]
    fn each_header_is_found_with_hyphens_and_underscores_in_every_combination() {
        let found = |name: &str| {
            let sent = Sent::get("a.example", "/").header("accept", b"x").header(name, b"");
            in_request(&RequestView::new(&sent)).map(Cow::into_owned)
        };
        for plain in NAMES {
            let mixed = plain.split('-').skip(1).fold(vec!["x".to_owned()], |starts, word| {
                starts
                    .iter()
                    .flat_map(|start| ['-', '_'].map(|separator| format!("{start}{separator}{word}")))
                    .collect()
            });
            assert!(mixed.len() >= 4, "{plain}");
            for name in mixed {
                assert_eq!(found(&name).as_deref(), Some(name.as_str()));
            }
        }
        for other in ["x-http-methods", "x-http", "y-http-method", "x+http+method", "x-original-ur", "_-http-method"] {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
