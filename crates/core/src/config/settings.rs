//! The settings of how a token is sent, which `defaults` and each destination may change.

use super::declared::{Schema, any_case};
use super::fields::settings;
use super::object::{Shape, Shown};
use super::reader::{Mistakes, Value};
use super::shapes::{Choice, Permission, Switch, Text, Words};
use super::tree::Node;

settings! {
    /// How the token is sent, and under which conditions. `defaults` and each destination may change each of these settings.
    pub(crate) struct Settings of SettingFields {
        /// the Envoy clusters, with TLS, to which the request may be routed ([below](#tls_clusters))
        tls_clusters: Vec<String> = Vec::new(), Clusters, unset("none"), example(&["outbound|80||{host}"][..]);
        /// `allow` disables the checks of cluster and connection: the token may be sent in plaintext
        plaintext_allowed as "plaintext": bool = false, Choice<Permission>;
        /// `allow` accepts a wildcard over a suffix under which anyone can register a host. Not required for the actions `refuse` and
        /// `pass`
        shared_suffix_allowed as "shared_suffix": bool = false, Choice<Permission>;
        /// `allow` accepts [headers that override the method or path](destinations.md#headers-that-override-the-method-or-path), such
        /// as `X-HTTP-Method-Override`; otherwise 403 `override_header_present` on hosts with rules for methods or paths
        override_headers_allowed as "override_headers": bool = false, Choice<Permission>;
        /// `keep`, `replace` or `refuse`, for a request that
        /// [already carries a credential](destinations.md#requests-that-already-carry-a-credential)
        existing_credential: ExistingCredential = ExistingCredential::Keep, Choice<ExistingCredential>;
        /// the header for the token. Any other header gets the bare token, without `Bearer`
        header: String = "authorization".to_owned(), HeaderName, example("x-access-token");
        /// `pass` forwards the request unchanged when no token is available; a request that the configuration rejects is still
        /// rejected
        pass_on_failure as "on_failure": bool = false, Choice<OnFailure>;
        /// `true` fetches the token at start and refreshes it even if no request uses it
        warm: bool = false, Switch;
    }
}

/// How a credential that a request already carries is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExistingCredential {
    Keep,
    Replace,
    Refuse,
}

impl Words for ExistingCredential {
    type Value = Self;
    const WORDS: &'static [(&'static str, Self)] =
        &[("keep", Self::Keep), ("replace", Self::Replace), ("refuse", Self::Refuse)];
}

/// Whether a request is forwarded without a token if none is available.
pub(super) enum OnFailure {}

impl Words for OnFailure {
    type Value = bool;
    const WORDS: &'static [(&'static str, bool)] = &[("refuse", false), ("pass", true)];
}

/// A list of clusters; `{host}` is the only placeholder. An empty list overrides that of `defaults`.
pub(super) enum Clusters {}

/// The name of a header that may carry a token, in lower case.
pub(super) enum HeaderName {}

impl Shape for Clusters {
    type Value<'p, 'a> = Vec<String>;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<Vec<String>> {
        if matches!(value.node, Node::List(items) if items.is_empty()) {
            return Some(Vec::new());
        }
        let texts = value.texts(mistakes);
        for (path, name) in &texts {
            let placeholders = name.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
            for (placeholder, _) in placeholders.filter(|(placeholder, _)| *placeholder != "host") {
                mistakes.add(
                    path,
                    format!("{name:?} has a placeholder {{{placeholder}}}, and only {{host}} is replaced: write {{host}} or the cluster's name"),
                );
            }
        }
        Some(texts.into_iter().map(|(_, name)| name.to_owned()).collect())
    }

    fn schema() -> Schema {
        // Between braces there is nothing but `host`.
        let named = Text::schema().with("pattern", r"^[^{]*(\{(host\}[^{]*|[^{}]*))*$");
        Schema::list(named).with("minItems", 0)
    }
}

impl Shown for Clusters {
    fn show(value: &Vec<String>) -> Node {
        Node::List(value.iter().map(|name| Node::from(name.as_str())).collect())
    }
}

/// Headers that belong to one connection or to the message itself (RFC 9110, sections 7.6.1, 7.2 and 8.6).
const NOT_FOR_TOKENS: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that are written to Envoy's default access log and its traces (Envoy, "Access logging", "Default format string"; "Tracing").
const LOGGED: &[&str] = &["user-agent", "x-client-trace-id", "x-forwarded-for", "x-request-id"];

/// The beginning of the headers that Envoy sets and removes.
const OF_ENVOY: &str = "x-envoy-";

impl Shape for HeaderName {
    type Value<'p, 'a> = String;

    fn read(value: Value<'_, '_>, mistakes: &mut Mistakes) -> Option<String> {
        let name = value.text(mistakes)?.to_ascii_lowercase();
        if !is_token(&name) {
            mistakes.add_at(
                value.path,
                format!("{name:?} is not a valid header: write a header such as \"authorization\""),
            );
        } else if NOT_FOR_TOKENS.contains(&name.as_str()) || name.starts_with(OF_ENVOY) {
            mistakes.add_at(
                value.path,
                format!(
                    "{name:?} does not reach the destination unchanged: write \"authorization\" or a header of your own"
                ),
            );
        } else if LOGGED.contains(&name.as_str()) {
            mistakes.add_at(value.path, format!(
                    "{name:?} is written to Envoy's default access log or traces, which would reveal the token: write \"authorization\" \
                     or a header of your own"
                ));
        }
        Some(name)
    }

    fn schema() -> Schema {
        let excluded = any_case(&[NOT_FOR_TOKENS, LOGGED].concat());
        let of_envoy = any_case(&[OF_ENVOY]);
        Text::schema().with("pattern", TOKEN).forbidden(&format!("^{excluded}$|^{of_envoy}"))
    }
}

impl Shown for HeaderName {
    fn show(value: &String) -> Node {
        Node::from(value.as_str())
    }
}

/// The form of a method or header name, as a pattern of the schema.
pub(super) const TOKEN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// Whether a text is a valid method or header name (`token` in RFC 9110, section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
