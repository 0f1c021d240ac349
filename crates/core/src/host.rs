//! Host names with optional ports, in the configuration and in a request's authority.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A host name in lower case and its port, if one is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) port: Option<u16>,
}

/// A host's name in lower case, as the key of a map. Libc's comparison, which `==` calls for texts, takes one byte after the other.
#[derive(Clone, Debug, Eq)]
pub(crate) struct HostName<'a>(pub(crate) Cow<'a, str>);

impl<'a> HostName<'a> {
    pub(crate) const fn of(name: &'a str) -> Self {
        Self(Cow::Borrowed(name))
    }
}

impl PartialEq for HostName<'_> {
    fn eq(&self, other: &Self) -> bool {
        let (own, others) = (self.0.as_bytes(), other.0.as_bytes());
        let ((own_words, own_rest), (other_words, other_rest)) = (own.as_chunks::<8>(), others.as_chunks::<8>());
        own.len() == others.len()
            && own_words.iter().zip(other_words).all(|(own, other)| own == other)
            && own_rest.iter().zip(other_rest).all(|(own, other)| own == other)
    }
}

impl Hash for HostName<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

/// The authority of a request: its host, and whether its port is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// The host. It has no port if the port in the request is not valid.
    pub(crate) host: Host<'a>,
    /// Whether the request has a port that is not a number from 0 to 65535.
    pub(crate) port_is_invalid: bool,
}

impl<'a> Authority<'a> {
    /// Parses the authority of a request: a host as [`Host::parse`] accepts it, followed by any port. An empty port is the
    /// same as no port (RFC 3986, section 3.2.3). A request with an invalid port keeps its host, so that it cannot evade
    /// the rules for that host. Returns `None` if the host is not valid.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let (name, port) = split(text)?;
        let port = port.filter(|port| !port.is_empty()).map(parse_port);
        Some(Self { host: Host { name, port: port.flatten() }, port_is_invalid: port == Some(None) })
    }
}

impl<'a> Host<'a> {
    /// Parses `name`, `name:port`, `[v6]` or `[v6]:port` (RFC 3986, section 3.2, without userinfo).
    ///
    /// Only the usual spelling of a host is accepted: ASCII, without userinfo, trailing dot or percent-encoding. A request
    /// that spells a listed host in any other way does not match it and gets no token.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let (name, port) = split(text)?;
        match port.map(parse_port) {
            Some(None) => None,
            port => Some(Self { name, port: port.flatten() }),
        }
    }
}

/// Splits a host into its name in lower case and the text after its colon. Returns `None` if the name is not valid.
fn split(text: &[u8]) -> Option<(Cow<'_, str>, Option<&str>)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut classes = 0_u8;
    let end = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, _) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            // Its digits may be in upper case.
            classes = UPPER_CASE;
            address.len().checked_add(2)?
        }
        // Every request passes here, so this is one loop.
        None => {
            let ends_name = |byte: &u8| {
                let class = NAME_BYTES.get(usize::from(*byte)).copied().unwrap_or_default();
                classes |= class;
                class == 0
            };
            text.as_bytes().iter().position(ends_name).unwrap_or(text.len())
        }
    };
    let (name, rest) = text.split_at_checked(end)?;
    if name.is_empty() || name.starts_with('.') || name.ends_with('.') {
        return None;
    }
    let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
    // The text before an `@` is userinfo (RFC 3986, section 3.2.1), so this name is not the host.
    if port.is_some_and(|port| port.contains('@')) {
        return None;
    }
    let name = if classes & UPPER_CASE != 0 { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
    Some((name, port))
}

/// The class of an upper-case letter in [`NAME_BYTES`].
const UPPER_CASE: u8 = 2;

/// For each byte, whether a name may contain it: 0, or the class [`UPPER_CASE`], or 1.
#[allow(clippy::indexing_slicing, reason = "the compiler evaluates it")]
static NAME_BYTES: [u8; 256] = {
    let (mut classes, mut byte) = ([0; 256], 0);
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'A'..=b'Z' => UPPER_CASE,
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => 1,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// Parses a port. The digits are checked first because `u16::from_str` also accepts a plus sign.
fn parse_port(digits: &str) -> Option<u16> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// A host in a destination: one host, or with `*.` every host that has exactly one label in place of the asterisk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPattern {
    pub(crate) wildcard: bool,
    /// The host, without a leading `*.`.
    pub(crate) host: Host<'static>,
}

