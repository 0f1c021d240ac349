//! Reads how the requests of a destination are handled: the fields that `defaults` may set for all destinations.

use super::azure_service::AzureService;
use super::declared::{Schema, any_case};
use super::fields::{fields, settings};
use super::identities;
use super::object::{Field, Object, Shape, Shown};
use super::reader::{Mistakes, Value};
use super::shapes::{Choice, Permission, Switch, Text, Words};
use super::tree::Node;
use super::{DestinationAction, ExistingCredential, Identity, InjectionConfig, Token, TokenOwner};
use crate::azure::{CredentialPlaces, HeaderForm};

fields! {
    /// How the requests of a destination are handled.
    pub(super) TreatmentFields {
        /// the scope of the token: one resource and `/.default`. Required with `azure_service: functions`, too
        scope: Text, unset("from `azure_service`; else required for `inject` and `report`"), pattern(r"^[^\t-\r ]*[^\t-\r /][^\t-\r ]*/\.default$"),
            forbidden(r"/\.default/\.default$"), example("https://vault.azure.net/.default");
        /// the name of the identity whose token is used
        identity: Text, unset("the only identity, or the one whose `principals` list the caller");
        /// `inject` adds the token; `report` forwards the request unchanged and fetches the token to test the configuration; `pass`
        /// forwards the request unchanged; `refuse` rejects it ([actions](destinations.md#actions))
        action: Choice<ActionChoice>, default("inject");
        ..SettingFields;
    }
}

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

/// The value of `action`.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum ActionChoice {
    Inject,
    Report,
    Pass,
    Refuse,
    /// Any other value, which is reported. The destination is not checked further.
    Unknown,
}

impl Words for ActionChoice {
    type Value = Self;
    const WORDS: &'static [(&'static str, Self)] =
        &[("inject", Self::Inject), ("report", Self::Report), ("pass", Self::Pass), ("refuse", Self::Refuse)];
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

/// How the requests of a destination are handled, as far as it is configured.
#[derive(Clone)]
pub(super) struct Treatment {
    scope: Option<String>,
    /// The identity's index.
    identity: Option<usize>,
    action: ActionChoice,
    pub(super) settings: Settings,
    credentials: CredentialPlaces,
    form: HeaderForm,
}

impl Default for Treatment {
    fn default() -> Self {
        Self {
            scope: None,
            identity: None,
            action: ActionChoice::Inject,
            settings: Settings::default(),
            credentials: CredentialPlaces::USUAL,
            form: HeaderForm::Bearer,
        }
    }
}

impl Treatment {
    /// Overrides the treatment with the fields of `object` that are present.
    pub(super) fn set(
        &mut self,
        object: &Object<'_, '_, TreatmentFields>,
        identities: &[Identity],
        mistakes: &mut Mistakes,
    ) {
        if let Some(scope) = read_scope(&object.scope(), mistakes) {
            self.scope = Some(scope);
        }
        if let Some(index) = identities::read_index(&object.identity(), identities, mistakes) {
            self.identity = Some(index);
        }
        let action = object.action();
        if action.is_set() {
            self.action = action.read(mistakes).unwrap_or(ActionChoice::Unknown);
        }
        self.settings.set(&object.part(), mistakes);
    }

    /// Applies the settings of an Azure service.
    pub(super) fn apply_service(&mut self, azure: &AzureService) {
        self.form = azure.form;
        self.credentials = azure.credentials;
        if azure.has_scope {
            self.scope = Some(String::new());
        }
    }

    /// Whether the action may fetch a token.
    pub(super) const fn sends_tokens(&self) -> bool {
        matches!(self.action, ActionChoice::Inject | ActionChoice::Report)
    }

