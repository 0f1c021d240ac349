//! The state of the fake Entra: tenants, applications, their federated credentials, resources, faults and counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::faults::{Fault, Pending};
use crate::ids::{guid_of, is_guid};
use crate::keys::SigningKey;

/// The maximum number of federated credentials of an application.
const MAX_CREDENTIALS_PER_APP: usize = 20;
/// The maximum length of issuer, subject and audience, in characters.
const MAX_FIELD_LENGTH: usize = 600;

/// A federated identity credential: the assertion that an application accepts. Values are compared exactly and
/// case-sensitively, without wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The tenant id, a GUID; compared case-insensitively.
    pub tenant_id: String,
    /// The application (client) id; compared case-insensitively.
    pub client_id: String,
    /// The `iss` of the assertion, including a trailing slash.
    pub issuer: String,
    /// The `sub` of the assertion.
    pub subject: String,
    /// The only `aud` of the assertion.
    pub audience: String,
}

/// The token endpoint's counters since the start or the last [`Directory::reset`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Token requests received, including those that a fault affected.
    pub token_requests: u64,
    /// Access tokens issued, even when the transport truncated the response.
    pub issued: u64,
    /// Error responses by code (`AADSTS700213`), or by status (`HTTP503`) when the response has no code.
    pub rejected: BTreeMap<String, u64>,
    /// Token requests by tenant, client and scope, as sent.
    pub by_key: Vec<KeyCount>,
}

/// The number of token requests for one identity and scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCount {
    /// The tenant in the path, as sent.
    pub tenant_id: String,
    /// The client id, as sent; empty when the request had none.
    pub client_id: String,
    /// The scope, as sent; empty when the request had none.
    pub scope: String,
    /// The number of token requests.
    pub count: u64,
}

/// The fake Entra without a network. Clones share one state.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

struct Shared {
    key: SigningKey,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    tenants: BTreeSet<String>,
    apps: BTreeMap<AppKey, Vec<Credential>>,
    issuers: BTreeMap<String, Value>,
    resources: BTreeMap<String, Resource>,
    pub(crate) pending: Pending,
    pub(crate) stats: Stats,
}

/// An application in a tenant, both in lower case.
type AppKey = (String, String);

