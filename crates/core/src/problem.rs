//! The error type: a stable code, a detail, a remedy, and when to retry.
//!
//! `protocol` renders a problem in the form that a client parses.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::CallFailure;
use crate::untrusted::{Guid, OAuthError};

/// One row for each code: its name in Rust, its stable string, its HTTP status for a request to a destination, its title.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $status:literal, $title:literal;)*) => {
        /// The stable code of a problem. It appears in replies, logs and metrics and does not change between versions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as it appears in replies, logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The HTTP status for a request to a destination: 403 if the configuration rejects the request, 502 if Entra
            /// refused the exchange permanently, 503 if something is missing in the pod or the failure is transient, 504
            /// if the wait timed out. Codes of managed-identity requests have the status that IMDS uses.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    /// The destination's action is `refuse`.
    RefusedByRule = "refused_by_rule", 403, "The configuration rejects this request";
    /// Rules depend on the request's path, and servers may interpret the path in different ways.
    AmbiguousPath = "ambiguous_path", 400, "The path is ambiguous";
    /// The request is a CONNECT to a destination: the token would go to the proxy that opens the tunnel.
    ConnectNotSupported = "connect_not_supported", 403, "CONNECT requests get no token";
    /// No identity lists the caller in its `principals`.
    PrincipalNotListed = "principal_not_listed", 403, "The caller is not allowed to use an identity";
    /// The upstream connection to the destination does not use TLS.
    ConnectionNotTls = "connection_not_tls", 403, "The upstream connection does not use TLS";
    /// The destination requires TLS, and its `tls_clusters` is not set.
    TlsClustersMissing = "tls_clusters_missing", 403, "The destination has no tls_clusters";
    /// The request was routed to a cluster that is not in the destination's `tls_clusters`.
    ClusterNotListed = "cluster_not_listed", 403, "The upstream cluster is not listed in tls_clusters";
    /// The request already carries a credential, and the destination's `existing_credential` is `refuse`.
    CredentialPresent = "credential_present", 403, "The request already carries a credential";
    /// A managed-identity request has no `Metadata: true` header.
    MetadataHeaderMissing = "metadata_header_missing", 400, "The Metadata header is missing";
    /// A managed-identity request was forwarded by a proxy.
    Forwarded = "forwarded", 400, "The request was forwarded by a proxy";
    /// A request for a managed identity or the status page did not come from within the pod.
    NotLocal = "not_local", 403, "The request did not come from within the pod";
    /// A request to the metadata service's address has a host that is not in `managed_identity.imds.hosts`.
    HostNotListed = "host_not_listed", 403, "The host is not a name of the metadata service";
    /// A managed-identity request has a method other than GET.
    MethodNotAllowed = "method_not_allowed", 405, "Only GET is supported";
    /// The query of a managed-identity request is not valid.
    BadQuery = "bad_query", 400, "The query is not valid";
    /// A managed-identity request is for an identity that is not in `managed_identity.identities`.
    IdentityNotFound = "identity_not_found", 400, "Identity not found";
    /// A managed-identity request selects no identity, and there are several.
    IdentityAmbiguous = "identity_ambiguous", 400, "The request does not select one of several identities";
    /// A managed-identity request is for a resource that is not in the identity's `resources`.
    ResourceNotAllowed = "resource_not_allowed", 400, "The identity is not allowed for this resource";
    /// Managed-identity callers requested too many new resources within a minute.
    TooManyScopes = "too_many_scopes", 429, "Too many new resources within a minute";
    /// A managed-identity request has no secret header, or its value is wrong.
    SecretWrong = "secret_wrong", 401, "The secret is missing or wrong";
    /// `managed_identity.action` is `refuse`.
    ManagedIdentityRefused = "managed_identity_refused", 403, "Managed identity is disabled";
    /// The filter does not serve this path of the metadata service.
    PathNotFound = "path_not_found", 404, "The path does not exist";
    /// This path of the metadata service is neither served by the filter nor forwarded to the node.
    PathRefused = "path_refused", 403, "The path is not allowed";
    /// An environment variable that the configuration refers to is missing or not valid.
    EnvVarMissing = "env_var_missing", 503, "An environment variable is missing or not valid";
    /// Envoy has no such cluster, or the cluster has no endpoint.
    ClusterMissing = "cluster_missing", 503, "The cluster does not exist or has no endpoint";
    /// The federated token could not be read.
    AssertionUnavailable = "assertion_unavailable", 503, "The federated token could not be read";
    /// The federated token was not a JWT in two consecutive reads.
    AssertionMalformed = "assertion_malformed", 503, "The federated token is not a JWT";
    /// The federated token has expired. The next one may be valid.
    AssertionExpired = "assertion_expired", 503, "The federated token has expired";
    /// The federated token is not valid yet.
    AssertionNotYetValid = "assertion_not_yet_valid", 503, "The federated token is not valid yet";
    /// Entra would reject the federated token and every other one that its issuer issues in the same way.
    AssertionInvalid = "assertion_invalid", 503, "Entra does not accept this kind of federated token";
    /// Entra refused the exchange, and will do so until something is changed.
    EntraRefused = "entra_refused", 502, "Entra refused the exchange";
    /// Entra could not be reached, throttled the request, or reported a failure of its own.
    EntraUnavailable = "entra_unavailable", 503, "Entra is unavailable";
    /// Entra's response is not a valid token response.
    EntraReplyInvalid = "entra_reply_invalid", 503, "Entra's response is not valid";
    /// The maximum number of requests already wait for a token or a connection.
    TooManyWaiting = "too_many_waiting", 503, "Too many requests wait for a token";
    /// A caller rejected a token that had just been fetched to replace a rejected one.
    TokenReplacedRecently = "token_replaced_recently", 503, "The token was replaced only recently";
    /// No token or connection was available within the time that a request may wait.
    TokenWaitTimeout = "token_wait_timeout", 504, "The wait for a token timed out";
    /// The request is a TRACE: the response would contain the token.
    TraceNotSupported = "trace_not_supported", 403, "TRACE requests get no token";
    /// Rules depend on the method or path, and a header of the request overrides one of them.
    OverrideHeaderPresent = "override_header_present", 403, "A header overrides the method or path";
    /// The port in the request's authority is not valid.
    HostInvalid = "host_invalid", 400, "The Host header is not valid";
    /// The request carries a credential to be replaced, and the filter runs where changing a header can change the route.
    ReplaceNotSupported = "replace_not_supported", 403, "A credential cannot be replaced in a listener's filter chain";
    /// Rules depend on the request's method, and it has lower-case letters, which servers interpret in different ways.
    AmbiguousMethod = "ambiguous_method", 400, "The method is ambiguous";
    /// The request's headers cannot be read.
    HeadersUnavailable = "headers_unavailable", 503, "Envoy does not let the filter read the request's headers";
    /// The source of the federated token refused the request.
    SourceRefused = "source_refused", 503, "The source refused to issue a federated token";
    /// The source of the federated token said that it can issue one later, in every attempt.
    SourceNotReady = "source_not_ready", 503, "The source cannot issue a federated token yet";
    /// The answer of the source does not have the configured form.
    SourceReplyInvalid = "source_reply_invalid", 503, "The answer of the federated token's source is not valid";
    /// The federated token's issuer, subject or audience is not the configured one.
    AssertionUnexpected = "assertion_unexpected", 503, "The federated token is not the expected one";
}

