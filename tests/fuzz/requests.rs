//! The requests that callers send: often nearly right, sometimes hostile.

use stack::{HEALTH_HOST, IDENTITY_HEADER, IMDS_HOST, LISTED_HOST, UNLISTED_HOST};
use wasm_host::Headers;

use crate::input::Input;
use crate::readings::{CREDENTIALS, HARMLESS_PATHS, OVERRIDE_HEADERS};
use crate::setup::{CANARY, Focus, GRID_HOST, Kind, REPLACE_HOST, ROUTED_HOST, RULES_HOST, Setup};
use crate::sidecar::IMDS_ADDRESS;

/// The metadata service's address.
const METADATA_ADDRESS: &str = "169.254.169.254:80";
/// The path of the status page.
pub(crate) const STATUS_PATH: &str = "/entra-exchange/status";
/// Where App Service's endpoint is.
pub(crate) const APP_SERVICE_HOST: &str = "127.0.0.1";

/// What a path to a host with rules is made of.
const PIECES: [&str; 32] = [
    "/",
    "/",
    "/",
    "/",
    "admin",
    "admin",
    "admin",
    "x",
    "..",
    ".",
    ";",
    ";a=1",
    "%2e%2e",
    "%2f",
    "%5c",
    "\\",
    "%25",
    "61dmin",
    "%61dmin",
    "%2561dmin",
    "%c0%ae",
    "%c0%af",
    "%3b",
    " ",
    "%20",
    "::$DATA",
    ":$i30:$INDEX_ALLOCATION",
    "?",
    "%3f",
    "%23",
    "%00",
    "%u002e",
];

/// A request, and what is known of it that its headers do not say.
pub(crate) struct Asked {
    pub(crate) headers: Headers,
    /// The address that the client connected to.
    pub(crate) address: &'static str,
    /// Whether the caller's certificate has several URIs.
    pub(crate) has_several_uris: bool,
}

impl Asked {
    pub(crate) fn any(setup: &Setup, input: &mut Input<'_>) -> Self {
        if setup.focus == Focus::Answers && !input.once_in(4) {
            return Self::plain(input);
        }
        let authority = authority(setup, input);
        let path = path(&authority, input);
        let method = if input.once_in(4) {
            input.pick(&["POST", "DELETE", "delete", "Delete", "TRACE", "trace", "CONNECT", "HEAD"])
        } else {
            "GET"
        };
        let mut headers = vec![(b":method".to_vec(), method.as_bytes().to_vec()), (b":authority".to_vec(), authority)];
        // Envoy lets no CONNECT with a path get as far as a filter.
        if method != "CONNECT" {
            headers.push((b":path".to_vec(), path));
        }
        if !input.once_in(4) {
            headers.push((b"metadata".to_vec(), b"true".to_vec()));
            headers.push((b"x-identity-header".to_vec(), IDENTITY_HEADER.as_bytes().to_vec()));
        }
        for _ in 0..input.below(4) {
            headers.push((header_name(input), header_value(input)));
        }
        if input.once_in(16) {
            headers.remove(input.below(headers.len().min(3)));
        }
        let mut has_several_uris = false;
        if setup.kind == Kind::Gateway && !input.once_in(3) {
            let (certificates, several) = certificates(input);
            headers.push((b"x-forwarded-client-cert".to_vec(), certificates.into_bytes()));
            has_several_uris = several;
        }
        let addresses =
            [IMDS_ADDRESS, "127.0.0.1:15001", "10.0.0.1:80", "", METADATA_ADDRESS, "[::ffff:169.254.169.254]:80"];
        let address = addresses[input.below(addresses.len())];
        Self { headers: Headers::received(headers), address, has_several_uris }
    }

