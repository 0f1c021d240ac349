//! The catalogue of Entra's AADSTS error codes: the retry class of each, and a remedy.
//!
//! Sources: learn.microsoft.com, "Microsoft Entra authentication and authorization error codes" and "Workload identity
//! federation: troubleshooting". Microsoft advises clients not to rely on the codes alone: a code that is not listed here
//! is classified by HTTP status and `error`.

use serde::{Deserialize, Serialize};

/// The retry class of a failed exchange: what it takes for another exchange to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RetryClass {
    /// One immediate retry. Entra occasionally returns such an error for a correct credential, and always does in the first
    /// minutes of a new one.
    Immediate,
    /// One retry with an assertion that is read again.
    StaleAssertion,
    /// Time: the failure is transient.
    Transient,
    /// Time: Entra throttles the client or the tenant, so every exchange of the identity backs off.
    Throttled,
    /// A change by an operator or administrator.
    NeedsChange,
}

impl RetryClass {
    /// Whether the failure can end without a change by an operator or administrator.
    pub(crate) const fn is_transient(self) -> bool {
        matches!(self, Self::Transient | Self::Throttled)
    }

    /// The class to report for an exchange that failed: an error that an immediate retry did not cure needs a change.
    pub(crate) const fn after_retry(self) -> Self {
        match self {
            Self::Immediate | Self::StaleAssertion => Self::NeedsChange,
            final_class => final_class,
        }
    }

    /// The value of `class` in metrics, logs and the status page.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "retry_once",
            Self::StaleAssertion => "stale_assertion",
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::NeedsChange => "needs_change",
        }
    }
}

/// One row of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The code, without `AADSTS`.
    pub(crate) code: u32,
    /// The retry class.
    pub(crate) retry_class: RetryClass,
    /// An instruction for the operator.
    pub(crate) remedy: &'static str,
}

use RetryClass::{Immediate, NeedsChange, StaleAssertion, Throttled, Transient};

const SERVICE_TROUBLE: &str = "Wait: Entra reports a failure of its own, and the exchange is retried automatically. If it persists, check Azure's status page.";
const WRONG_AUTHORITY: &str = "Set entra.authority (or AZURE_AUTHORITY_HOST) to the authority of the tenant's cloud.";
const ISSUER_UNREACHABLE: &str = "Check that the issuer's /.well-known/openid-configuration and JWKS are publicly reachable: Entra could not fetch the issuer's keys.";
const WRONG_KEY: &str = "Publish the key that signs the token in the issuer's JWKS. After a key rotation, Entra may need minutes to see it.";
const ONE_RESOURCE: &str = "Set the scope to one resource and /.default, such as https://vault.azure.net/.default.";
const NO_SUCH_RESOURCE: &str = "Check that the scope names the resource exactly as Azure does, and that it exists in the tenant (for your own API: its application ID URI, with a service principal).";
const SECRET_NOT_ASSERTION: &str =
    "Check what is between the filter and Entra: Entra received a client secret, which this filter never sends.";
const NOT_ASSIGNED: &str = "Assign the client an app role of the resource, or disable \"Assignment required\" in the resource's enterprise application.";
const CONDITIONAL_ACCESS: &str =
    "Look up the trace id in the sign-in log: a Conditional Access policy for workload identities blocks the exchange.";

