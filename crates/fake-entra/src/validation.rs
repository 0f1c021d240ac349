//! The checks of a token request.

use std::time::SystemTime;

use crate::assertion::Assertion;
use crate::catalogue::EntraError;
use crate::directory::{Credential, Resource, State};
use crate::http::TokenRequest;
use crate::scope;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Names that are valid in the place of a tenant but do not denote one.
const MULTI_TENANT_NAMES: [&str; 3] = ["common", "organizations", "consumers"];

/// The audience of federated credentials, and the GUID of the application that has it.
const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";
const EXCHANGE_APPLICATION: &str = "fb60f99c-7a34-4190-8149-302f77469936";

/// A request that passed all checks: the claims of the access token that depend on the request.
pub(crate) struct ValidRequest {
    pub(crate) client_id: String,
    pub(crate) audience: String,
    pub(crate) version: Version,
}

/// The version of the access token, which the resource decides.
#[derive(Clone, Copy)]
pub(crate) enum Version {
    V1,
    V2,
}

/// Validates a request with Entra's checks, in Entra's order as far as it is known.
pub(crate) fn validate(
    state: &State,
    own_kid: &str,
    request: &TokenRequest<'_>,
    form: &Form,
) -> Result<ValidRequest, EntraError> {
    form.reject_duplicates()?;
    let grant_type = form.required("grant_type")?;
    if grant_type != "client_credentials" {
        return Err(EntraError::new(70003, format!("The app requested an unsupported grant type '{grant_type}'.")));
    }
    let client_id = form.required("client_id")?;
    if form.get("resource").is_some() {
        return Err(EntraError::from_code(901002));
    }
    let resource = scope::resource(form.required("scope")?)?;
    let credentials = application(state, request.tenant_id, client_id)?;
    authenticate(state, own_kid, request.now, form, client_id, credentials)?;
    let (audience, version) = match state.resource(resource) {
        Some(Resource::V1) => (resource.to_owned(), Version::V1),
        Some(Resource::V2 { client_id }) => (client_id.clone(), Version::V2),
        None => {
            return Err(EntraError::new(
                500011,
                format!(
                    "The resource principal named {resource} was not found in the tenant named {}. This can happen if \
                     the application has not been installed by the administrator of the tenant or consented to by \
                     any user in the tenant. You might have sent your authentication request to the wrong tenant.",
                    request.tenant_id
                ),
            ));
        }
    };
    Ok(ValidRequest { client_id: client_id.to_owned(), audience, version })
}

fn application<'a>(state: &'a State, tenant_id: &str, client_id: &str) -> Result<&'a [Credential], EntraError> {
    if MULTI_TENANT_NAMES.contains(&tenant_id) {
        return Err(EntraError::from_code(9001023));
    }
    if !state.has_tenant(tenant_id) {
        return Err(tenant_not_found(tenant_id));
    }
    state.credentials(tenant_id, client_id).ok_or_else(|| {
        EntraError::new(
            700016,
            format!(
                "Application with identifier '{client_id}' was not found in the directory '{tenant_id}'. This can \
                 happen if the application has not been installed by the administrator of the tenant or consented to \
                 by any user in the tenant. You may have sent your authentication request to the wrong tenant."
            ),
        )
    })
}

/// Creates AADSTS90002 for this tenant.
pub(crate) fn tenant_not_found(tenant_id: &str) -> EntraError {
    EntraError::new(
        90002,
        format!(
            "Tenant '{tenant_id}' not found. Check to make sure you have the correct tenant ID and are signing into \
             the correct cloud. Check with your subscription administrator, this may happen if there are no active \
             subscriptions for the tenant."
        ),
    )
}

/// Checks the assertion: first its format, then the matching credential, then its signature and times.
fn authenticate(
    state: &State,
    own_kid: &str,
    now: SystemTime,
    form: &Form,
    client_id: &str,
    credentials: &[Credential],
) -> Result<(), EntraError> {
    let Some(assertion) = form.get("client_assertion") else {
        let code = if form.get("client_secret").is_some() { 7000215 } else { 7000218 };
        return Err(EntraError::from_code(code));
    };
    if form.required("client_assertion_type")? != JWT_BEARER {
        return Err(EntraError::from_code(90011));
    }
    let assertion = Assertion::parse(assertion)?;
    if assertion.kid == own_kid || (assertion.is_from_entra() && !assertion.is_of_exchange()) {
        return Err(EntraError::from_code(700222));
    }
    match_credential(&assertion, client_id, credentials)?;
    let jwks = state.jwks_of(&assertion.issuer).ok_or_else(|| EntraError::from_code(50166))?;
    assertion.verify_signature(jwks)?;
    assertion.verify_time(now)
}

/// Matches issuer, audience and subject in this order. The error names the first one that no credential has.
fn match_credential(assertion: &Assertion<'_>, client_id: &str, credentials: &[Credential]) -> Result<(), EntraError> {
    if credentials.is_empty() {
        return Err(EntraError::new(
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
    // The tokens that Entra itself makes for a federated credential name its audience by the GUID of the application.
    let audience = match audience.as_str() {
        EXCHANGE_APPLICATION if assertion.is_from_entra() => EXCHANGE_AUDIENCE,
        other => other,
    };
    candidates.retain(|credential| credential.audience == audience);
    if candidates.is_empty() {
        return Err(no_match(700212, "audience", audience, ""));
    }
    if candidates.iter().any(|credential| credential.subject == assertion.subject) {
        return Ok(());
    }
    let differs_in_case =
        |credential: &&Credential| credential.subject.to_lowercase() == assertion.subject.to_lowercase();
    if candidates.iter().any(differs_in_case) {
        let case = " The subject matches with case-insensitive comparison, but not with case-sensitive comparison.";
        return Err(no_match(7002138, "subject", &assertion.subject, case));
    }
    Err(no_match(700213, "subject", &assertion.subject, ""))
}

fn no_match(code: u32, claim: &str, value: &str, more: &str) -> EntraError {
    EntraError::new(
        code,
        format!(
            "No matching federated identity record found for presented assertion {claim} '{value}'.{more} Please check \
             your federated identity credential Subject, Audience and Issuer against the presented assertion. \
             https://docs.microsoft.com/azure/active-directory/develop/workload-identity-federation"
        ),
    )
}

/// The parameters of the body. An empty value counts as missing.
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    fn required(&self, name: &str) -> Result<&str, EntraError> {
        self.get(name).ok_or_else(|| {
            EntraError::new(900144, format!("The request body must contain the following parameter: '{name}'."))
        })
    }

    fn reject_duplicates(&self) -> Result<(), EntraError> {
        let duplicate = self
            .0
            .iter()
            .enumerate()
            .find(|(index, (name, _))| self.0.iter().take(*index).any(|(earlier, _)| earlier == name));
        match duplicate {
            None => Ok(()),
            Some((_, (name, _))) => Err(EntraError::new(
                9000411,
                format!("The request is not properly formatted. The parameter '{name}' is duplicated."),
            )),
        }
    }
}