/// The kind of tokens that a resource accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `aud` is the resource as requested.
    V1,
    /// `aud` is the client id of the resource's application.
    V2 { client_id: String },
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Directory {
    /// Creates an empty directory. The first one of a process generates the signing key, which takes up to a second.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { key: SigningKey::of_entra(), state: Mutex::default() }) }
    }

    /// Sets the signing keys of `issuer`, as if its discovery document had been fetched.
    /// Replaces its former keys. `jwks` is the JWKS document (RFC 7517).
    pub fn trust_issuer(&self, issuer: &str, jwks: Value) {
        self.state().issuers.insert(issuer.to_owned(), jwks);
    }

    /// Registers a tenant without applications.
    pub fn register_tenant(&self, tenant_id: &str) {
        self.state().tenants.insert(tenant_id.to_ascii_lowercase());
    }

    /// Registers an application without a credential, and its tenant. Does nothing when the application exists.
    pub fn register_app(&self, tenant_id: &str, client_id: &str) {
        let mut state = self.state();
        state.tenants.insert(tenant_id.to_ascii_lowercase());
        state.apps.entry(app_key(tenant_id, client_id)).or_default();
    }

    /// Adds a federated credential, and its application and tenant if they are new.
    ///
    /// # Errors
    /// Rejects what Entra does not accept either: an empty field, one of more than 600 characters, white
    /// space in the issuer, a 21st credential of an application, or a pair of issuer and subject
    /// that the application already has.
    pub fn register_credential(&self, credential: Credential) -> Result<(), String> {
        check_fields(&credential)?;
        let mut state = self.state();
        let key = app_key(&credential.tenant_id, &credential.client_id);
        let credentials = state.apps.get(&key).map_or(&[][..], Vec::as_slice);
        if credentials.len() >= MAX_CREDENTIALS_PER_APP {
            return Err(format!(
                "client_id: the application already has {MAX_CREDENTIALS_PER_APP} credentials, which is the maximum"
            ));
        }
        if credentials.iter().any(|other| other.issuer == credential.issuer && other.subject == credential.subject) {
            return Err("subject: the application already has a credential with this issuer and subject".to_owned());
        }
        state.tenants.insert(key.0.clone());
        state.apps.entry(key).or_default().push(credential);
        Ok(())
    }

    /// Registers a resource in every tenant. `https://…` accepts v1 tokens, whose `aud` is the resource
    /// as requested. `api://…` accepts v2 tokens, whose `aud` is a client id: the GUID after `api://`
    /// if there is one, otherwise a GUID that depends only on the name.
    pub fn register_resource(&self, resource: &str) {
        match resource.strip_prefix("api://") {
            Some(name) => {
                let client_id = name.split('/').next().filter(|first| is_guid(first)).map(str::to_owned);
                self.register_resource_v2(resource, &client_id.unwrap_or_else(|| guid_of(&["resource", resource])));
            }
            None => {
                self.state().resources.insert(without_slash(resource).to_owned(), Resource::V1);
            }
        }
    }

    /// Registers a resource that accepts v2 tokens with this client id as `aud`, independent of its name.
    pub fn register_resource_v2(&self, resource: &str, client_id: &str) {
        let v2 = Resource::V2 { client_id: client_id.to_owned() };
        self.state().resources.insert(without_slash(resource).to_owned(), v2);
    }

    /// Adds faults after those that are already pending.
    pub fn add_faults(&self, faults: Vec<Fault>) {
        self.state().pending.add(faults);
    }

    /// Returns the token endpoint's counters.
    pub fn stats(&self) -> Stats {
        self.state().stats.clone()
    }

    /// Removes pending faults and resets the counters; keeps applications, credentials and resources.
    pub fn reset(&self) {
        let mut state = self.state();
        state.pending.clear();
        state.stats = Stats::default();
    }

    /// Returns the JWKS document with the key that signs access tokens.
    pub fn jwks(&self) -> Value {
        self.shared.key.jwks()
    }

    /// Whether `token` is an access token of the fake Entra that is valid at `now`. All directories of a process share one key.
    pub fn issued(&self, token: &str, now: SystemTime) -> bool {
        self.key().signed(token, now)
    }

    /// Whether the tenant exists.
    pub(crate) fn has_tenant(&self, tenant_id: &str) -> bool {
        self.state().has_tenant(tenant_id)
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.shared.key
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn has_tenant(&self, tenant_id: &str) -> bool {
        self.tenants.contains(&tenant_id.to_ascii_lowercase())
    }

    /// Returns the credentials of an application; `None` when the application does not exist.
    pub(crate) fn credentials(&self, tenant_id: &str, client_id: &str) -> Option<&[Credential]> {
        self.apps.get(&app_key(tenant_id, client_id)).map(Vec::as_slice)
    }

    pub(crate) fn jwks_of(&self, issuer: &str) -> Option<&Value> {
        self.issuers.get(issuer)
    }

    /// Finds a resource by its name, ignoring one trailing slash, or by its client id.
    pub(crate) fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.get(without_slash(name)).or_else(|| {
            self.resources.values().find(|resource| matches!(resource, Resource::V2 { client_id } if client_id == name))
        })
    }
}

impl Stats {
    pub(crate) fn count_request(&mut self, tenant_id: &str, client_id: &str, scope: &str) {
        self.token_requests += 1;
        let same = |key: &&mut KeyCount| key.tenant_id == tenant_id && key.client_id == client_id && key.scope == scope;
        match self.by_key.iter_mut().find(same) {
            Some(key) => key.count += 1,
            None => self.by_key.push(KeyCount {
                tenant_id: tenant_id.to_owned(),
                client_id: client_id.to_owned(),
                scope: scope.to_owned(),
                count: 1,
            }),
        }
    }

    pub(crate) fn count_rejection(&mut self, name: String) {
        *self.rejected.entry(name).or_default() += 1;
    }
}

fn app_key(tenant_id: &str, client_id: &str) -> AppKey {
    (tenant_id.to_ascii_lowercase(), client_id.to_ascii_lowercase())
}

fn without_slash(resource: &str) -> &str {
    resource.strip_suffix('/').unwrap_or(resource)
}

fn check_fields(credential: &Credential) -> Result<(), String> {
    let fields = [
        ("tenant_id", &credential.tenant_id),
        ("client_id", &credential.client_id),
        ("issuer", &credential.issuer),
        ("subject", &credential.subject),
        ("audience", &credential.audience),
    ];
    for (name, value) in fields {
        if value.is_empty() {
            return Err(format!("{name}: must not be empty"));
        }
        if value.chars().count() > MAX_FIELD_LENGTH {
            return Err(format!("{name}: must not have more than {MAX_FIELD_LENGTH} characters"));
        }
    }
    if credential.issuer.contains(char::is_whitespace) {
        return Err("issuer: must not contain white space".to_owned());
    }
    Ok(())
}
