//! Hosts, as the configuration and a request's authority write them.

use std::borrow::Cow;
use std::fmt;

/// A host and, where one was written, a port. The name is in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) port: Option<u16>,
}

/// The authority of a request: a host, and whether its port can be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// Without a port where that is not valid.
    pub(crate) host: Host<'a>,
    /// A port is written that is not a number from 0 to 65535.
    pub(crate) port_is_invalid: bool,
}

impl<'a> Authority<'a> {
    /// Reads the authority of a request: a host as [`Host::parse`] takes it, then any port. An empty port is none (RFC 3986,
    /// section 3.2.3). A host whose port is not valid is still that host, so that it cannot evade the host's rules.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let (name, port) = split(text)?;
        let number = port.filter(|port| !port.is_empty()).map(number);
        Some(Self { host: Host { name, port: number.flatten() }, port_is_invalid: number == Some(None) })
    }
}

impl<'a> Host<'a> {
    /// Reads `name`, `name:port`, `[v6]` or `[v6]:port` (RFC 3986, section 3.2, without userinfo).
    ///
    /// Only what is spelt as a host usually is: no userinfo, no trailing dot, no escapes, ASCII only. Another spelling
    /// of a listed host is not that host: such a request gets no token.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let (name, port) = split(text)?;
        match port.map(number) {
            Some(None) => None,
            port => Some(Self { name, port: port.flatten() }),
        }
    }
}

/// The name in lower case, and what is written behind its colon.
fn split(text: &[u8]) -> Option<(Cow<'_, str>, Option<&str>)> {
    let text = std::str::from_utf8(text).ok()?;
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            let name = text.get(..address.len().checked_add(2)?)?;
            (name, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            let spelt = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            if name.is_empty() || name.starts_with('.') || name.ends_with('.') || !name.bytes().all(spelt) {
                return None;
            }
            (name, port)
        }
    };
    // What stands before an `@` is a user and a password: the host is another one.
    if port.is_some_and(|port| port.contains('@')) {
        return None;
    }
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    Some((name, port))
}

/// A port. A sign would be taken by the number's own parser.
fn number(digits: &str) -> Option<u16> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Hosts as a destination names them: one, or with `*.` all that have exactly one label in its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPattern {
    pub(crate) wildcard: bool,
    /// What stands after `*.`, where that is written.
    pub(crate) host: Host<'static>,
}

impl HostPattern {
    /// Reads a host, with `*.` before it or not. There is no wildcard of addresses.
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

    /// The name as it is written, without its port.
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
    fn a_pattern_is_a_host_or_all_with_one_label_more() {
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
    fn a_host_is_read_with_its_port_and_in_lower_case() {
        assert_eq!(parse("API.example.com"), Some(("api.example.com".into(), None)));
        assert_eq!(parse("api.example.com:8443"), Some(("api.example.com".into(), Some(8443))));
        assert_eq!(parse("169.254.169.254"), Some(("169.254.169.254".into(), None)));
        assert_eq!(parse("[::1]:80"), Some(("[::1]".into(), Some(80))));
        assert_eq!(parse("[::1]"), Some(("[::1]".into(), None)));
    }

    #[test]
    fn another_spelling_is_no_host() {
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
    fn a_requests_host_is_known_whatever_stands_for_its_port() {
        let read = |text: &str| {
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
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
