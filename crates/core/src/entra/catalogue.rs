//! What Entra's error codes mean for us: whether trying again can help, and what to do.
//!
//! Sources: learn.microsoft.com, "Microsoft Entra authentication and authorization error codes" and "Workload identity
//! federation: troubleshooting". Microsoft asks clients not to build logic on the codes alone: what is not listed here
//! is judged by HTTP status and `error`.

/// How a refusal passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passing {
    /// Entra answers so for correct credentials now and then, and for minutes after one was created.
    RetrySoon,
    /// A fresh assertion may be taken.
    FreshAssertion,
    /// It passes by itself.
    ByItself,
    /// Entra throttles the client or the tenant: every exchange of the identity backs off.
    Throttled,
    /// Somebody must change something.
    ByChange,
}

impl Passing {
    /// Whether Entra may answer differently without anybody's change.
    pub(crate) const fn is_transient(self) -> bool {
        matches!(self, Self::ByItself | Self::Throttled)
    }

    /// The word for metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::RetrySoon => "retry_soon",
            Self::FreshAssertion => "fresh_assertion",
            Self::ByItself => "by_itself",
            Self::Throttled => "throttled",
            Self::ByChange => "by_change",
        }
    }
}

/// One row of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The code, without `AADSTS`.
    pub(crate) code: u32,
    /// How it passes.
    pub(crate) passing: Passing,
    /// What to do.
    pub(crate) remedy: &'static str,
}

use Passing::{ByChange, ByItself, FreshAssertion, RetrySoon, Throttled};

const SERVICE_TROUBLE: &str = "Entra has trouble of its own: it is tried again by itself.";
const WRONG_AUTHORITY: &str = "Set entra.authority (or AZURE_AUTHORITY_HOST) to the tenant's cloud.";
const ISSUER_UNREACHABLE: &str =
    "Entra could not fetch the issuer's keys: the issuer's /.well-known/openid-configuration and JWKS must be public.";
const WRONG_KEY: &str =
    "Publish the key that signs the token in the issuer's JWKS; after a key rotation this may take minutes.";
const ONE_RESOURCE: &str = "Write one resource and /.default, such as https://vault.azure.net/.default.";
const NO_SUCH_RESOURCE: &str = "See that the scope names the resource as Azure does, and that the tenant has it (for an own API: its application ID URI, with a service principal).";
const SECRET_NOT_ASSERTION: &str =
    "Entra judged a secret, which this filter never sends: see what stands between the filter and Entra.";
const NOT_ASSIGNED: &str = "Assign the client an app role of the resource, or switch off \"assignment required\" in the resource's enterprise application.";
const CONDITIONAL_ACCESS: &str =
    "A Conditional Access policy for workload identities blocks this: see the sign-in log by the trace id.";

