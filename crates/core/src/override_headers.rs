//! Headers from which servers and their frameworks take another method or path than the request line's. What was decided about
//! the request line does not hold for such a server. `docs/destinations.md` says why these, and why not others.

use crate::http::Request;

const NAMES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// The headers, each by every name that a server may know it by.
pub(crate) struct OverrideHeaders(Vec<String>);

impl OverrideHeaders {
    pub(crate) fn new() -> Self {
        Self(NAMES.into_iter().flat_map(spellings).collect())
    }

    /// The name of one that the request has.
    pub(crate) fn in_request(&self, request: &dyn Request) -> Option<&str> {
        self.0.iter().find(|name| request.header(name).is_some()).map(String::as_str)
    }
}

/// A header's name with hyphens and underscores in every combination: servers that hand headers over as variables (CGI, WSGI, Rack)
/// do not distinguish the two.
fn spellings(name: &str) -> Vec<String> {
    let mut words = name.split('-');
    let first = vec![words.next().unwrap_or_default().to_owned()];
    words.fold(first, |starts, word| {
        starts.iter().flat_map(|start| ['-', '_'].map(|separator| format!("{start}{separator}{word}"))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::Sent;

    #[test]
    fn a_header_is_known_with_hyphens_and_underscores_in_every_combination() {
        assert_eq!(spellings("x-http-method"), ["x-http-method", "x-http_method", "x_http-method", "x_http_method"]);
        let headers = OverrideHeaders::new();
        for name in ["x-http_method-override", "x_original-url", "x_rewrite_url"] {
            assert_eq!(headers.in_request(&Sent::get("a.example", "/").header(name, b"")), Some(name));
        }
        assert_eq!(headers.in_request(&Sent::get("a.example", "/").header("x-original-uri", b"/x")), None);
    }
}
