//! Headers from which servers and their frameworks take another method or path than the request line's. What was decided about
//! the request line does not hold for such a server. `docs/destinations.md` says why these, and why not others.

use crate::http::RequestAccess;

/// Each header by every name that a server may know it by: servers that hand headers over as variables (CGI, WSGI, Rack) do not
/// distinguish hyphens and underscores.
const NAMES: [&str; 24] = [
    "x-http-method-override",
    "x-http-method_override",
    "x-http_method-override",
    "x-http_method_override",
    "x_http-method-override",
    "x_http-method_override",
    "x_http_method-override",
    "x_http_method_override",
    "x-http-method",
    "x-http_method",
    "x_http-method",
    "x_http_method",
    "x-method-override",
    "x-method_override",
    "x_method-override",
    "x_method_override",
    "x-original-url",
    "x-original_url",
    "x_original-url",
    "x_original_url",
    "x-rewrite-url",
    "x-rewrite_url",
    "x_rewrite-url",
    "x_rewrite_url",
];

/// The name of one that the request has.
pub(crate) fn in_request(request: &dyn RequestAccess) -> Option<&'static str> {
    NAMES.into_iter().find(|name| request.header(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_is_known_with_hyphens_and_underscores_in_every_combination() {
        let plain: Vec<&str> = NAMES.into_iter().filter(|name| !name.contains('_')).collect();
        assert_eq!(
            plain,
            ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"]
        );
        let mixed = |name: &str| {
            name.split('-').skip(1).fold(vec!["x".to_owned()], |starts, word| {
                starts
                    .iter()
                    .flat_map(|start| ['-', '_'].map(|separator| format!("{start}{separator}{word}")))
                    .collect()
            })
        };
        assert_eq!(NAMES.to_vec(), plain.into_iter().flat_map(mixed).collect::<Vec<String>>());
    }
}
