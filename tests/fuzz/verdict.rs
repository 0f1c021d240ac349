//! The permitted ends of a request, independent of what happened to it.

use stack::{HEALTH_HOST, IMDS_HOST};
use wasm_host::{Forwarded, Headers, Reply, StreamState};

use crate::case::{ASSERTION, Case, TOKEN, Waiting, contains};
use crate::readings::{HARMLESS_PATHS, has_credential, is_overridden, may_be_forbidden};
use crate::requests::{APP_SERVICE_HOST, Asked, STATUS_PATH};
use crate::setup::{Destination, RULES_HOST, host_of};
use crate::sidecar::simple;

/// The path at which the metadata service hands out tokens.
const TOKEN_PATH: &str = "metadata/identity/oauth2/token";

/// The most parameters that a token request may have.
const MOST_PARAMETERS: usize = 64;

/// Headers that the filter removes when it sets a token.
const REMOVABLE: [&str; 3] = ["api-key", "aeg-sas-key", "aeg-sas-token"];

impl Case {
    /// No token goes where it is not named, and no secret to a caller.
    pub(crate) fn look_at_end(&self, waiting: &Waiting) {
        match waiting.stream.state() {
            StreamState::Forwarded(passed) => self.look_at_passed(&waiting.asked, &passed),
            StreamState::LocalReply(reply) => self.look_at_reply(&waiting.asked, &reply),
            StreamState::Reset | StreamState::Paused => {}
        }
    }

    fn look_at_passed(&self, asked: &Asked, passed: &Forwarded) {
        let host = host_of(&asked.headers);
        let reaches_node = asked.is_to_metadata() && self.setup.has_imds();
        assert!(!reaches_node || self.may_reach_the_node(&host, &asked.headers), "{:?}", asked.headers);
        let destination = self.setup.destination(&host);
        if passed.headers.get("authorization") != asked.headers.get("authorization") {
            let destination = destination.unwrap_or_else(|| panic!("a token for {host:?}"));
            self.look_at_token(destination, asked, passed);
            return;
        }
        assert_eq!(others(&passed.headers, &[]), others(&asked.headers, &[]));
        let Some(destination) = destination.filter(|_| !self.setup.only_reports()) else { return };
        let is_kept = destination.credentials.iter().any(|name| asked.headers.get(name).is_some());
        let path = asked.headers.text(":path").unwrap_or_default();
        let in_query = destination.parameter.is_some_and(|name| path.contains(name));
        assert!(is_kept || in_query, "without a token to {host:?}: {:?}", asked.headers);
    }

    /// A request that goes on with a token.
    fn look_at_token(&self, destination: &Destination, asked: &Asked, passed: &Forwarded) {
        let (host, headers) = (destination.host, &asked.headers);
        assert!(!self.setup.only_reports(), "a token, though it only reports");
        assert!(destination.cluster.is_none_or(|cluster| passed.cluster.as_deref() == Some(cluster)), "{headers:?}");
        let method = headers.text(":method").unwrap_or_default().to_ascii_uppercase();
        assert!(!["TRACE", "CONNECT"].contains(&method.as_str()), "a token for {method}");
        assert!(headers.get(":path").is_some_and(|path| !path.is_empty()), "a token for a tunnel");
        assert!(port_is_valid(headers), "a token for {:?}", headers.text(":authority"));
        assert!(!has_credential(headers, destination), "a token beside a credential, or in its place: {headers:?}");
        assert!(!asked.has_several_uris, "a token for a caller that could be two: {headers:?}");
        assert!(host != RULES_HOST || !may_be_forbidden(headers), "a token for what a rule refuses: {headers:?}");
        let scope = format!("{}/.default", destination.resource);
        let odd = self.odd_tokens.iter().filter(|(other, _)| *other == scope);
        let mut tokens = odd.map(|(_, token)| format!("Bearer {token}")).chain([simple::bearer(destination.resource)]);
        let authorization = passed.headers.get("authorization");
        assert!(tokens.any(|token| authorization == Some(token.as_bytes())), "for {host:?}: {authorization:?}");
        let federated = self.assertions.tokens.iter().filter(|token| !token.is_empty());
        let is_federated = |token: &String| authorization.is_some_and(|value| contains(value, token.as_bytes()));
        assert!(!federated.clone().any(is_federated), "a federated token for {host:?}");
        assert_eq!(others(&passed.headers, &REMOVABLE), others(headers, &REMOVABLE));
    }

