//! Arbitrary requests to the metadata service's address, checked with the path parser of the most lenient server: no
//! request that is forwarded to the node can reach the node's identity endpoint.

use entra_exchange_core::config::Config;
use entra_exchange_core::decision::Decision;
use entra_exchange_core::policy::Policy;
use entra_exchange_core::request::{DescribedRequest, RequestView};
use proptest::prelude::*;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";

#[derive(Debug)]
struct Sent {
    authority: String,
    path: String,
    method: &'static str,
    address: &'static str,
}

impl Sent {
    fn described(&self) -> DescribedRequest {
        let mut request = DescribedRequest::new(self.method, &self.authority, &self.path);
        request.destination_address = Some(self.address.parse().unwrap());
        request.with_header("metadata", b"true").with_header("x-identity-header", b"s")
    }
}

/// Pieces of hosts and paths with which a client may try to evade the rules.
const HOST_PIECES: &[&str] = &[
    "169.254.169.254",
    "127.0.0.1",
    "localhost",
    "imds.internal",
    "evil",
    "a.example",
    ".",
    ":",
    "80",
    "@",
    "%2e",
    "[::1]",
];
const PATH_PIECES: &[&str] = &[
    "/",
    "metadata",
    "instance",
    "identity",
    "oauth2",
    "token",
    "compute",
    "..",
    ".",
    "%2e",
    "%2E%2e",
    "%2f",
    "%5c",
    "\\",
    ";",
    ";x=1",
    "?",
    "#",
    "%",
    "%25",
    "%00",
    "/metadata/instance",
    "/metadata/identity/oauth2/token",
    "msi/token",
    "readyz",
    "Metadata",
    "IDENTITY",
    "?api-version=2018-02-01&resource=https://vault.azure.net",
];

fn made_of(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(pieces), 0..most).prop_map(|pieces| pieces.concat())
}

prop_compose! {
    fn sent()(
        authority in prop_oneof![2 => prop::sample::select(HOST_PIECES).prop_map(str::to_owned), 1 => made_of(HOST_PIECES, 4)],
        path in prop_oneof![3 => made_of(PATH_PIECES, 9).prop_map(|path| format!("/metadata/instance/{path}")), 2 => made_of(PATH_PIECES, 9)],
        method in prop::sample::select(&["GET", "POST", "PUT", "CONNECT", "TRACE"][..]),
        address in prop::sample::select(&["169.254.169.254:80", "[::ffff:169.254.169.254]:80"][..]),
    ) -> Sent {
        Sent { authority, path, method, address }
    }
}

fn policy(action: &str) -> Policy {
    let app_service = if action == "report" { "" } else { r#""app_service": {},"# };
    let text = format!(
        r#"{{
            "identities": [{{"client_id": "aaaaaaaa-0000-4000-8000-000000000001"}}],
            "destinations": [{{"hosts": ["a.example"], "scope": "s/.default", "plaintext": "allow"}}, {{"hosts": ["evil"], "action": "pass"}}],
            "managed_identity": {{{app_service} "action": "{action}", "imds": {{"pass": ["/metadata/instance"]}}, "health": {{"hosts": ["localhost"]}}}},
            "status": {{"hosts": ["localhost", "127.0.0.1"]}}
        }}"#
    );
    let variable = |name: &str| match name {
        "AZURE_TENANT_ID" => Some(TENANT.to_owned()),
        "IDENTITY_HEADER" => Some("s".to_owned()),
        _ => None,
    };
    Policy::new(&Config::parse(text.as_bytes(), &variable).unwrap(), false)
}

/// The segments of a path as the most lenient server parses it: it decodes twice, drops parameters, treats backslashes as
/// slashes, ignores case and resolves dot segments.
fn most_lenient(path: &str) -> Vec<String> {
    let mut path = path.split(['?', '#']).next().unwrap_or_default().to_lowercase();
    for _ in 0..2 {
        path =
            path.replace("%25", "%").replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\").replace("%69", "i");
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other.to_owned()),
        }
    }
    segments
}

fn is_imdss_name(authority: &str) -> bool {
    let (name, port) = authority.split_once(':').unwrap_or((authority, ""));
    let is_name = ["169.254.169.254", "127.0.0.1", "localhost"].contains(&name.to_ascii_lowercase().as_str());
    is_name && port.bytes().all(|byte| byte.is_ascii_digit())
}

proptest! {
    #[test]
    fn a_request_to_the_metadata_address_is_answered_or_rejected_unless_its_path_is_listed(
        request in sent(), action in prop::sample::select(&["answer", "report", "refuse"][..])
    ) {
        let named = is_imdss_name(&request.authority);
        let segments = most_lenient(&request.path);
        match policy(action).decide(&RequestView::new(&request.described())) {
            Decision::Ignore => {
                prop_assert!(named, "{}", request.authority);
                prop_assert_eq!(&segments[..2], ["metadata", "instance"], "{}", request.path);
            }
            Decision::ReportToNode(_) => {
                prop_assert!(named && action == "report");
                prop_assert_eq!(&segments, &["metadata", "identity", "oauth2", "token"], "{}", request.path);
            }
            Decision::Exchange(..) => prop_assert!(named && action == "answer"),
            Decision::Refuse(refusal) => prop_assert!((400..500).contains(&refusal.reply().status)),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}