/// The diagnostic fields of Entra's error response, each if present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntraDiagnosis {
    /// `error` of the reply (RFC 6749, section 5.2).
    pub error: Option<OAuthError>,
    /// The AADSTS code, without its prefix.
    pub aadsts: Option<u32>,
    /// The id that Entra gave this response. Microsoft's support asks for it.
    pub trace_id: Option<Guid>,
    /// The id that Entra gave this request.
    pub correlation_id: Option<Guid>,
}

/// An error, with everything that an operator needs to resolve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// What was found and what was expected, in one or two sentences.
    pub detail: String,
    /// An instruction for the operator or the caller.
    pub remedy: String,
    /// The time until a retry can succeed. The broker sets it when it returns the problem.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// Whether a source of federated tokens gave no answer to this VM, which may be the fault of the VM: internal listeners do not respond
    /// to one on Envoy's main thread.
    #[serde(skip)]
    pub(crate) is_unreached: bool,
    /// The name of the identity in the configuration, if one is concerned.
    pub identity: Option<String>,
    /// The scope of the token, if one was requested.
    pub scope: Option<String>,
    /// The diagnostic fields of Entra's error response.
    pub entra: EntraDiagnosis,
}

impl Problem {
    /// A problem without identity, scope and diagnostic fields; add them if they are known.
    pub fn new(code: Code, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::with_texts(code, detail.into(), remedy.into())
    }

