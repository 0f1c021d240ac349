//! Reads how the requests of a destination are handled: the fields that `defaults` may set for all destinations.

use super::azure_service::AzureService;
use super::fields::fields;
use super::identities;
use super::object::{Field, Object};
use super::reader::Mistakes;
use super::settings::{SettingFields, Settings};
use super::shapes::{Choice, Text, Words};
use super::types::{DestinationAction, Identity, InjectionConfig, Token, TokenOwner};
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