    /// The action of a destination. Settings that the action needs and that are missing are mistakes.
    pub(super) fn action(
        self,
        object: &Object<'_, '_, TreatmentFields>,
        identities: &[Identity],
        mistakes: &mut Mistakes,
    ) -> DestinationAction {
        let warm = object.part::<SettingFields>().warm();
        let writes_warm = warm.is_set() && self.settings.warm;
        if writes_warm && matches!(self.action, ActionChoice::Pass | ActionChoice::Refuse) {
            warm.mistake("has no effect, because this action uses no token: remove it", mistakes);
        }
        match self.action {
            ActionChoice::Pass => return DestinationAction::Pass,
            ActionChoice::Refuse | ActionChoice::Unknown => return DestinationAction::Refuse,
            ActionChoice::Inject | ActionChoice::Report => {}
        }
        let (scope, identity) = (object.scope(), object.identity());
        if self.scope.is_none() && !scope.is_set() {
            scope.mistake("is missing: write the resource and /.default", mistakes);
        }
        let owner = match self.identity {
            Some(index) => TokenOwner::Identity(index),
            None if identities.iter().any(|identity| !identity.allowed_callers.is_empty()) => TokenOwner::Caller,
            None => {
                if identities.len() > 1 && !identity.is_set() {
                    let names = identities::names(identities, " or ");
                    identity.mistake(format!("is missing: write {names}"), mistakes);
                }
                TokenOwner::Identity(0)
            }
        };
        let token = Token { scope: self.scope.unwrap_or_default(), owner, warm: self.settings.warm };
        let injection = InjectionConfig { settings: self.settings, credentials: self.credentials, form: self.form };
        match self.action {
            ActionChoice::Report => DestinationAction::Report(token, injection),
            _ => DestinationAction::Inject(token, injection),
        }
    }
}

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

/// Reads a scope: one resource followed by `/.default` (learn.microsoft.com, "OAuth 2.0 client credentials flow").
fn read_scope(field: &Field<'_, '_, Text>, mistakes: &mut Mistakes) -> Option<String> {
    let scope = field.read(mistakes)?;
    let mistake = if scope.contains(char::is_whitespace) {
        Some("is more than one scope: write one resource and /.default".to_owned())
    } else {
        match scope.strip_suffix("/.default") {
            Some(resource) if resource.trim_matches('/').is_empty() => {
                Some("has no resource: write it before /.default".to_owned())
            }
            Some(resource) if resource.ends_with("/.default") => {
                Some(format!("has /.default twice: write {resource:?}"))
            }
            Some(_) => None,
            None => Some(without_default(scope)),
        }
    };
    if let Some(mistake) = mistake {
        field.mistake(format!("{scope:?} {mistake}"), mistakes);
    }
    Some(scope.to_owned())
}

/// The message for a scope that does not end in `/.default`: a resource, a permission, or a resource with a permission.
fn without_default(scope: &str) -> String {
    let scope = scope.strip_suffix('/').unwrap_or(scope);
    let authority_end = scope.find("://").map(|colon| colon.saturating_add(3));
    match authority_end.and_then(|start| scope.get(start..)?.rsplit_once('/')) {
        Some((_, permission)) => {
            let resource = scope.strip_suffix(permission).unwrap_or(scope);
            format!(
                "does not end in /.default: write \"{resource}.default\" if {permission:?} is a permission (a workload gets all \
                 permissions that it was granted), or \"{scope}/.default\" if it is part of the resource's identifier"
            )
        }
        None if authority_end.is_none() && is_permission(scope) => {
            "is a permission, not a resource: write the resource's identifier and /.default, such as \
             \"https://graph.microsoft.com/.default\""
                .to_owned()
        }
        None => format!("is a resource: write \"{scope}/.default\""),
    }
}

/// Whether a scope without a resource has the form of a permission (`User.Read`), or is one of OpenID Connect.
fn is_permission(scope: &str) -> bool {
    let is_word = |part: &str| part.starts_with(|first: char| first.is_ascii_uppercase());
    (scope.contains('.') && scope.split('.').all(is_word))
        || ["openid", "profile", "email", "offline_access", "user_impersonation", "access_as_user"].contains(&scope)
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