impl HostPattern {
    /// Parses a host with an optional leading `*.`. A wildcard before an IP address is not valid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let Host { name, port } = Host::parse(rest.as_bytes())?;
        let last = name.rsplit('.').next().unwrap_or_default();
        if wildcard && (name.starts_with('[') || last.bytes().all(|byte| byte.is_ascii_digit())) {
            return None;
        }
        Some(Self { wildcard, host: Host { name: name.into_owned().into(), port } })
    }

    /// The pattern without its port, such as `*.example.com`.
    pub(crate) fn name(&self) -> String {
        format!("{}{}", if self.wildcard { "*." } else { "" }, self.host.name)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name())?;
        match self.host.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_host_with_or_without_a_leading_wildcard_label() {
        let pattern = HostPattern::parse("*.Example.com:8443").unwrap();
        assert_eq!((pattern.wildcard, &*pattern.host.name, pattern.host.port), (true, "example.com", Some(8443)));
        assert_eq!(pattern.to_string(), "*.example.com:8443");
        assert_eq!(HostPattern::parse("api.example.com").unwrap().name(), "api.example.com");
        for text in ["*", "*.", "*.*.example.com", "a.*.com", "*example.com", "*.254.169.254", "*.[::1]", "*.a:x"] {
            assert_eq!(HostPattern::parse(text), None, "{text}");
        }
    }

    fn parse(text: &str) -> Option<(String, Option<u16>)> {
        Host::parse(text.as_bytes()).map(|host| (host.name.into_owned(), host.port))
    }

    #[test]
    fn a_host_is_parsed_with_its_port_and_in_lower_case() {
        assert_eq!(parse("API.example.com"), Some(("api.example.com".into(), None)));
        assert_eq!(parse("api.example.com:8443"), Some(("api.example.com".into(), Some(8443))));
        assert_eq!(parse("169.254.169.254"), Some(("169.254.169.254".into(), None)));
        assert_eq!(parse("[::1]:80"), Some(("[::1]".into(), Some(80))));
        assert_eq!(parse("[::1]"), Some(("[::1]".into(), None)));
    }

    #[test]
    fn an_unusual_spelling_is_not_a_valid_host() {
        for text in [
            "",
            ":80",
            ".",
            "api.example.com.",
            ".example.com",
            "user@api.example.com",
            "api.example.com:",
            "a:b",
            "a:+80",
            "a:65536",
            "a:80:80",
            "[::1",
            "[::1]80",
            "[x]",
            "api.example.com%2e",
            "bücher.example",
            "a b",
            "*.example.com",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(Host::parse(b"api\xff.example.com"), None);
    }

    #[test]
    fn a_requests_host_is_recognized_even_if_its_port_is_invalid() {
        let parse = |text: &str| {
            Authority::parse(text.as_bytes())
                .map(|authority| (authority.host.name.into_owned(), authority.host.port, authority.port_is_invalid))
        };
        let api = |port, port_is_invalid| Some(("api.example.com".to_owned(), port, port_is_invalid));
        for (text, expected) in [
            ("api.example.com", api(None, false)),
            ("API.example.com:", api(None, false)),
            ("api.example.com:0", api(Some(0), false)),
            ("api.example.com:00080", api(Some(80), false)),
            ("api.example.com:65535", api(Some(65535), false)),
            ("api.example.com:65536", api(None, true)),
            ("api.example.com:99999999999999999999", api(None, true)),
            ("api.example.com:+80", api(None, true)),
            ("api.example.com:-1", api(None, true)),
            ("api.example.com:http", api(None, true)),
            ("api.example.com:80:80", api(None, true)),
            ("api.example.com: 80", api(None, true)),
            ("[::1]:", Some(("[::1]".to_owned(), None, false))),
            ("[::1]:65536", Some(("[::1]".to_owned(), None, true))),
            ("api.example.com:x@evil.example", None),
            ("api.example.com:80@evil.example:80", None),
            ("api.example.com.:", None),
            (":", None),
            ("[::1", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