/// The rows in ascending order of their codes, each code once.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { code: 28002, retry_class: NeedsChange, remedy: ONE_RESOURCE },
    Row { code: 50001, retry_class: NeedsChange, remedy: NO_SUCH_RESOURCE },
    Row { code: 50027, retry_class: NeedsChange, remedy: "Check the content of the token file: the federated token is malformed." },
    Row { code: 50033, retry_class: Transient, remedy: SERVICE_TROUBLE },
    Row { code: 50087, retry_class: Transient, remedy: SERVICE_TROUBLE },
    Row { code: 50105, retry_class: NeedsChange, remedy: NOT_ASSIGNED },
    Row { code: 50166, retry_class: Transient, remedy: ISSUER_UNREACHABLE },
    Row { code: 50196, retry_class: Throttled, remedy: "Check which other workloads use this client id: Entra received too many requests from this client." },
    Row { code: 53003, retry_class: NeedsChange, remedy: CONDITIONAL_ACCESS },
    Row { code: 65001, retry_class: NeedsChange, remedy: "Grant the application permissions that this resource needs, and admin consent to them." },
    Row { code: 70011, retry_class: NeedsChange, remedy: ONE_RESOURCE },
    Row { code: 70021, retry_class: Immediate, remedy: "Check that issuer, subject and audience of the federated credential are exactly those of the token. A new credential takes minutes to become effective." },
    Row { code: 70025, retry_class: NeedsChange, remedy: "Create a federated credential for this client." },
    Row { code: 90002, retry_class: NeedsChange, remedy: "Correct the tenant id (AZURE_TENANT_ID), and check that the authority is that of the tenant's cloud." },
    Row { code: 90006, retry_class: Transient, remedy: SERVICE_TROUBLE },
    Row { code: 90012, retry_class: Transient, remedy: SERVICE_TROUBLE },
    Row { code: 90024, retry_class: Transient, remedy: SERVICE_TROUBLE },
    Row { code: 90033, retry_class: Transient, remedy: SERVICE_TROUBLE },
    Row { code: 90038, retry_class: NeedsChange, remedy: WRONG_AUTHORITY },
    Row { code: 90055, retry_class: Throttled, remedy: "Check which clients send many token requests: Entra throttles the tenant." },
    Row { code: 90061, retry_class: Transient, remedy: ISSUER_UNREACHABLE },
    Row { code: 90090, retry_class: Transient, remedy: SERVICE_TROUBLE },
    Row { code: 500011, retry_class: NeedsChange, remedy: NO_SUCH_RESOURCE },
    Row { code: 500014, retry_class: NeedsChange, remedy: "Enable the resource's service principal in the tenant: it is disabled, or its subscription has expired." },
    Row { code: 501051, retry_class: NeedsChange, remedy: NOT_ASSIGNED },
    Row { code: 501661, retry_class: Transient, remedy: ISSUER_UNREACHABLE },
    Row { code: 530032, retry_class: NeedsChange, remedy: CONDITIONAL_ACCESS },
    Row { code: 700016, retry_class: NeedsChange, remedy: "Correct the client id (AZURE_CLIENT_ID) or the tenant: this tenant has no such application or managed identity." },
    Row { code: 700022, retry_class: NeedsChange, remedy: ONE_RESOURCE },
    Row { code: 700023, retry_class: NeedsChange, remedy: ONE_RESOURCE },
    Row { code: 700024, retry_class: StaleAssertion, remedy: "Check the node's clock, and that Envoy watches the folder that contains ..data: the token that it serves is not valid at this time." },
    Row { code: 700025, retry_class: NeedsChange, remedy: "Change the application to a confidential client: it is a public client." },
    Row { code: 700027, retry_class: NeedsChange, remedy: WRONG_KEY },
    Row { code: 700030, retry_class: NeedsChange, remedy: "Check what is between the filter and Entra: Entra received a certificate, which this filter never sends." },
    Row { code: 700211, retry_class: Immediate, remedy: "Set the federated credential's issuer to exactly the token's issuer (a trailing slash counts). A new credential takes minutes to become effective." },
    Row { code: 700212, retry_class: Immediate, remedy: "Set the federated credential's audience to that of the token, or project the token with the credential's audience (api://AzureADTokenExchange by default)." },
    Row { code: 700213, retry_class: Immediate, remedy: "Set the federated credential's subject to that of the token (on Kubernetes system:serviceaccount:<namespace>:<service account>). A new credential takes minutes to become effective." },
    Row { code: 700222, retry_class: NeedsChange, remedy: "Use a token of the cluster or of another issuer: Entra does not accept a token that it issued itself as an assertion." },
    Row { code: 700229, retry_class: NeedsChange, remedy: "Use a token of a workload: Entra accepts only app-only tokens as an assertion." },
    Row { code: 700238, retry_class: NeedsChange, remedy: "Ask the tenant's administrator to allow this federated credential: a policy of the tenant blocks it." },
    Row { code: 900382, retry_class: NeedsChange, remedy: WRONG_AUTHORITY },
    Row { code: 900384, retry_class: NeedsChange, remedy: WRONG_KEY },
    Row { code: 900432, retry_class: NeedsChange, remedy: WRONG_AUTHORITY },
    Row { code: 1002012, retry_class: NeedsChange, remedy: ONE_RESOURCE },
    Row { code: 5002730, retry_class: NeedsChange, remedy: "Configure the issuer to sign with RS256." },
    Row { code: 7000112, retry_class: NeedsChange, remedy: "Enable the application's service principal: the application is disabled." },
    Row { code: 7000215, retry_class: NeedsChange, remedy: SECRET_NOT_ASSERTION },
    Row { code: 7000218, retry_class: NeedsChange, remedy: SECRET_NOT_ASSERTION },
    Row { code: 7000222, retry_class: NeedsChange, remedy: SECRET_NOT_ASSERTION },
    Row { code: 7000229, retry_class: NeedsChange, remedy: "Create the client's service principal in this tenant (az ad sp create --id <client id>), or correct the tenant id." },
    Row { code: 7000272, retry_class: NeedsChange, remedy: WRONG_KEY },
    Row { code: 7002138, retry_class: NeedsChange, remedy: "Set issuer, subject and audience of the federated credential in exactly the token's case: only the case differs." },
    Row { code: 9001023, retry_class: NeedsChange, remedy: "Set the tenant to its id, not to common or organizations." },
];

