//! `aadsts`: the error codes of Microsoft Entra that client-credentials exchanges with a federated token meet.
//!
//! Retry class and remedy are those of the core's catalogue, with which the filter decides. Further codes belong to the neighbours
//! of these flows: on-behalf-of, wrong endpoints, consent, tenant policies (learn.microsoft.com, "Microsoft Entra authentication and
//! authorization error codes").

use entra_exchange_core::entra::{CatalogueEntry, catalogue};
use serde::Serialize;

/// What is known of an AADSTS code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The code, without `AADSTS`.
    pub code: u32,
    /// What it means.
    pub cause: &'static str,
    /// An instruction.
    pub remedy: &'static str,
    /// How the filter handles it: the class in its logs and metrics. `None` for a code that the filter classifies by the status of
    /// the response.
    pub class: Option<&'static str>,
    /// Whether a pod with this answer is not ready.
    pub makes_unready: bool,
}

impl Explanation {
    /// Microsoft's page for the code.
    pub fn link(&self) -> String {
        link(self.code)
    }
}

/// Microsoft's page for a code.
pub fn link(code: u32) -> String {
    format!("https://login.microsoftonline.com/error?code={code}")
}

/// What is known of a code.
pub fn explain(code: u32) -> Option<Explanation> {
    let (_, cause) = CAUSES.iter().find(|(other, _)| *other == code)?;
    let base = catalogue().find(|entry| entry.code == code);
    let own = FURTHER.iter().find(|(other, _)| *other == code).map(|(_, remedy)| *remedy);
    let remedy = base.map(|entry| entry.remedy).or(own)?;
    let makes_unready = base.is_some_and(|entry| entry.refuses_credential);
    Some(Explanation { code, cause, remedy, class: base.map(|CatalogueEntry { class, .. }| class), makes_unready })
}

/// All codes that are explained, in ascending order.
pub fn all() -> Vec<Explanation> {
    let mut codes: Vec<u32> = CAUSES.iter().map(|(code, _)| *code).collect();
    codes.sort_unstable();
    codes.into_iter().filter_map(explain).collect()
}

/// The codes in a text: a number, `AADSTS700213`, or an error of Entra with several of them.
pub fn codes_in(text: &str) -> Vec<u32> {
    const PREFIX: &str = "AADSTS";
    let digits = |text: &str| -> Option<u32> {
        let end = text.find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len());
        text.get(..end)?.parse().ok()
    };
    let text = text.trim();
    if let Ok(code) = text.parse() {
        return vec![code];
    }
    let upper = text.to_ascii_uppercase();
    let found =
        upper.match_indices(PREFIX).filter_map(|(offset, _)| digits(upper.get(offset.saturating_add(PREFIX.len())..)?));
    let mut codes = Vec::new();
    for code in found {
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    codes
}

