//! Everything that can go wrong, as one type: a stable code, what happened, what to do, and when to try again.
//!
//! Each protocol renders it its own way: [`Problem::to_reply`] is RFC 9457 for an injected request,
//! `managed_identity` has the shapes that managed-identity clients read.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::{CallFailure, Reply, Request};
use crate::untrusted::{Guid, OAuthError};

/// One row for each code: its name in Rust, its word, its status for an injected request, its title.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, in a word that stays the same from version to version.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as it is written in replies and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The HTTP status for an injected request: 403 refused by policy, 502 Entra refused for good, 503 what
            /// is missing in the pod or may pass, 504 waited too long; the managed-identity guard's are IMDS's own.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    /// The destination's action is to refuse.
    RefusedByRule = "refused_by_rule", 403, "The configuration refuses such requests";
    /// The request's path can be read in two ways, and rules hang on it.
    AmbiguousPath = "ambiguous_path", 400, "The path can be read in two ways";
    /// The request asks for a tunnel to the destination: a token would go to whoever makes it.
    TunnelAsked = "tunnel_asked", 403, "A tunnel gets no token";
    /// No identity may be used for whoever sends the request.
    PrincipalNotListed = "principal_not_listed", 403, "The caller may use no identity here";
    /// The connection to the destination has no TLS.
    ConnectionNotTls = "connection_not_tls", 403, "The connection to this destination has no TLS";
    /// The destination does not say how its requests get there safely.
    WayNotStated = "way_not_stated", 403, "The way to this destination is not stated";
    /// The request was routed to a cluster that the destination does not list.
    ClusterNotListed = "cluster_not_listed", 403, "The request was routed to a cluster that may not have the token";
    /// The request brought a credential of its own, and the destination says to refuse that.
    CredentialPresent = "credential_present", 403, "The request brought a credential of its own";
    /// A managed-identity request without `Metadata: true`.
    MetadataHeaderMissing = "metadata_header_missing", 400, "The Metadata header is missing";
    /// A managed-identity request that a proxy has forwarded.
    Forwarded = "forwarded", 400, "The request was forwarded by a proxy";
    /// A managed-identity request that did not come from within the pod.
    NotLocal = "not_local", 403, "The request did not come from within the pod";
    /// A request to the metadata service's address whose host is not one of the metadata service's names.
    HostNotListed = "host_not_listed", 403, "The metadata service does not have this host name";
    /// A managed-identity request by another method than GET.
    MethodNotAllowed = "method_not_allowed", 405, "Only GET is answered";
    /// A managed-identity request whose query cannot be judged.
    BadQuery = "bad_query", 400, "The query cannot be judged";
    /// A managed-identity request for an identity that is not on offer.
    IdentityNotFound = "identity_not_found", 400, "Identity not found";
    /// A managed-identity request that names no identity where there are several.
    IdentityAmbiguous = "identity_ambiguous", 400, "Several identities, and the request names none";
    /// A managed-identity request for a resource that the identity is not offered for.
    ResourceNotAllowed = "resource_not_allowed", 400, "The identity is not offered for this resource";
    /// Managed-identity callers asked for too many new resources within a minute.
    TooManyScopes = "too_many_scopes", 429, "Too many new resources within a minute";
    /// A managed-identity request without the secret.
    SecretWrong = "secret_wrong", 401, "The secret is missing or wrong";
    /// Managed identity is switched off by configuration.
    ManagedIdentityRefused = "managed_identity_refused", 403, "Managed identity is switched off";
    /// A metadata path that does not exist here.
    PathNotFound = "path_not_found", 404, "There is no such path";
    /// A metadata path that is not answered here.
    PathRefused = "path_refused", 403, "This path is not answered";
    /// A variable that the configuration relies on is missing or wrong.
    VariableMissing = "variable_missing", 503, "A variable is missing or wrong";
    /// Envoy has no such cluster, or the cluster has no endpoint.
    ClusterMissing = "cluster_missing", 503, "Envoy has no usable cluster of this name";
    /// The federated token could not be read.
    AssertionUnavailable = "assertion_unavailable", 503, "The federated token could not be read";
    /// What was read is not a JWT, in two readings.
    AssertionMalformed = "assertion_malformed", 503, "The federated token is not a JWT";
    /// The federated token has expired; the next one may be valid.
    AssertionExpired = "assertion_expired", 503, "The federated token has expired";
    /// The federated token is not valid yet.
    AssertionNotYetValid = "assertion_not_yet_valid", 503, "The federated token is not valid yet";
    /// What was read is not a federated token that Entra would accept, and its issuer would issue another one like it.
    AssertionInvalid = "assertion_invalid", 503, "Entra does not accept such a federated token";
    /// Entra refused the exchange; it stays so until something is changed.
    EntraRefused = "entra_refused", 502, "Entra refused the exchange";
    /// Entra could not be reached or had trouble of its own.
    EntraUnavailable = "entra_unavailable", 503, "Entra did not answer";
    /// Entra's answer makes no sense.
    EntraReplyInvalid = "entra_reply_invalid", 503, "Entra's answer makes no sense";
    /// Too many requests wait for a token already.
    TooManyWaiting = "too_many_waiting", 503, "Too many requests wait for a token";
    /// A caller rejects a token that was fetched a moment ago in place of a rejected one.
    TokenReplacedRecently = "token_replaced_recently", 503, "The token was replaced a moment ago";
    /// No token came within the time that a request may wait.
    WaitedTooLong = "waited_too_long", 504, "No token came in time";
    /// The request is a TRACE: its answer would show the token.
    TraceNotSupported = "trace_not_supported", 403, "TRACE gets no token";
    /// Rules depend on the method or path, and a header of the request names another one.
    OverrideHeaderPresent = "override_header_present", 403, "A header overrides the method or path";
    /// The port in the request's authority is not valid.
    HostInvalid = "host_invalid", 400, "The Host header is not valid";
    /// The request brought a credential that would be replaced, where changing a header can change the route.
    ReplaceNotSupported = "replace_not_supported", 403, "A credential cannot be replaced in a listener's filter chain";
    /// The state that keeps the token off an internal redirect cannot be set.
    FilterStateUnavailable = "filter_state_unavailable", 503, "Envoy does not let the filter keep its state";
}

