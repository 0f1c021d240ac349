//! Who gets a token for what: the checks of a token request.

use std::time::SystemTime;

use crate::answer::TokenRequest;
use crate::assertion::Assertion;
use crate::catalogue::Refusal;
use crate::directory::{Credential, Resource, State};
use crate::scope;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Tenant names that stand for no tenant.
const NO_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

/// What is issued: everything in the answer that depends on the request.
pub(crate) struct Grant {
    pub(crate) client_id: String,
    pub(crate) audience: String,
    pub(crate) version: Version,
}

/// Which kind of token, by the resource's own choice.
#[derive(Clone, Copy)]
pub(crate) enum Version {
    V1,
    V2,
}
/// Decides a request: Entra's checks, in its order as far as that is known.
pub(crate) fn grant(state: &State, own_kid: &str, request: &TokenRequest<'_>, form: &Form) -> Result<Grant, Refusal> {
    form.refuse_duplicates()?;
    let grant_type = form.required("grant_type")?;
    if grant_type != "client_credentials" {
        return Err(Refusal::new(70003, format!("The app requested an unsupported grant type '{grant_type}'.")));
    }
    let client_id = form.required("client_id")?;
    if form.get("resource").is_some() {
        return Err(Refusal::from_code(901002));
    }
    let asked = scope::resource(form.required("scope")?)?;
    let credentials = application(state, request.tenant_id, client_id)?;
    authenticate(state, own_kid, request.now, form, client_id, credentials)?;
    let (audience, version) = match state.resource(asked) {
        Some(Resource::V1) => (asked.to_owned(), Version::V1),
        Some(Resource::V2 { client_id }) => (client_id.clone(), Version::V2),
        None => {
            return Err(Refusal::new(
                500011,
                format!(
                    "The resource principal named {asked} was not found in the tenant named {}. This can happen if \
                     the application has not been installed by the administrator of the tenant or consented to by \
                     any user in the tenant. You might have sent your authentication request to the wrong tenant.",
                    request.tenant_id
                ),
            ));
        }
    };
    Ok(Grant { client_id: client_id.to_owned(), audience, version })
}

fn application<'a>(state: &'a State, tenant_id: &str, client_id: &str) -> Result<&'a [Credential], Refusal> {
    if NO_TENANTS.contains(&tenant_id) {
        return Err(Refusal::from_code(9001023));
    }
    if !state.has_tenant(tenant_id) {
        return Err(tenant_not_found(tenant_id));
    }
    state.credentials(tenant_id, client_id).ok_or_else(|| {
        Refusal::new(
            700016,
            format!(
                "Application with identifier '{client_id}' was not found in the directory '{tenant_id}'. This can \
                 happen if the application has not been installed by the administrator of the tenant or consented to \
                 by any user in the tenant. You may have sent your authentication request to the wrong tenant."
            ),
        )
    })
}

/// AADSTS90002 for this tenant.
pub(crate) fn tenant_not_found(tenant_id: &str) -> Refusal {
    Refusal::new(
        90002,
        format!(
            "Tenant '{tenant_id}' not found. Check to make sure you have the correct tenant ID and are signing into \
             the correct cloud. Check with your subscription administrator, this may happen if there are no active \
             subscriptions for the tenant."
        ),
    )
}

/// Checks the assertion: its form, then whether a credential matches, then signature and time.
fn authenticate(
    state: &State,
    own_kid: &str,
    now: SystemTime,
    form: &Form,
    client_id: &str,
    credentials: &[Credential],
) -> Result<(), Refusal> {
    let Some(assertion) = form.get("client_assertion") else {
        let code = if form.get("client_secret").is_some() { 7000215 } else { 7000218 };
        return Err(Refusal::from_code(code));
    };
    if form.required("client_assertion_type")? != JWT_BEARER {
        return Err(Refusal::from_code(90011));
    }
    let assertion = Assertion::read(assertion)?;
    if assertion.is_from_entra() || assertion.kid == own_kid {
        return Err(Refusal::from_code(700222));
    }
    match_credential(&assertion, client_id, credentials)?;
    let jwks = state.jwks_of(&assertion.issuer).ok_or_else(|| Refusal::from_code(50166))?;
    assertion.verify_signature(jwks)?;
    assertion.verify_time(now)
}

/// Issuer, audience, subject: the first that no credential has is the one that is named.
fn match_credential(assertion: &Assertion<'_>, client_id: &str, credentials: &[Credential]) -> Result<(), Refusal> {
    if credentials.is_empty() {
        return Err(Refusal::new(
            70025,
            format!("The client '{client_id}' has no configured federated identity credentials."),
        ));
    }
    let mut candidates: Vec<&Credential> =
        credentials.iter().filter(|credential| credential.issuer == assertion.issuer).collect();
    if candidates.is_empty() {
        return Err(no_match(700211, "issuer", &assertion.issuer, ""));
    }
    let [audience] = assertion.audiences.as_slice() else {
        return Err(no_match(700212, "audience", &assertion.audiences.join(", "), ""));
    };
    candidates.retain(|credential| credential.audience == *audience);
    if candidates.is_empty() {
        return Err(no_match(700212, "audience", audience, ""));
    }
    if candidates.iter().any(|credential| credential.subject == assertion.subject) {
        return Ok(());
    }
    let in_other_case =
        |credential: &&Credential| credential.subject.to_lowercase() == assertion.subject.to_lowercase();
    if candidates.iter().any(in_other_case) {
        let case = " The subject matches with case-insensitive comparison, but not with case-sensitive comparison.";
        return Err(no_match(7002138, "subject", &assertion.subject, case));
    }
    Err(no_match(700213, "subject", &assertion.subject, ""))
}

fn no_match(code: u32, claim: &str, value: &str, more: &str) -> Refusal {
    Refusal::new(
        code,
        format!(
            "No matching federated identity record found for presented assertion {claim} '{value}'.{more} Please check \
             your federated identity credential Subject, Audience and Issuer against the presented assertion. \
             https://docs.microsoft.com/azure/active-directory/develop/workload-identity-federation"
        ),
    )
}

/// The parameters of the body. An empty value is as good as none.
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal::new(900144, format!("The request body must contain the following parameter: '{name}'."))
        })
    }

    fn refuse_duplicates(&self) -> Result<(), Refusal> {
        let duplicate = self
            .0
            .iter()
            .enumerate()
            .find(|(index, (name, _))| self.0.iter().take(*index).any(|(earlier, _)| earlier == name));
        match duplicate {
            None => Ok(()),
            Some((_, (name, _))) => Err(Refusal::new(
                9000411,
                format!("The request is not properly formatted. The parameter '{name}' is duplicated."),
            )),
        }
    }
}