/// Each code once, in ascending order.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { code: 28002, passing: ByChange, remedy: ONE_RESOURCE },
    Row { code: 50001, passing: ByChange, remedy: NO_SUCH_RESOURCE },
    Row { code: 50027, passing: ByChange, remedy: "The federated token is malformed: see what the token's file holds." },
    Row { code: 50033, passing: ByItself, remedy: SERVICE_TROUBLE },
    Row { code: 50087, passing: ByItself, remedy: SERVICE_TROUBLE },
    Row { code: 50105, passing: ByChange, remedy: NOT_ASSIGNED },
    Row { code: 50166, passing: ByItself, remedy: ISSUER_UNREACHABLE },
    Row { code: 50196, passing: Throttled, remedy: "Entra saw too many requests of this client: see who else asks with this client id." },
    Row { code: 53003, passing: ByChange, remedy: CONDITIONAL_ACCESS },
    Row { code: 65001, passing: ByChange, remedy: "Grant the application permissions that this resource needs, and admin consent to them." },
    Row { code: 70011, passing: ByChange, remedy: ONE_RESOURCE },
    Row { code: 70021, passing: RetrySoon, remedy: "Compare issuer, subject and audience of the federated credential with the token's, letter by letter; a new credential takes minutes." },
    Row { code: 70025, passing: ByChange, remedy: "Create a federated credential for this client." },
    Row { code: 90002, passing: ByChange, remedy: "Correct the tenant id (AZURE_TENANT_ID), and see that the authority is the tenant's cloud." },
    Row { code: 90006, passing: ByItself, remedy: SERVICE_TROUBLE },
    Row { code: 90012, passing: ByItself, remedy: SERVICE_TROUBLE },
    Row { code: 90024, passing: ByItself, remedy: SERVICE_TROUBLE },
    Row { code: 90033, passing: ByItself, remedy: SERVICE_TROUBLE },
    Row { code: 90038, passing: ByChange, remedy: WRONG_AUTHORITY },
    Row { code: 90055, passing: Throttled, remedy: "The tenant is throttled: see who asks so often." },
    Row { code: 90061, passing: ByItself, remedy: ISSUER_UNREACHABLE },
    Row { code: 90090, passing: ByItself, remedy: SERVICE_TROUBLE },
    Row { code: 500011, passing: ByChange, remedy: NO_SUCH_RESOURCE },
    Row { code: 500014, passing: ByChange, remedy: "Enable the resource's service principal in the tenant: it is disabled, or the subscription that it belongs to has lapsed." },
    Row { code: 501051, passing: ByChange, remedy: NOT_ASSIGNED },
    Row { code: 501661, passing: ByItself, remedy: ISSUER_UNREACHABLE },
    Row { code: 530032, passing: ByChange, remedy: CONDITIONAL_ACCESS },
    Row { code: 700016, passing: ByChange, remedy: "Correct the client id (AZURE_CLIENT_ID) or the tenant: this tenant has no such application or managed identity." },
    Row { code: 700022, passing: ByChange, remedy: ONE_RESOURCE },
    Row { code: 700023, passing: ByChange, remedy: ONE_RESOURCE },
    Row { code: 700024, passing: FreshAssertion, remedy: "See the node's clock, and that Envoy watches the folder that holds ..data: the token it serves is out of its time." },
    Row { code: 700025, passing: ByChange, remedy: "The application is a public client: make it a confidential one." },
    Row { code: 700027, passing: ByChange, remedy: WRONG_KEY },
    Row { code: 700030, passing: ByChange, remedy: "Entra judged a certificate, which this filter never sends: check what is between the filter and Entra." },
    Row { code: 700211, passing: RetrySoon, remedy: "Set the federated credential's issuer to the token's issuer, letter by letter (a trailing slash counts); a new credential takes minutes." },
    Row { code: 700212, passing: RetrySoon, remedy: "Set the federated credential's audience to the token's, or project the token with the credential's audience (api://AzureADTokenExchange by default)." },
    Row { code: 700213, passing: RetrySoon, remedy: "Set the federated credential's subject to the token's, system:serviceaccount:<namespace>:<service account> on Kubernetes; a new credential takes minutes." },
    Row { code: 700222, passing: ByChange, remedy: "Entra takes no token of its own as an assertion: use the cluster's or another issuer's token." },
    Row { code: 700229, passing: ByChange, remedy: "Only app-only tokens may be federated: use a workload's token." },
    Row { code: 700238, passing: ByChange, remedy: "A policy of the tenant refuses this federated credential: ask the tenant's administrator." },
    Row { code: 900382, passing: ByChange, remedy: WRONG_AUTHORITY },
    Row { code: 900384, passing: ByChange, remedy: WRONG_KEY },
    Row { code: 900432, passing: ByChange, remedy: WRONG_AUTHORITY },
    Row { code: 1002012, passing: ByChange, remedy: ONE_RESOURCE },
    Row { code: 5002730, passing: ByChange, remedy: "Have the issuer sign with RS256." },
    Row { code: 7000112, passing: ByChange, remedy: "The application is disabled: enable its service principal." },
    Row { code: 7000215, passing: ByChange, remedy: SECRET_NOT_ASSERTION },
    Row { code: 7000218, passing: ByChange, remedy: SECRET_NOT_ASSERTION },
    Row { code: 7000222, passing: ByChange, remedy: SECRET_NOT_ASSERTION },
    Row { code: 7000229, passing: ByChange, remedy: "Create the client's service principal in this tenant (az ad sp create --id <client id>), or correct the tenant id." },
    Row { code: 7000272, passing: ByChange, remedy: WRONG_KEY },
    Row { code: 7002138, passing: ByChange, remedy: "Only the case of letters differs between the federated credential and the token: write it exactly so." },
    Row { code: 9001023, passing: ByChange, remedy: "Write the tenant's id, not common or organizations." },
];

