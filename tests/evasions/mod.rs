//! How a process of the pod might get the node's identity in place of its own: requests as bytes, because no HTTP library writes most of
//! them, over connections to 169.254.169.254.

use stack::{CLIENT_ID, Stack};

/// What a token request asks for.
const QUERY: &str = "?api-version=2018-02-01&resource=https://vault.azure.net";

/// A request, and why it might get past.
pub(crate) struct Evasion {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The host is none of IMDS's.
    ForeignHost,
    /// The path is not one of a token request, or can be read as another.
    Path,
    /// It is not HTTP as the listener takes it.
    Malformed,
    /// It is a token request as Azure's own libraries send it.
    Usual,
}

/// All of them.
pub(crate) fn all() -> Vec<Evasion> {
    let token = format!("/metadata/identity/oauth2/token{QUERY}");
    let mut all = Vec::new();
    for host in FOREIGN_HOSTS {
        all.push(evasion(Kind::ForeignHost, &format!("Host: {host}"), "GET", &token, Some(host)));
        let instance = "/metadata/instance/../identity/oauth2/token";
        all.push(evasion(
            Kind::ForeignHost,
            &format!("..  of {host}"),
            "GET",
            &format!("{instance}{QUERY}"),
            Some(host),
        ));
    }
    for method in ["POST", "PUT", "HEAD", "OPTIONS", "TRACE", "DELETE"] {
        all.push(evasion(Kind::ForeignHost, &format!("{method} to a foreign host"), method, &token, Some("evil")));
        all.push(evasion(Kind::Path, &format!("{method} to IMDS"), method, &token, Some(IMDS)));
    }
    for method in ["get", "BREW", "GET\tx"] {
        all.push(evasion(Kind::Malformed, &format!("{method} to a foreign host"), method, &token, Some("evil")));
    }
    for path in PATHS.lines() {
        all.push(evasion(Kind::Path, path, "GET", &format!("{path}{QUERY}"), Some(IMDS)));
    }
    for target in ["http://evil", "http://imds.internal", "http://169.254.169.254.", "https://evil:443", "http://[::1]"]
    {
        let target = format!("{target}{token}");
        all.push(evasion(Kind::ForeignHost, &format!("absolute form {target}"), "GET", &target, Some(IMDS)));
    }
    let tunnel = "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n";
    all.push(Evasion { name: "a tunnel".into(), kind: Kind::Malformed, bytes: tunnel.as_bytes().to_vec() });
    let two_hosts =
        format!("GET {token} HTTP/1.1\r\nHost: {IMDS}\r\nHost: evil\r\nMetadata: true\r\nConnection: close\r\n\r\n");
    all.push(Evasion { name: "two hosts".into(), kind: Kind::Malformed, bytes: two_hosts.into_bytes() });
    for version in ["1.0", "1.1"] {
        let bytes = format!("GET {token} HTTP/{version}\r\nMetadata: true\r\nConnection: close\r\n\r\n").into_bytes();
        all.push(Evasion { name: format!("no host in HTTP/{version}"), kind: Kind::Malformed, bytes });
    }
    // A proxy that recognizes HTTP by its first bytes may not recognize these, and the node may answer them.
    for version in ["HTTP/1.0", "HTTP/1.2", "HTTP/1.10", "HTTP/2.0", "HTTP/0.9", "HTTP/1.", "http/1.1", ""] {
        for host in [IMDS, "evil"] {
            let rest = format!("Host: {host}\r\nMetadata: true\r\nConnection: close\r\n\r\n");
            let bytes = format!("GET {token} {version}\r\n{rest}").into_bytes();
            all.push(Evasion { name: format!("{version:?} with the host {host}"), kind: Kind::Malformed, bytes });
        }
    }
    for before in ["\r\n", "\n", " ", "\0"] {
        let bytes =
            format!("{before}GET {token} HTTP/1.1\r\nHost: evil\r\nMetadata: true\r\nConnection: close\r\n\r\n");
        let name = format!("{before:?} before the request");
        all.push(Evasion { name, kind: Kind::Malformed, bytes: bytes.into_bytes() });
    }
    // The first request of a connection says nothing about the next.
    let first = format!("GET /metadata/identity/info HTTP/1.1\r\nHost: {IMDS}\r\n\r\n").into_bytes();
    let second = evasion(Kind::ForeignHost, "", "GET", &token, Some("evil")).bytes;
    all.push(Evasion { name: "a second request".into(), kind: Kind::Malformed, bytes: [first, second].concat() });
    for (host, path) in [
        (IMDS, "/metadata/identity/oauth2/token"),
        ("169.254.169.254:80", "/metadata/identity/oauth2/token"),
        (IMDS, "//metadata/identity/oauth2/token"),
        (IMDS, "/metadata/identity/oauth2/token/"),
        (IMDS, "/Metadata/identity/oauth2/token"),
        (IMDS, "http://169.254.169.254/metadata/identity/oauth2/token"),
        ("evil", "http://169.254.169.254/metadata/identity/oauth2/token"),
    ] {
        all.push(evasion(Kind::Usual, &format!("{path} of {host}"), "GET", &format!("{path}{QUERY}"), Some(host)));
    }
    all
}