    /// A request as well-behaved apps send it, for one of many tokens.
    fn plain(input: &mut Input<'_>) -> Self {
        let host = input.pick(&[IMDS_HOST, IMDS_HOST, IMDS_HOST, HEALTH_HOST, LISTED_HOST, REPLACE_HOST]);
        let resource = format!("api://r{}", input.below(8));
        let path = match host {
            HEALTH_HOST => input.pick(&["/readyz", "/readyz?verbose"]).to_owned(),
            IMDS_HOST if input.once_in(8) => STATUS_PATH.to_owned(),
            _ => format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}"),
        };
        let mut headers = Headers::get_request(host, &path).with("metadata", "true");
        if input.once_in(8) {
            headers = headers.with("content-type", "application/grpc");
        }
        Self { headers, address: input.pick(&[IMDS_ADDRESS, METADATA_ADDRESS]), has_several_uris: false }
    }

    /// Whether the client connected to the metadata service's address.
    pub(crate) fn is_to_metadata(&self) -> bool {
        self.address.contains(IMDS_HOST)
    }

    /// Whether only the pod itself can have sent it.
    pub(crate) fn is_local(&self) -> bool {
        self.is_to_metadata() || self.address.starts_with("127.")
    }
}

fn authority(setup: &Setup, input: &mut Input<'_>) -> Vec<u8> {
    let place = match setup.focus {
        Focus::Destinations if setup.kind == Kind::Gateway && !input.once_in(4) => 0,
        Focus::Destinations => input.below(12),
        Focus::Local => 13 + input.below(7),
        Focus::Any | Focus::Answers => input.below(22),
    };
    let host = match place {
        0..=2 => LISTED_HOST,
        3 => REPLACE_HOST,
        4..=7 => RULES_HOST,
        8 => ROUTED_HOST,
        9 | 10 => GRID_HOST,
        11 => {
            let port = input.pick(&[":8080", ":", ":65536", ":+80", ":80:80", ":http", "."]);
            return format!("{}{port}", input.pick(&[LISTED_HOST, RULES_HOST, REPLACE_HOST])).into_bytes();
        }
        12 => UNLISTED_HOST,
        13..=15 => IMDS_HOST,
        16 | 17 => HEALTH_HOST,
        18 => APP_SERVICE_HOST,
        19 => input.pick(&["imds.internal", "169.254.169.254.", "169.254.169.254:", "2852039166"]),
        _ => return input.some_bytes(),
    };
    host.as_bytes().to_vec()
}

fn path(authority: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    if authority == RULES_HOST.as_bytes() {
        // Half of them lead a lenient server to the forbidden path by one detour, the others are of any pieces.
        if input.once_in(2) {
            let detour = input.pick(&["/", "/.", "/x/..", "/x/%2e%2e", "/x/..;", "/\\", "/x/%c0%ae%c0%ae", "", "", ""]);
            let name = input.pick(&[
                "admin",
                "admin",
                "%61dmin",
                "%2561dmin",
                "admin;a=1",
                "admin.",
                "admin%20",
                "admin::$DATA",
            ]);
            return format!("{detour}/{name}{}", input.pick(&["", "/", "/x", "?x", "%3fx", "%23x"])).into_bytes();
        }
        if input.once_in(4) {
            return input.pick(&HARMLESS_PATHS).as_bytes().to_vec();
        }
        if input.once_in(4) {
            return input.pick(&["/v1/$batch", "/v1/%24batch", "/v1/%24b%61tch/x"]).as_bytes().to_vec();
        }
        let start = input.pick(&["/", "/", "/", "/x/", ""]);
        let pieces: String = (0..input.below(7)).map(|_| input.pick(&PIECES)).collect();
        return format!("{start}{pieces}").into_bytes();
    }
    if authority == GRID_HOST.as_bytes() && input.once_in(2) {
        return input
            .pick(&["/events?aeg-sas-key=key-1", "/events?a=b&aeg-sas-key=key-1", "/events"])
            .as_bytes()
            .to_vec();
    }
    if authority == HEALTH_HOST.as_bytes() && !input.once_in(4) {
        return input.pick(&["/readyz", "/readyz?verbose"]).as_bytes().to_vec();
    }
    let resource = input.pick(&[
        "https://vault.azure.net",
        "https://storage.azure.com",
        "https%3A%2F%2Fvault.azure.net",
        "%ff%00&x=%",
        "api://a=b",
        // A token, where a client confuses its parameters.
        "eyJhY2Nlc3M.eyJhdWQ.c2ln",
        "https://vault.azure.net&token_sha256_to_refresh=eyJhY2Nlc3M.eyJhdWQ.c2ln",
    ]);
    let more: String = if input.once_in(4) {
        (0..input.below(200)).map(|number| format!("&p{number}=")).collect()
    } else {
        String::new()
    };
    let token_path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}{more}");
    match input.below(6) {
        0 => input
            .pick(&[
                "/",
                "/readyz",
                "/healthz",
                STATUS_PATH,
                STATUS_PATH,
                "/events?aeg-sas-key=key-1",
                "/metadata/instance/compute",
                "/metadata/instance/compute",
                "/metadata/scheduledevents",
                "/metadata/identity/issuecredential",
                "/metadata/identity/getplatformmetadata",
                "/metadata/instance/../identity/oauth2/token",
                "/metadata/instance/..;/identity/oauth2/token",
                "/metadata/instance/%2e%2e%2fidentity/oauth2/token",
                "//metadata/identity/oauth2/token/",
            ])
            .as_bytes()
            .to_vec(),
        1 => input.some_bytes(),
        2 => format!("/msi/token?api-version=2019-08-01&resource={resource}{more}").into_bytes(),
        3 => format!("{token_path}&bypass_cache=true").into_bytes(),
        _ => token_path.into_bytes(),
    }
}