    /// Not generic and not inlined: it is in the module once, and not once for each of its many calls.
    #[inline(never)]
    fn with_texts(code: Code, detail: String, remedy: String) -> Self {
        Self {
            code,
            detail,
            remedy,
            retry_after: None,
            is_unreached: false,
            identity: None,
            scope: None,
            entra: EntraDiagnosis::default(),
        }
    }

    /// The problem that a call to `cluster` could not be dispatched. `purpose` is a relative clause for the detail, such as
    /// `which leads to Entra`.
    pub(crate) fn uncalled(failure: CallFailure, cluster: &str, purpose: &str) -> Self {
        let reason = match failure {
            CallFailure::NoSuchCluster => "does not exist in this Envoy",
            CallFailure::NoEndpoint => "has no endpoint",
        };
        Self::new(
            Code::ClusterMissing,
            format!("cluster {cluster:?}, {purpose}, {reason}"),
            format!(
                "Add the cluster {cluster:?} to Envoy (in Istio by an EnvoyFilter with applyTo: CLUSTER and operation: ADD), \
                 or correct its name in the configuration."
            ),
        )
    }

    /// Adds the identity and scope of the token that the problem concerns.
    #[must_use]
    pub fn about(mut self, identity: &str, scope: &str) -> Self {
        self.identity = Some(identity.to_owned());
        self.scope = Some(scope.to_owned());
        self
    }

    /// The name of the identity, if one is concerned.
    pub(crate) fn identity(&self) -> Option<Arc<str>> {
        self.identity.as_deref().map(Arc::from)
    }

    /// States that a source of federated tokens gave no answer.
    #[must_use]
    pub(crate) const fn unreached(mut self) -> Self {
        self.is_unreached = true;
        self
    }

    /// Adds the time until a retry can succeed.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The AADSTS code with its prefix, such as `AADSTS700213`.
    pub fn aadsts(&self) -> Option<String> {
        aadsts(self.entra.aadsts)
    }
}

/// An AADSTS code with its prefix.
pub(crate) fn aadsts(code: Option<u32>) -> Option<String> {
    code.map(|code| format!("AADSTS{code}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    /// An operator who sees a code, event or metric must be able to look it up.
    #[test]
    fn every_code_event_and_metric_is_on_the_troubleshooting_page() {
        const PAGE: &str = include_str!("../../../docs/troubleshooting.md");
        let metrics = include_str!("metrics.rs")
            .split('"')
            .filter(|text| text.starts_with("entra_exchange_") && !text.contains('.'));
        let missing: Vec<&str> = metrics.filter(|name| !PAGE.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "{missing:?}");
        for code in Code::ALL {
            let [status, managed] =
                [Protocol::ProblemJson, Protocol::Imds].map(|protocol| protocol.status(*code).to_string());
            let statuses = if status == managed { status } else { format!("{status}, {managed}") };
            let row = format!("| `{}` | {statuses} |", code.as_str());
            assert!(PAGE.contains(&row), "{row}");
        }
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
    fn a_code_is_serialized_as_its_stable_string() {
        let code = Code::EnvVarMissing;
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
    }
}