const IMDS: &str = stack::IMDS_HOST;

const FOREIGN_HOSTS: [&str; 14] = [
    "imds.internal",
    "imds.internal:80",
    "evil",
    "169.254.169.254.",
    "127.0.0.1.",
    stack::LISTED_HOST,
    stack::UNLISTED_HOST,
    stack::HEALTH_HOST,
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "metadata.google.internal",
    "metadata",
];

/// Paths that are not one of a token request, or can be read as another. The core's own tests take them, too.
const PATHS: &str = include_str!("../../crates/core/tests/path-evasions.txt");

fn evasion(kind: Kind, name: &str, method: &str, target: &str, host: Option<&str>) -> Evasion {
    let host = host.map(|host| format!("Host: {host}\r\n")).unwrap_or_default();
    let bytes = format!("{method} {target} HTTP/1.1\r\n{host}Metadata: true\r\nConnection: close\r\n\r\n").into_bytes();
    Evasion { name: name.to_owned(), kind, bytes }
}

/// The bytes with which a PROXY header names the metadata address as the one that the client called.
pub(crate) const CALLED: &[u8] = b"PROXY TCP4 127.0.0.1 169.254.169.254 50000 80\r\n";
/// The same in IPv6, IPv4-mapped.
pub(crate) const CALLED_MAPPED: &[u8] = b"PROXY TCP6 ::1 ::ffff:169.254.169.254 50000 80\r\n";

/// Sends all over connections which begin with `called`, and sees that none gets the node's identity from the upstream, which stands for the
/// node. A request to a foreign host gets `foreign`.
pub(crate) fn none_reaches_the_node(stack: &Stack, addr: std::net::SocketAddr, called: &[u8], foreign: u16) {
    for Evasion { name, kind, bytes } in all() {
        let before = stack.upstream.requests();
        let answer = stack::client::send_bytes(addr, &[called, &bytes].concat()).unwrap();
        let status = status(&answer);
        let own_token = answer.contains("\"access_token\"") && answer.contains(CLIENT_ID);
        // Where the listener makes a path normal, this is what a listed one may come to.
        let listed = answer.contains(r#""path":"/metadata/instance/identity/oauth2/token?"#);
        if kind != Kind::Path || !listed {
            assert_eq!(stack.upstream.requests(), before, "{name} reached the node: {answer}");
        }
        match kind {
            Kind::ForeignHost => assert_eq!(status, foreign, "{name}: {answer}"),
            // Others come to token requests, and get the pod's own token.
            Kind::Path => {
                assert!(own_token || listed || [400, 403, 404, 405, 501].contains(&status), "{name}: {answer}")
            }
            Kind::Malformed => assert!(own_token || !answer.contains("access_token"), "{name}: {answer}"),
            Kind::Usual => assert!(status == 200 && own_token, "{name}: {answer}"),
        }
    }
}

/// The status of the first answer; 0 where there is none.
fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}