/// The codes that are a refusal of the credential: of the client, its federated credential, the federated token or the
/// tenant, whatever resource the exchange is for. In ascending order, each with a row above.
///
/// A pod whose credential is refused is not ready ([`crate::broker::Readiness`]). A code that is not listed here never
/// makes a pod unready: a resource that does not exist (500011), a Conditional Access policy that may depend on the
/// resource (53003), an outage.
const CREDENTIAL: &[u32] = &[
    50027, 70021, 70025, 90002, 90038, 700016, 700024, 700025, 700027, 700030, 700211, 700212, 700213, 700222, 700229,
    700238, 900382, 900384, 900432, 5002730, 7000112, 7000215, 7000218, 7000222, 7000229, 7000272, 7002138, 9001023,
];

/// Whether the code is a refusal of the credential.
pub(crate) fn is_of_credential(code: u32) -> bool {
    CREDENTIAL.binary_search(&code).is_ok()
}

/// The row of a code, when it has one.
pub(crate) fn row(code: u32) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&code, |row| row.code).ok().and_then(|index| ROWS.get(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_once_and_in_order_with_a_remedy() {
        assert!(ROWS.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(ROWS.iter().all(|row| row.remedy.ends_with('.')));
        for entry in ROWS {
            assert_eq!(row(entry.code), Some(entry));
        }
        assert_eq!(row(1), None);
    }

    #[test]
    fn a_refusal_of_the_credential_has_a_row_and_does_not_pass_by_itself() {
        assert!(CREDENTIAL.windows(2).all(|pair| pair[0] < pair[1]));
        for code in CREDENTIAL {
            let row = row(*code).unwrap_or_else(|| panic!("{code} has no row"));
            assert!(!row.passing.is_transient(), "{code}");
            assert!(is_of_credential(*code));
        }
    }

    #[test]
    fn the_documents_list_every_refusal_that_makes_a_pod_unready() {
        let page = include_str!("../../../../docs/configuration.md");
        let rows = page.lines().filter(|line| line.ends_with("| not ready |"));
        let numbers =
            rows.flat_map(|line| line.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok()));
        let mut documented: Vec<u32> = numbers.collect();
        documented.sort_unstable();
        assert_eq!(documented, CREDENTIAL);
    }

    #[test]
    fn what_depends_on_the_resource_or_on_entra_is_not_a_refusal_of_the_credential() {
        for code in [50001, 500011, 28002, 70011, 700022, 700023, 53003, 530032, 50196, 90055, 90033, 50166, 1] {
            assert!(!is_of_credential(code), "{code}");
        }
    }

    #[test]
    fn what_an_administrator_must_grant_or_enable_has_a_remedy_that_says_so() {
        let remedy = |code| row(code).map(|row| (row.passing, row.remedy)).unwrap();
        for (code, word) in [
            (50105, "app role"),
            (501051, "app role"),
            (65001, "consent"),
            (500014, "Enable"),
            (700030, "certificate"),
            (1002012, "/.default"),
            (7000229, "service principal"),
        ] {
            let (passing, remedy) = remedy(code);
            assert!(passing == ByChange && remedy.contains(word), "{code}: {remedy}");
        }
    }
}