fn header_name(input: &mut Input<'_>) -> Vec<u8> {
    let names = [
        "authorization",
        "authorization",
        "api-key",
        "aeg-sas-key",
        "aeg-sas-token",
        "x-forwarded-for",
        "metadata",
        "content-type",
        CANARY,
    ];
    match input.below(12) {
        0 => input.some_bytes(),
        1 => {
            // Servers that make variables of headers do not distinguish the two.
            let name = input.pick(&OVERRIDE_HEADERS);
            name.chars().map(|c| if c == '-' && input.once_in(2) { b'_' } else { c as u8 }).collect()
        }
        _ => input.pick(&names).as_bytes().to_vec(),
    }
}

fn header_value(input: &mut Input<'_>) -> Vec<u8> {
    match input.below(6) {
        0..=2 => input.pick(&CREDENTIALS).as_bytes().to_vec(),
        3 => input.pick(&["", "Bearer", " ,", "SharedKey ", "application/grpc"]).as_bytes().to_vec(),
        _ => input.some_bytes(),
    }
}

/// What Envoy says of the caller's certificates, and whether the last of them, the caller's own, has several URIs.
fn certificates(input: &mut Input<'_>) -> (String, bool) {
    let mut uris = 0;
    let elements: Vec<String> = (0..1 + input.below(2))
        .map(|_| {
            uris = 0;
            let pairs: Vec<String> = (0..1 + input.below(6)).map(|_| pair(&mut uris, input)).collect();
            pairs.join(";")
        })
        .collect();
    (elements.join(","), uris > 1)
}

/// A pair of a certificate's element. A quoted value with escaped quotes is as frequent as a URI, so that a parser that takes one for
/// the end of the value soon puts a URI on the wrong side.
fn pair(uris: &mut usize, input: &mut Input<'_>) -> String {
    match input.below(8) {
        0 => format!("Hash={:02x}", input.byte()),
        1 => "By=spiffe://cluster.local/ns/istio-system/sa/egress".to_owned(),
        2..=4 => {
            let pieces: String = (0..input.below(5))
                .map(|_| input.pick(&["CN=a", r#"\""#, r#"\""#, r#"\","#, r"\\", ",", ";", "URI=x", ";URI=y"]))
                .collect();
            format!("Subject=\"{pieces}\"")
        }
        _ => {
            *uris += 1;
            format!("{}={}", input.pick(&["URI", "uri"]), input.pick(&["spiffe://a", "\"spiffe://b\""]))
        }
    }
}
