//! Entra without a network: tenants, applications, their federated credentials, resources, faults and counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::faults::{Fault, Pending};
use crate::ids::{guid_of, is_guid};
use crate::keys::SigningKey;

/// Federated credentials that one application can have.
const CREDENTIALS_PER_APP: usize = 20;
/// Characters that issuer, subject and audience can each have.
const LONGEST_FIELD: usize = 600;

/// A federated identity credential: which assertion an application accepts. Compared exactly, case
/// included; there are no wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The tenant, by its GUID; compared without regard to case.
    pub tenant_id: String,
    /// The application (client) id; compared without regard to case.
    pub client_id: String,
    /// `iss` of the assertion, with its trailing slash if it has one.
    pub issuer: String,
    /// `sub` of the assertion.
    pub subject: String,
    /// The only `aud` of the assertion.
    pub audience: String,
}

/// What the token endpoint has done since the start or the last [`Directory::reset`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Token requests that arrived, those hit by a fault included.
    pub token_requests: u64,
    /// Access tokens issued, even if the answer was cut afterwards.
    pub issued: u64,
    /// Refusals by code (`AADSTS700213`), or by status (`HTTP503`) where the answer had no code.
    pub refused: BTreeMap<String, u64>,
    /// Token requests by tenant, client and scope as sent.
    pub by_key: Vec<KeyCount>,
}

/// How many token requests there were for one identity and scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCount {
    /// The tenant in the path, as sent.
    pub tenant_id: String,
    /// The client id, as sent; empty when there was none.
    pub client_id: String,
    /// The scope, as sent; empty when there was none.
    pub scope: String,
    /// Token requests, answered or not.
    pub count: u64,
}

/// Entra without a network. A clone is the same directory.
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

/// What kind of tokens a resource takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `aud` is the resource as it was asked for.
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
    /// An empty directory. The first one of a process makes its signing key, which takes up to a second.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { key: SigningKey::of_entra(), state: Mutex::default() }) }
    }

    /// Makes the signing keys of `issuer` known, as if its discovery document had been fetched.
    /// Replaces the keys it had. `jwks` is the JWKS document (RFC 7517).
    pub fn trust_issuer(&self, issuer: &str, jwks: Value) {
        self.state().issuers.insert(issuer.to_owned(), jwks);
    }

    /// A tenant without applications.
    pub fn register_tenant(&self, tenant_id: &str) {
        self.state().tenants.insert(tenant_id.to_ascii_lowercase());
    }

    /// An application without a credential; registers its tenant too. Keeps what is already there.
    pub fn register_app(&self, tenant_id: &str, client_id: &str) {
        let mut state = self.state();
        state.tenants.insert(tenant_id.to_ascii_lowercase());
        state.apps.entry(app_key(tenant_id, client_id)).or_default();
    }

    /// Adds a federated credential, and its application and tenant if they are new.
    ///
    /// # Errors
    /// What Entra does not let one configure: an empty field, one of more than 600 characters, white
    /// space in the issuer, a 21st credential of one application, or a pair of issuer and subject
    /// that the application already has.
    pub fn register_credential(&self, credential: Credential) -> Result<(), String> {
        check_fields(&credential)?;
        let mut state = self.state();
        let key = app_key(&credential.tenant_id, &credential.client_id);
        let credentials = state.apps.get(&key).map_or(&[][..], Vec::as_slice);
        if credentials.len() >= CREDENTIALS_PER_APP {
            return Err(format!(
                "client_id: the application already has {CREDENTIALS_PER_APP} credentials, the most it can have"
            ));
        }
        if credentials.iter().any(|other| other.issuer == credential.issuer && other.subject == credential.subject) {
            return Err("subject: the application already has a credential with this issuer and subject".to_owned());
        }
        state.tenants.insert(key.0.clone());
        state.apps.entry(key).or_default().push(credential);
        Ok(())
    }

    /// A resource that every tenant knows. `https://…` takes v1 tokens, whose `aud` is the resource
    /// as asked for; `api://…` takes v2 tokens, whose `aud` is a client id: the GUID after `api://`
    /// if there is one, else a GUID that depends only on the name.
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

    /// A resource that takes v2 tokens with this `aud`, whatever its name looks like.
    pub fn register_resource_v2(&self, resource: &str, client_id: &str) {
        let v2 = Resource::V2 { client_id: client_id.to_owned() };
        self.state().resources.insert(without_slash(resource).to_owned(), v2);
    }

    /// Orders faults, after those that are already pending.
    pub fn add_faults(&self, faults: Vec<Fault>) {
        self.state().pending.add(faults);
    }

    /// What the token endpoint has done so far.
    pub fn stats(&self) -> Stats {
        self.state().stats.clone()
    }

    /// Forgets pending faults and counts; applications, credentials and resources stay.
    pub fn reset(&self) {
        let mut state = self.state();
        state.pending.clear();
        state.stats = Stats::default();
    }

    /// The JWKS document with the key that signs the access tokens.
    pub fn jwks(&self) -> Value {
        self.shared.key.jwks()
    }

    /// Whether this is an access token of Entra's, valid at this time. All directories of a process have one key.
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

    /// The credentials of an application; `None` when there is no such application.
    pub(crate) fn credentials(&self, tenant_id: &str, client_id: &str) -> Option<&[Credential]> {
        self.apps.get(&app_key(tenant_id, client_id)).map(Vec::as_slice)
    }

    pub(crate) fn jwks_of(&self, issuer: &str) -> Option<&Value> {
        self.issuers.get(issuer)
    }

    /// A resource by its name, one trailing slash ignored, or by its client id.
    pub(crate) fn resource(&self, asked: &str) -> Option<&Resource> {
        self.resources.get(without_slash(asked)).or_else(|| {
            self.resources
                .values()
                .find(|resource| matches!(resource, Resource::V2 { client_id } if client_id == asked))
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

    pub(crate) fn count_refusal(&mut self, name: String) {
        *self.refused.entry(name).or_default() += 1;
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
        if value.chars().count() > LONGEST_FIELD {
            return Err(format!("{name}: must not have more than {LONGEST_FIELD} characters"));
        }
    }
    if credential.issuer.contains(char::is_whitespace) {
        return Err("issuer: must not contain white space".to_owned());
    }
    Ok(())
}