    fn look_at_reply(&self, asked: &Asked, reply: &Reply) {
        let host = host_of(&asked.headers);
        self.look_at_texts_of(reply);
        self.look_at_status(asked, &host, reply);
        // Of a gRPC client's reply Envoy makes the body a header.
        for text in reply.headers.iter().map(|(_, value)| value).chain([reply.body.as_slice()]) {
            let text = self.without_odd_tokens(text);
            assert!(!contains(&text, ASSERTION), "an assertion in a reply");
            assert_eq!(self.assertions.shown_in(&text), None, "{}", String::from_utf8_lossy(&text));
            for known in [stack::TENANT_ID, stack::ISSUER_URL, stack::SUBJECT] {
                let told = !asked.is_local() && host == HEALTH_HOST && contains(&text, known.as_bytes());
                assert!(!told, "a caller from outside the pod reads {known}");
            }
        }
        let has_token = contains(&reply.body, TOKEN) || reply.headers.iter().any(|(_, value)| contains(value, TOKEN));
        if has_token {
            assert!([IMDS_HOST, APP_SERVICE_HOST].contains(&host.as_str()), "a token in a reply for {host:?}");
            assert!(self.setup.has_imds() && !self.setup.only_reports(), "a token in a reply");
            assert!(asked.is_local(), "a token for a caller at {:?}", asked.address);
            let is_forwarded = host == IMDS_HOST && asked.headers.get("x-forwarded-for").is_some();
            assert!(!is_forwarded, "a token for a request that a proxy forwarded: {:?}", asked.headers);
            let target = asked.headers.text(":path").unwrap_or_default();
            let query = target.split_once('?').map_or("", |(_, query)| query);
            let parameters = query.split('&').filter(|parameter| !parameter.is_empty()).count();
            assert!(parameters <= MOST_PARAMETERS, "a token for {parameters} parameters");
        }
    }

    /// What a reply's status says.
    fn look_at_status(&self, asked: &Asked, host: &str, reply: &Reply) {
        let target = asked.headers.text(":path").unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let is_page = host == IMDS_HOST && path == STATUS_PATH && contains(&reply.body, b"\"keys\":");
        let by_metadata = asked.is_to_metadata() && self.setup.has_imds();
        assert!(!is_page || (asked.is_local() && !by_metadata), "the status page for a caller at {:?}", asked.address);
        // A gRPC client gets 200 with another status, and Envoy answers in place of a worker that died. Clients that probe for these paths need a 404.
        let is_grpc = reply.headers.get("grpc-status").is_some();
        let is_absent = path.ends_with("/issuecredential") || path.ends_with("/getplatformmetadata");
        assert!(
            !by_metadata || !is_absent || is_grpc || reply.status == 404 || reply.body.is_empty(),
            "{} for {:?}",
            reply.status,
            asked.headers
        );
        let ambiguous = contains(&reply.body, b"ambiguous_path") && HARMLESS_PATHS.contains(&path);
        assert!(!ambiguous, "a path that is the same for every server is rejected: {:?}", asked.headers);
    }

    /// A reply without what a hostile endpoint gave as an access token. Header and claims of a federated token may be in it, which are no
    /// secret, but never a whole one.
    fn without_odd_tokens(&self, body: &[u8]) -> Vec<u8> {
        let mut body = String::from_utf8_lossy(body).into_owned();
        for whole in self.assertions.tokens.iter().filter(|token| !token.is_empty()) {
            assert!(!body.contains(whole), "a federated token in a reply: {body}");
        }
        for (_, token) in self.odd_tokens.iter().filter(|(_, token)| !token.is_empty()) {
            body = body.replace(&format!("\"access_token\":\"{token}\""), "");
        }
        body.into_bytes()
    }

    /// Whether a request to the metadata service's address is one of those that may go on to the node.
    fn may_reach_the_node(&self, host: &str, asked: &Headers) -> bool {
        let target = asked.text(":path").unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let listed = path.split('/').take(3).eq(["", "metadata", "instance"]) && !path.contains(['.', '%', ';', '\\']);
        let token = path.trim_start_matches('/').trim_end_matches('/').eq_ignore_ascii_case(TOKEN_PATH);
        let reported = self.setup.only_reports() && token;
        [IMDS_HOST, "127.0.0.1", "localhost"].contains(&host) && (listed || reported) && !is_overridden(asked)
    }
}

/// The headers except `authorization` and those that are left out.
fn others(headers: &Headers, left_out: &[&str]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let is_left_out = |name: &[u8]| name == b"authorization" || left_out.iter().any(|other| other.as_bytes() == name);
    let others = headers.iter().filter(|(name, _)| !is_left_out(name));
    others.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// Whether the authority has no port, an empty one, or a number from 0 to 65535.
fn port_is_valid(headers: &Headers) -> bool {
    let authority = headers.text(":authority").unwrap_or_default();
    let port = authority.split_once(':').map_or("", |(_, port)| port);
    port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
}