/// The meaning of each code.
const CAUSES: &[(u32, &str)] = &[
    (28002, "The scope is not valid."),
    (50000, "Entra's sign-in service could not issue the token."),
    (50001, "The resource does not exist or is disabled."),
    (50002, "A proxy's tenant restriction does not admit the tenant."),
    (50012, "The certificate or signature of a client assertion is not accepted."),
    (50013, "The assertion is not valid: its issuer, its times or its form."),
    (50027, "The federated token is not a valid JWT."),
    (50033, "Entra had a transient error."),
    (50048, "The subject of a client assertion that the client signed itself is not its issuer."),
    (50049, "The instance of Entra in the request is unknown."),
    (50059, "The request names no tenant."),
    (50087, "Entra had a transient error."),
    (50105, "The resource requires an assignment, and the client has none."),
    (50166, "Entra's request to the issuer of the federated token failed."),
    (50194, "The application is for one tenant only, and the request went to /common."),
    (50196, "The client sent the same request too often in a short time."),
    (51000, "A feature that the request needs is disabled in the tenant."),
    (53003, "A Conditional Access policy blocks the exchange."),
    (65001, "The client has no consent for a permission of the resource."),
    (65005, "The client asks for a resource that its registration does not list."),
    (70001, "The application is disabled, or unknown in this tenant."),
    (70002, "The client secret does not match."),
    (70003, "The grant type is not supported."),
    (70011, "The scope is not valid."),
    (70021, "No federated credential of the client matches the federated token."),
    (70025, "The client has no federated credential."),
    (90002, "The tenant does not exist in this cloud."),
    (90006, "Entra is temporarily unavailable."),
    (90009, "The application requests a token for itself by a name that is not its client id."),
    (90012, "Entra did not answer in time."),
    (90014, "A required field is missing in the credential or request."),
    (90019, "Entra cannot tell the tenant from the request."),
    (90023, "The request is not valid."),
    (90024, "Entra had a transient error."),
    (90033, "Entra's directory service is not available."),
    (90036, "Entra's directory service failed, and a retry does not help."),
    (90038, "The tenant belongs to another cloud."),
    (90051, "The identifier of a national cloud is not valid."),
    (90055, "Entra throttles the tenant."),
    (90061, "Entra's request to the issuer of the federated token failed."),
    (90090, "Entra is temporarily unavailable."),
    (90094, "An administrator's consent is required."),
    (90100, "A parameter of the request is empty or not valid."),
    (500011, "The tenant has no service principal of the resource."),
    (500014, "The service principal of the resource is disabled."),
    (500021, "A tenant restriction of the network denies access to the tenant."),
    (500022, "A tenant restriction of the network denies access to the tenant."),
    (500133, "The assertion is not within its times of validity."),
    (501051, "The resource requires an assignment, and the client has none."),
    (501661, "Entra's request to the issuer of the federated token failed."),
    (530032, "A security policy of the tenant blocks the exchange."),
    (650052, "The organization has not subscribed to the service, or not enabled it."),
    (650054, "The resource was removed or is no longer available."),
    (650056, "The client's registration is incomplete: permissions, consent or identifier."),
    (650057, "The client asks for a resource that its registration does not list."),
    (700011, "The tenant has no such application."),
    (700016, "The tenant has no application or managed identity with this client id."),
    (700022, "The scope names more than one resource."),
    (700023, "The scope names no resource."),
    (700024, "The federated token is not within its times of validity."),
    (700025, "The application is a public client, which may not present a credential."),
    (700027, "The signature of the federated token could not be verified."),
    (700030, "The certificate's subject name is not authorized."),
    (700211, "No federated credential of the client has the token's issuer."),
    (700212, "No federated credential of the client has the token's audience."),
    (700213, "No federated credential of the client has the token's subject."),
    (700222, "The federated token was issued by Entra itself."),
    (700229, "The federated token is a user's, not an application's."),
    (700238, "A policy of the tenant does not allow the federated credential."),
    (900144, "The request body lacks a parameter."),
    (900382, "The client and the resource are in different clouds."),
    (900384, "The signature of the federated token could not be verified."),
    (900432, "The client and the resource are in different clouds."),
    (900561, "The endpoint accepts POST only."),
    (901002, "The v2.0 endpoint does not accept the parameter resource."),
    (1000031, "The application cannot be accessed at this time."),
    (1000104, "The tenant of the identity does not allow resources of the other cloud."),
    (1002012, "The scope does not end in /.default."),
    (5002730, "The algorithm of the federated token is not supported."),
    (7000112, "The application is disabled."),
    (7000114, "The application may not make on-behalf-of requests."),
    (7000215, "The client secret is not valid."),
    (7000218, "The request has neither a client assertion nor a client secret."),
    (7000222, "The client secret has expired."),
    (7000229, "The client has no service principal in the tenant."),
    (7000272, "The issuer's key set does not contain the key that signed the federated token."),
    (7002138, "A federated credential differs from the token only in upper and lower case."),
    (9001023, "The grant is not supported over /common or /consumers."),
    (9002313, "The request is malformed."),
];