/// What Entra said with its refusal, as far as it said it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntraDiagnosis {
    /// `error` of the reply (RFC 6749, section 5.2).
    pub error: Option<OAuthError>,
    /// The AADSTS code, without its prefix.
    pub aadsts: Option<u32>,
    /// Entra's id for this answer: what Microsoft's support asks for.
    pub trace_id: Option<Guid>,
    /// Entra's id for this request.
    pub correlation_id: Option<Guid>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What went wrong.
    pub code: Code,
    /// What happened, in a sentence or two.
    pub detail: String,
    /// What to do about it.
    pub remedy: String,
    /// When a next try is due, from now; set by the broker when the problem is handed out.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// The identity, by its name in the configuration.
    pub identity: Option<String>,
    /// The scope that was asked for.
    pub scope: Option<String>,
    /// What Entra said.
    pub entra: EntraDiagnosis,
}

/// The body of `application/problem+json` (RFC 9457, section 3) with our extension members.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    remedy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aadsts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
}

impl Problem {
    /// A problem; identity, scope and Entra's words are added where they are known.
    pub fn new(code: Code, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            remedy: remedy.into(),
            retry_after: None,
            identity: None,
            scope: None,
            entra: EntraDiagnosis::default(),
        }
    }

    /// A call to `cluster`, which is meant for `purpose`, could not be made.
    pub(crate) fn uncalled(failure: CallFailure, cluster: &str, purpose: &str) -> Self {
        let what = match failure {
            CallFailure::NoSuchCluster => "does not exist in this Envoy",
            CallFailure::NoEndpoint => "has no endpoint",
        };
        Self::new(
            Code::ClusterMissing,
            format!("cluster {cluster:?}, {purpose}, {what}"),
            format!(
                "Define the cluster {cluster:?} in Envoy (an EnvoyFilter with CLUSTER/ADD in Istio), or name the right \
                 one in the configuration."
            ),
        )
    }

    /// Adds whose token it was about.
    #[must_use]
    pub fn about(mut self, identity: &str, scope: &str) -> Self {
        self.identity = Some(identity.to_owned());
        self.scope = Some(scope.to_owned());
        self
    }

    /// The identity that it is about, where one is known.
    pub(crate) fn identity(&self) -> Option<Arc<str>> {
        self.identity.as_deref().map(Arc::from)
    }

    /// Adds when a next try is due.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The code as Entra writes it, such as `AADSTS700213`.
    pub fn aadsts(&self) -> Option<String> {
        self.entra.aadsts.map(|code| format!("AADSTS{code}"))
    }

    /// The reply for an injected request: `application/problem+json` (RFC 9457).
    pub fn to_reply(&self) -> Reply {
        self.to_reply_of(self.code.status())
    }

    /// The same with another status.
    pub fn to_reply_of(&self, status: u16) -> Reply {
        let reply = Reply::json(
            status,
            "application/problem+json",
            &Body {
                r#type: format!("urn:entra-exchange:problem:{}", self.code.as_str()),
                title: self.code.title(),
                status,
                detail: &self.detail,
                code: self.code.as_str(),
                remedy: &self.remedy,
                identity: self.identity.as_deref(),
                scope: self.scope.as_deref(),
                aadsts: self.aadsts(),
                trace_id: self.entra.trace_id.as_ref().map(Guid::as_str),
                correlation_id: self.entra.correlation_id.as_ref().map(Guid::as_str),
            },
        );
        self.with_retry_after(reply)
    }

    /// The reply to an injected request in a form that its client shows: Envoy puts the whole body of a refusal into
    /// `grpc-message`, so a gRPC client gets one plain sentence.
    pub fn reply_to(&self, request: &dyn Request) -> Reply {
        if !request.header("content-type").is_some_and(|value| value.starts_with(b"application/grpc")) {
            return self.to_reply();
        }
        let text = format!("{} ({}): {}", self.detail, self.code.as_str(), self.remedy);
        self.with_retry_after(Reply {
            status: self.code.status(),
            headers: vec![("content-type", "text/plain".to_owned()), ("cache-control", "no-store".to_owned())],
            body: text.replace(char::is_control, " ").into_bytes(),
        })
    }

    /// Adds `Retry-After` in seconds, rounded up (RFC 9110, section 10.2.3), when a next try is due.
    pub(crate) fn with_retry_after(&self, mut reply: Reply) -> Reply {
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            reply.headers.push(("retry-after", seconds.to_string()));
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_renders_as_rfc_9457_with_everything_that_is_known() {
        let mut problem = Problem::new(Code::EntraRefused, "AADSTS700213: no match", "Compare the subject.")
            .about("payments", "https://vault.azure.net/.default")
            .retry_after(Duration::from_millis(1200));
        problem.entra = EntraDiagnosis {
            error: OAuthError::parse("invalid_client"),
            aadsts: Some(700213),
            trace_id: Guid::parse("11111111-aaaa-4aaa-8aaa-111111111111"),
            correlation_id: Guid::parse("22222222-bbbb-4bbb-8bbb-222222222222"),
        };
        let reply = problem.to_reply();
        assert_eq!(reply.status, 502);
        assert_eq!(
            reply.headers,
            vec![
                ("content-type", "application/problem+json".to_owned()),
                ("cache-control", "no-store".to_owned()),
                ("retry-after", "2".to_owned()),
            ]
        );
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            concat!(
                r#"{"type":"urn:entra-exchange:problem:entra_refused","title":"Entra refused the exchange","status":502,"#,
                r#""detail":"AADSTS700213: no match","code":"entra_refused","remedy":"Compare the subject.","#,
                r#""identity":"payments","scope":"https://vault.azure.net/.default","aadsts":"AADSTS700213","#,
                r#""trace_id":"11111111-aaaa-4aaa-8aaa-111111111111","correlation_id":"22222222-bbbb-4bbb-8bbb-222222222222"}"#
            )
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let reply = Problem::new(Code::WayNotStated, "d", "r").to_reply();
        assert_eq!(reply.status, 403);
        let body = String::from_utf8(reply.body).unwrap();
        assert!(!body.contains("null") && !body.contains("identity"), "{body}");
        assert!(reply.headers.iter().all(|(name, _)| *name != "retry-after"));
    }

    #[test]
    fn a_grpc_client_is_told_in_one_plain_sentence() {
        use crate::http::tests::Sent;
        let problem =
            Problem::new(Code::WayNotStated, "it says\nnothing", "Say it.").retry_after(Duration::from_secs(1));
        let grpc = |kind: &str| problem.reply_to(&Sent::get("a", "/").header("content-type", kind.as_bytes()));
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc-web"] {
            let reply = grpc(kind);
            assert_eq!(String::from_utf8(reply.body).unwrap(), "it says nothing (way_not_stated): Say it.");
            assert_eq!((reply.status, reply.headers.len()), (403, 3));
        }
        assert_eq!(grpc("application/json"), problem.to_reply());
        assert_eq!(problem.reply_to(&Sent::get("a", "/")), problem.to_reply());
    }

    /// A reader who sees one of these words must find it.
    #[test]
    fn every_code_event_and_metric_is_on_the_troubleshooting_page() {
        const PAGE: &str = include_str!("../../../docs/troubleshooting.md");
        let metrics = include_str!("metrics.rs")
            .split('"')
            .filter(|text| text.starts_with("entra_exchange_") && !text.contains('.'));
        let words = Code::ALL.iter().map(|code| code.as_str()).chain(metrics);
        let missing: Vec<&str> = words.filter(|word| !PAGE.contains(&format!("`{word}`"))).collect();
        assert!(missing.is_empty(), "{missing:?}");
        for event in ["start", "configuration", "exchange", "rejected", "request", "upgrade"] {
            assert!(PAGE.contains(&format!("`event={event}")), "{event}");
        }
    }

    /// Entries in shared data hold a code as its position (postcard), and modules of other versions read it there.
    #[test]
    fn the_position_of_a_code_never_changes() {
        let words: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let kept: Vec<&str> = include_str!("broker/tests/codes.txt").lines().collect();
        assert!(words.starts_with(&kept), "add a code at the end of `codes!`, and remove none");
    }

    #[test]
    fn a_code_is_written_as_it_is_stored() {
        let code = Code::VariableMissing;
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
}
