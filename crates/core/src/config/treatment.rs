//! Reads how the requests of a destination are handled: the fields that `defaults` may set for all destinations.

use super::azure_service::AzureService;
use super::identities;
use super::reader::{Field, Mistakes, Object};
use super::{DestinationAction, ExistingCredential, Identity, InjectionConfig, Token, TokenOwner};
use crate::azure::{CredentialPlaces, HeaderForm};

/// The fields that `defaults` and each destination may have.
pub(super) const TREATMENT: &[&str] = &[
    "scope",
    "identity",
    "action",
    "tls_clusters",
    "plaintext",
    "shared_suffix",
    "override_headers",
    "existing_credential",
    "header",
    "on_failure",
    "warm",
];

/// How the requests of a destination are handled, as far as it is configured.
#[derive(Clone)]
pub(super) struct Treatment {
    scope: Option<String>,
    /// The identity's index.
    identity: Option<usize>,
    action: ActionChoice,
    tls_clusters: Vec<String>,
    plaintext_allowed: bool,
    pub(super) shared_suffix_allowed: bool,
    pub(super) override_headers_allowed: bool,
    existing_credential: ExistingCredential,
    credentials: CredentialPlaces,
    header: String,
    form: HeaderForm,
    pass_on_failure: bool,
    warm: bool,
}

/// The value of `action`.
#[derive(Clone, Copy)]
enum ActionChoice {
    Inject,
    Report,
    Pass,
    Refuse,
    /// Any other value, which is reported. The destination is not checked further.
    Unknown,
}

impl Default for Treatment {
    fn default() -> Self {
        Self {
            scope: None,
            identity: None,
            action: ActionChoice::Inject,
            tls_clusters: Vec::new(),
            plaintext_allowed: false,
            shared_suffix_allowed: false,
            override_headers_allowed: false,
            existing_credential: ExistingCredential::Keep,
            credentials: CredentialPlaces::USUAL,
            header: "authorization".to_owned(),
            form: HeaderForm::Bearer,
            pass_on_failure: false,
            warm: false,
        }
    }
}

impl Treatment {
    /// Overrides these settings with the fields of `object`.
    pub(super) fn with(self, object: &Object<'_>, identities: &[Identity], mistakes: &mut Mistakes) -> Self {
        let permission = [("refuse", false), ("allow", true)];
        let actions = [
            ("inject", ActionChoice::Inject),
            ("report", ActionChoice::Report),
            ("pass", ActionChoice::Pass),
            ("refuse", ActionChoice::Refuse),
        ];
        Self {
            scope: object.get("scope").and_then(|field| read_scope(&field, mistakes)).or(self.scope),
            identity: object
                .get("identity")
                .and_then(|field| identities::read_index(&field, identities, mistakes))
                .or(self.identity),
            action: match object.get("action") {
                Some(field) => field.choice(&actions, mistakes).unwrap_or(ActionChoice::Unknown),
                None => self.action,
            },
            tls_clusters: object.get("tls_clusters").map_or(self.tls_clusters, |field| read_clusters(&field, mistakes)),
            plaintext_allowed: object.choice("plaintext", &permission, self.plaintext_allowed, mistakes),
            shared_suffix_allowed: object.choice("shared_suffix", &permission, self.shared_suffix_allowed, mistakes),
            override_headers_allowed: object.choice(
                "override_headers",
                &permission,
                self.override_headers_allowed,
                mistakes,
            ),
            existing_credential: object.choice(
                "existing_credential",
                &[
                    ("keep", ExistingCredential::Keep),
                    ("replace", ExistingCredential::Replace),
                    ("refuse", ExistingCredential::Refuse),
                ],
                self.existing_credential,
                mistakes,
            ),
            header: object.get("header").and_then(|field| read_header(&field, mistakes)).unwrap_or(self.header),
            credentials: self.credentials,
            form: self.form,
            pass_on_failure: object.choice(
                "on_failure",
                &[("refuse", false), ("pass", true)],
                self.pass_on_failure,
                mistakes,
            ),
            warm: object.get("warm").and_then(|field| field.switch(mistakes)).unwrap_or(self.warm),
        }
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
        object: &Object<'_>,
        identities: &[Identity],
        mistakes: &mut Mistakes,
    ) -> DestinationAction {
        let writes_warm = object.get("warm").is_some() && self.warm;
        if writes_warm && matches!(self.action, ActionChoice::Pass | ActionChoice::Refuse) {
            mistakes.add(&object.path_of("warm"), "has no effect, because this action uses no token: remove it");
        }
        match self.action {
            ActionChoice::Pass => return DestinationAction::Pass,
            ActionChoice::Refuse | ActionChoice::Unknown => return DestinationAction::Refuse,
            ActionChoice::Inject | ActionChoice::Report => {}
        }
        if self.scope.is_none() && object.get("scope").is_none() {
            mistakes.add(&object.path_of("scope"), "is missing: write the resource and /.default");
        }
        let owner = match self.identity {
            Some(index) => TokenOwner::Identity(index),
            None if identities.iter().any(|identity| !identity.allowed_callers.is_empty()) => TokenOwner::Caller,
            None => {
                if identities.len() > 1 && object.get("identity").is_none() {
                    let names = identities::names(identities, " or ");
                    mistakes.add(&object.path_of("identity"), format!("is missing: write {names}"));
                }
                TokenOwner::Identity(0)
            }
        };
        let token = Token { scope: self.scope.unwrap_or_default(), owner, warm: self.warm };
        let injection = InjectionConfig {
            tls_clusters: self.tls_clusters,
            plaintext_allowed: self.plaintext_allowed,
            existing_credential: self.existing_credential,
            credentials: self.credentials,
            header: self.header,
            form: self.form,
            pass_on_failure: self.pass_on_failure,
        };
        match self.action {
            ActionChoice::Report => DestinationAction::Report(token, injection),
            _ => DestinationAction::Inject(token, injection),
        }
    }
}

/// Reads the clusters; `{host}` is the only placeholder. An empty list overrides that of `defaults`.
fn read_clusters(field: &Field<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    let texts = field.texts_or_none(mistakes);
    for (path, name) in &texts {
        let placeholders = name.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        for (placeholder, _) in placeholders.filter(|(placeholder, _)| *placeholder != "host") {
            mistakes.add(
                path,
                format!("{name:?} has a placeholder {{{placeholder}}}, and only {{host}} is replaced: write {{host}} or the cluster's name"),
            );
        }
    }
    texts.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Reads a scope: one resource followed by `/.default` (learn.microsoft.com, "OAuth 2.0 client credentials flow").
fn read_scope(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let scope = field.text(mistakes)?;
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
        mistakes.add(&field.path, format!("{scope:?} {mistake}"));
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

fn read_header(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let name = field.text(mistakes)?.to_ascii_lowercase();
    if !is_token(&name) {
        mistakes.add(&field.path, format!("{name:?} is not a valid header: write a header such as \"authorization\""));
    } else if NOT_FOR_TOKENS.contains(&name.as_str()) || name.starts_with("x-envoy-") {
        mistakes.add(
            &field.path,
            format!(
                "{name:?} does not reach the destination unchanged: write \"authorization\" or a header of your own"
            ),
        );
    } else if LOGGED.contains(&name.as_str()) {
        mistakes.add(
            &field.path,
            format!(
                "{name:?} is written to Envoy's default access log or traces, which would reveal the token: write \"authorization\" \
                 or a header of your own"
            ),
        );
    }
    Some(name)
}

/// Whether a text is a valid method or header name (`token` in RFC 9110, section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
