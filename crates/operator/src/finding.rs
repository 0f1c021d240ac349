//! What `check` finds: a mistake or a risk, its place, and the remedy.

use std::ops::Range;

use serde::Serialize;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The filter, Envoy, Istio or Kubernetes rejects it.
    Error,
    /// It is accepted, but risky or probably not intended.
    Warning,
}

impl Severity {
    /// The severity in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A mistake or a risk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The code, one of [`CODES`].
    pub code: &'static str,
    /// How serious it is.
    pub severity: Severity,
    /// The index of the source.
    pub source: usize,
    /// The bytes of the source.
    pub span: Range<usize>,
    /// The path in the filter's configuration, if it is about a field of it.
    pub path: Option<String>,
    /// What was found.
    pub message: String,
    /// An instruction that corrects it.
    pub remedy: String,
}

/// A kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The code.
    pub code: &'static str,
    /// How serious it is.
    pub severity: Severity,
    /// What it says, in one sentence.
    pub summary: &'static str,
}

const fn error(code: &'static str, summary: &'static str) -> Code {
    Code { code, severity: Severity::Error, summary }
}

const fn warning(code: &'static str, summary: &'static str) -> Code {
    Code { code, severity: Severity::Warning, summary }
}

/// All kinds of findings.
pub const CODES: &[Code] = &[
    error("byte_order_mark", "The file begins with a byte order mark."),
    error("invalid_yaml", "The file is not valid YAML."),
    error("invalid_json", "The text is not valid JSON."),
    error("no_configuration", "The file has neither a configuration of the filter nor an object that `check` knows."),
    error("empty_configuration", "The configuration has neither destinations nor managed_identity."),
    error("configuration_not_a_string", "The configuration is not a google.protobuf.StringValue."),
    error("unknown_field", "The configuration has a field that does not exist."),
    error("missing_field", "A required field is missing."),
    error("duplicate_entry", "A field or an entry occurs twice."),
    error("invalid_value", "The value of a field is not valid."),
    error("digest_unquoted", "A digest of digits alone is not quoted, so that YAML reads a number."),
    error(
        "file_content_in_istio",
        "An object of Istio uses the formatter FILE_CONTENT, which Istio's Envoy does not have.",
    ),
    error("digest_is_an_index", "The digest is an index's, which the istio-agent rejects (with `--registry`)."),
    error("image_not_found", "The registry does not give the image (with `--registry`)."),
    warning("plaintext_allowed", "A destination sends its token in plaintext."),
    warning("shared_suffix_allowed", "A wildcard covers hosts that anyone can register."),
    warning("unknown_authority_allowed", "The authority is not one of Microsoft's."),
    warning("override_headers_allowed", "Requests may override their method or path in a header."),
    warning("on_failure_pass", "Requests are forwarded without a token when none is available."),
    warning("broad_scope", "The scope reaches everything that the identity may do in Azure or Microsoft Graph."),
    warning("tls_clusters_missing", "A destination does not list the clusters to which its requests may be routed."),
    warning("resources_missing", "Applications may request a token for any resource."),
    warning("path_rules_evaded", "Applications can request the token that rules for methods or paths protect."),
    warning("refusal_evaded", "A refused path can be reached by another path of the same API."),
    warning("foreign_metadata_passed", "Metadata of another cloud are forwarded to the node."),
    warning("node_credentials_passed", "The node's own credentials are exposed."),
    warning("identity_unused", "No destination and no endpoint uses the identity."),
    warning("same_client_id", "Two identities have the same client id."),
    warning("wait_shorter_than_exchange", "Requests stop waiting before their exchange can end."),
    warning("discard_time_in_future", "Tokens are discarded from a time in the future on."),
    warning("env_var_invalid", "An environment variable has a value that is not valid."),
    warning("env_var_not_listed", "The module cannot read an environment variable that it needs."),
    warning("configuration_warning", "The filter accepts the configuration with a warning."),
    warning("fail_open", "Requests are forwarded without the filter when it fails."),
    warning("entra_single_cluster", "Exchanges have no second cluster."),
    warning("entra_not_tls", "A cluster for Entra does not use TLS."),
    warning("entra_certificate_not_verified", "A cluster for Entra does not verify the certificate."),
    warning("entra_name_not_verified", "A cluster for Entra does not verify the name of the authority."),
    warning("entra_no_idle_timeout", "A cluster for Entra keeps idle connections that the network may have dropped."),
    warning(
        "destination_cluster_not_verified",
        "A cluster of a destination does not use TLS or does not verify the server's name.",
    ),
    warning(
        "source_cluster_not_verified",
        "A cluster of a source of federated tokens does not use TLS or does not verify the server's name.",
    ),
    warning(
        "source_is_this_filter",
        "A source of federated tokens that is a metadata service leads to the filter itself.",
    ),
    warning("cluster_not_defined", "A cluster that the configuration names is not defined."),
    warning("use_remote_address", "Envoy adds X-Forwarded-For, and the filter rejects metadata requests with it."),
    warning("original_dst_missing", "The filter cannot see the address that metadata clients called."),
    warning("upgrade_not_ignored", "Envoy rejects the requests of Apache HttpClient 5.4 and later."),
    warning("route_matches_changed_header", "A route matches on a header that the filter sets."),
    warning("mirror_gets_token", "A mirrored request carries the token."),
    warning("token_logged", "An access log contains the token."),
    warning("watched_directory_wrong", "Envoy does not notice when the federated token is renewed."),
    warning("token_file_not_watched", "Envoy does not notice when the federated token is renewed."),
    warning("server_name_not_verified", "A DestinationRule does not verify the server's name."),
    warning("service_entry_hides_443", "A ServiceEntry hides port 443 of its host."),
];

/// The kind of a code.
pub fn code(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|other| other.code == code)
}

/// An instruction for a configuration with `count` mistakes, as the end of a sentence.
pub(crate) fn correct(count: usize) -> String {
    match count {
        1 => "a mistake: run entra-exchange check, and correct it".to_owned(),
        _ => format!("{count} mistakes: run entra-exchange check, and correct them"),
    }
}

/// The findings so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    /// Adds a finding; its severity is that of its code.
    pub(crate) fn add(
        &mut self,
        code_name: &'static str,
        place: (usize, Range<usize>),
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> &mut Finding {
        let severity = code(code_name).map_or(Severity::Error, |code| code.severity);
        let (source, span) = place;
        let finding = Finding {
            code: code_name,
            severity,
            source,
            span,
            path: None,
            message: message.into(),
            remedy: remedy.into(),
        };
        let index = self.0.len();
        self.0.push(finding);
        // The finding was added in the line before.
        #[allow(clippy::indexing_slicing)]
        &mut self.0[index]
    }
}
