//! Headers that override the method or path of a request in some servers and frameworks. Rules that were checked against the request
//! line do not apply to what such a server executes. `docs/destinations.md` explains the choice of headers.

use crate::request::RequestView;

/// The header names, with hyphens and underscores in every combination: servers that pass headers as variables (CGI, WSGI, Rack) do
/// not distinguish them.
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

/// Returns the name of an override header that the request has, if any.
pub(crate) fn in_request(request: &RequestView<'_>) -> Option<&'static str> {
    // Few headers begin with an `x`, so this order makes few comparisons.
    let candidates = request.headers().names().filter(|name| name.starts_with(b"x"));
    candidates.filter_map(|sent| NAMES.into_iter().find(|name| name.as_bytes() == sent)).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_is_listed_with_hyphens_and_underscores_in_every_combination() {
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
