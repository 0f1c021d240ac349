//! How servers may read a request: every lenient way that is known, without a look at how the filter reads it.

use wasm_host::Headers;

use crate::setup::Destination;

/// A value that is a credential, beyond doubt.
pub(crate) const CREDENTIALS: [&str; 3] = ["key-1", "Bearer of-the-app", "SharedKey a:b"];

/// The headers from which servers take another method or path.
pub(crate) const OVERRIDE_HEADERS: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// Paths to a host with rules that no server takes for a forbidden one, though some of their characters are escaped.
pub(crate) const HARMLESS_PATHS: [&str; 4] = ["/x/%7Ex", "/users%28%27x%27%29", "/v1/%24batches", "/x%2Bx/%40%3A"];

/// Whether some server may take the request for one to a path that a rule refuses or below it, or for a DELETE.
pub(crate) fn may_be_forbidden(headers: &Headers) -> bool {
    let method = headers.text(":method").unwrap_or_default();
    let target = headers.get(":path").unwrap_or_default();
    is_overridden(headers) || method.eq_ignore_ascii_case("DELETE") || (0..4).any(|times| may_be_refused(target, times))
}

/// Whether a header names another method or path.
pub(crate) fn is_overridden(headers: &Headers) -> bool {
    headers.iter().any(|(name, _)| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-");
        OVERRIDE_HEADERS.contains(&name.as_str())
    })
}

/// Whether it brings a credential that keeps the token out. Of a header that comes twice Envoy shows a filter the first value, except
/// `authorization`, whose values it joins.
pub(crate) fn has_credential(headers: &Headers, destination: &Destination) -> bool {
    let in_header = destination.credentials.iter().any(|name| headers.get(name).is_some_and(is_credential));
    let target = headers.text(":path").unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let in_query = pairs.any(|(name, value)| destination.parameter == Some(name) && is_credential(value.as_bytes()));
    in_header || in_query
}

pub(crate) fn is_credential(value: &[u8]) -> bool {
    CREDENTIALS.iter().any(|credential| credential.as_bytes() == value)
}

/// Whether the path is `/admin`, `/v1/$batch` or below one of them for a server that decodes it so many times and drops whatever a server may drop.
fn may_be_refused(target: &[u8], times: usize) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let decoded = (0..times).fold(path.to_vec(), |path, _| decode(&path));
    let text: String = decoded.iter().map(|byte| char::from(*byte)).collect();
    let text = text.replace('\\', "/").replace("\u{c0}\u{ae}", ".").replace("\u{c0}\u{af}", "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split(['?', '#', '\0']).next().unwrap_or_default().split('/') {
        let segment = segment.split(';').next().unwrap_or_default();
        let segment = if segment.contains(":$") { segment.split(':').next().unwrap_or_default() } else { segment };
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.extend(Some(segment.trim_end_matches(['.', ' '])).filter(|segment| !segment.is_empty())),
        }
    }
    segments.starts_with(&["admin"]) || segments.starts_with(&["v1", "$batch"])
}

/// Decodes escapes, those of IIS (`%u002e`) among them; what is none stays.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut rest = path;
    let mut decoded = Vec::new();
    while let [first, after @ ..] = rest {
        let number = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let escape = match rest {
            [b'%', b'u' | b'U', b'0', b'0', high, low, after @ ..] => Some((number(&[*high, *low]), after)),
            [b'%', high, low, after @ ..] => Some((number(&[*high, *low]), after)),
            _ => None,
        };
        let (byte, after) = match escape {
            Some((Some(byte), after)) => (byte, after),
            _ => (*first, after),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}

#[test]
fn a_lenient_server_reads_many_paths_as_one() {
    let forbidden = |path: &str| may_be_forbidden(&Headers::get_request("rules.example", path));
    for path in [
        "/admin",
        "//admin",
        "/x/../admin",
        "/admin;x",
        "/admin./x",
        "/%61dmin",
        "/%2561dmin",
        "/x%2f..%2fadmin",
        "/admin%3fx",
        "/admin::$DATA",
        "/%c0%af/admin",
        "/x\\..\\admin",
        "/admin%20",
        "/%u0061dmin",
        "/./admin#x",
        "/admin%00",
        "/v1/%24batch",
        "/v1/%24b%61tch/x",
    ] {
        assert!(forbidden(path), "{path}");
    }
    for path in
        ["/", "/x", "/administration", "/x/admin", "/admin/../x", "/x?/admin", "*"].into_iter().chain(HARMLESS_PATHS)
    {
        assert!(!forbidden(path), "{path}");
    }
}