/// The codes with which Entra refuses the credential, regardless of the resource: the client, its federated credential, the
/// federated token or the tenant is not valid. They are in ascending order, and each has a row above.
///
/// A pod whose credential is refused is not ready ([`crate::broker::Readiness`]). Other codes never make a pod unready,
/// such as those for a resource that does not exist (500011), a Conditional Access policy that may depend on the resource
/// (53003), or an outage.
const CREDENTIAL: &[u32] = &[
    50027, 70021, 70025, 90002, 90038, 700016, 700024, 700025, 700027, 700030, 700211, 700212, 700213, 700222, 700229,
    700238, 900382, 900384, 900432, 5002730, 7000112, 7000215, 7000218, 7000222, 7000229, 7000272, 7002138, 9001023,
];

/// Whether Entra refuses the credential with this code, regardless of the resource.
pub(crate) fn is_of_credential(code: u32) -> bool {
    CREDENTIAL.binary_search(&code).is_ok()
}

/// The row of a code, if there is one.
pub(crate) fn row(code: u32) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&code, |row| row.code).ok().and_then(|index| ROWS.get(index))
}

/// What the catalogue says of an AADSTS code, for tools that explain errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The code, without `AADSTS`.
    pub code: u32,
    /// The retry class, as in logs and metrics.
    pub class: &'static str,
    /// Whether Entra refuses the credential regardless of the resource, so that a pod is not ready.
    pub refuses_credential: bool,
    /// An instruction for the operator.
    pub remedy: &'static str,
}

/// All entries of the catalogue, in ascending order of their codes.
pub fn catalogue() -> impl Iterator<Item = CatalogueEntry> {
    ROWS.iter().map(|row| CatalogueEntry {
        code: row.code,
        class: row.retry_class.as_str(),
        refuses_credential: is_of_credential(row.code),
        remedy: row.remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_unique_and_in_order_and_each_has_a_remedy() {
        assert!(ROWS.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(ROWS.iter().all(|row| row.remedy.ends_with('.')));
        for entry in ROWS {
            assert_eq!(row(entry.code), Some(entry));
        }
        assert_eq!(row(1), None);
        let codes: Vec<u32> = catalogue().map(|entry| entry.code).collect();
        assert_eq!(codes, ROWS.iter().map(|row| row.code).collect::<Vec<_>>());
    }

    #[test]
    fn a_code_that_refuses_the_credential_has_a_row_and_is_not_transient() {
        assert!(CREDENTIAL.windows(2).all(|pair| pair[0] < pair[1]));
        for code in CREDENTIAL {
            let row = row(*code).unwrap_or_else(|| panic!("{code} has no row"));
            assert!(!row.retry_class.is_transient(), "{code}");
            assert!(is_of_credential(*code));
        }
    }

    #[test]
    fn the_documentation_lists_every_code_that_makes_a_pod_unready() {
        let page = include_str!("../../../../docs/configuration.md");
        let rows = page.lines().filter(|line| line.ends_with("| not ready |"));
        let numbers =
            rows.flat_map(|line| line.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok()));
        let mut documented: Vec<u32> = numbers.collect();
        documented.sort_unstable();
        assert_eq!(documented, CREDENTIAL);
    }

    #[test]
    fn a_code_that_depends_on_the_resource_or_on_entra_does_not_refuse_the_credential() {
        for code in [50001, 500011, 28002, 70011, 700022, 700023, 53003, 530032, 50196, 90055, 90033, 50166, 1] {
            assert!(!is_of_credential(code), "{code}");
        }
    }

    #[test]
    fn a_remedy_names_what_an_administrator_must_grant_or_enable() {
        let remedy = |code| row(code).map(|row| (row.retry_class, row.remedy)).unwrap();
        for (code, word) in [
            (50105, "app role"),
            (501051, "app role"),
            (65001, "consent"),
            (500014, "Enable"),
            (700030, "certificate"),
            (1002012, "/.default"),
            (7000229, "service principal"),
        ] {
            let (retry_class, remedy) = remedy(code);
            assert!(retry_class == NeedsChange && remedy.contains(word), "{code}: {remedy}");
        }
    }
}