const PROXY: &str = "Check what is between Envoy and Entra: the filter sends this request in the documented form, so another server changed it.";
const PERMISSIONS: &str = "Add the resource's application permissions to the client's registration, and have an administrator consent to them.";
const RESTRICTION: &str = "Have the network's administrator add the tenant to the header Restrict-Access-To-Tenants that the proxy sets, or route the token endpoint past the proxy.";
const ASSERTION_OF_USER: &str = "Request a new access token for the user, and check that its audience is the client that exchanges it (on-behalf-of).";

/// The remedies of codes that the core's catalogue does not have.
const FURTHER: &[(u32, &str)] = &[
    (50000, "Check Azure's status page, and open a support request with trace id and correlation id."),
    (50002, RESTRICTION),
    (
        50012,
        "Check what is between Envoy and Entra, and the certificate of the client: the filter sends no certificate.",
    ),
    (50013, ASSERTION_OF_USER),
    (50048, "Use a federated credential: the filter sends the issuer's token, whose subject is not its issuer."),
    (50049, "Set entra.authority (or AZURE_AUTHORITY_HOST) to the authority of the tenant's cloud."),
    (50059, "Set tenant_id (or AZURE_TENANT_ID) to the id of the tenant."),
    (50194, "Set tenant_id (or AZURE_TENANT_ID) to the id of the tenant, not to common."),
    (51000, "Ask the tenant's administrator which feature is disabled: the error's text names it."),
    (65005, PERMISSIONS),
    (70001, "Check the client id (AZURE_CLIENT_ID) and the tenant, and enable the application's service principal."),
    (
        70002,
        "Check what is between the filter and Entra: Entra received a client secret, which this filter never sends.",
    ),
    (70003, PROXY),
    (90009, "Request the token with the client id as the resource: <client id>/.default."),
    (90014, PROXY),
    (90019, "Set tenant_id (or AZURE_TENANT_ID) to the id of the tenant."),
    (90023, PROXY),
    (90036, "Open a support request with trace id and correlation id."),
    (90051, "Set entra.authority (or AZURE_AUTHORITY_HOST) to the authority of the tenant's cloud."),
    (90094, "Have an administrator of the tenant consent to the application's permissions."),
    (90100, PROXY),
    (500021, RESTRICTION),
    (500022, RESTRICTION),
    (500133, ASSERTION_OF_USER),
    (
        650052,
        "Subscribe to the service, or create its service principal in the tenant (az ad sp create --id <resource's application id>).",
    ),
    (650054, "Correct the scope, and remove permissions of the removed resource from the client's registration."),
    (650056, PERMISSIONS),
    (650057, PERMISSIONS),
    (700011, "Correct the client id (AZURE_CLIENT_ID) or the tenant: this tenant has no such application."),
    (900144, PROXY),
    (900561, PROXY),
    (901002, PROXY),
    (1000031, "Ask the tenant's administrator why the application is blocked."),
    (1000104, "Ask the administrators of both tenants to allow the other cloud in their cross-tenant access settings."),
    (7000114, "Use an application that was created for this purpose: Entra excludes this one from on-behalf-of."),
    (9002313, PROXY),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_core_is_explained_and_every_explanation_is_complete() {
        assert!(CAUSES.len() >= 60);
        assert!(CAUSES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(FURTHER.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for entry in catalogue() {
            assert!(explain(entry.code).is_some(), "{}", entry.code);
            assert!(FURTHER.iter().all(|(code, _)| *code != entry.code), "{}", entry.code);
        }
        assert_eq!(all().len(), CAUSES.len());
        for Explanation { code, cause, remedy, .. } in all() {
            assert!(cause.ends_with('.') && remedy.ends_with('.'), "{code}");
        }
    }

    #[test]
    fn codes_are_found_in_a_number_and_in_a_text() {
        assert_eq!(codes_in(" 700213\n"), [700_213]);
        assert_eq!(codes_in("aadsts70021: no match (AADSTS700213), AADSTS70021"), [70_021, 700_213]);
        assert!(codes_in("AADSTS: none, AADSTSx").is_empty());
    }
}
