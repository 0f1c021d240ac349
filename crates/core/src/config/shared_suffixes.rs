//! Suffixes under which anybody can have a host: a token for all hosts of such a suffix is a token for strangers.

use crate::azure;

/// The suffixes of services that give each customer a host of its own, beside those that [`azure`] has by name. The list knows
/// Azure best, and it is no proof: a suffix that is missing here may be shared all the same.
const SHARED: &[&str] = &[
    // Azure's clouds
    "attest.azure.net",
    "azmk8s.io",
    "azure-api.cn",
    "azure-api.net",
    "azure-api.us",
    "azure-devices.cn",
    "azure-devices.net",
    "azure-devices.us",
    "azurecontainer.io",
    "azurecontainerapps.io",
    "azurecr.cn",
    "azurecr.io",
    "azurecr.us",
    "azureedge.net",
    "azurefd.net",
    "azurehdinsight.net",
    "azurehealthcareapis.com",
    "azureiotcentral.com",
    "azuremicroservices.io",
    "azurestaticapps.net",
    "azuresynapse.net",
    "azurewebsites.net",
    "azurewebsites.us",
    "chinacloudapp.cn",
    "chinacloudsites.cn",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cognitiveservices.azure.cn",
    "core.chinacloudapi.cn",
    "core.usgovcloudapi.net",
    "core.windows.net",
    "database.chinacloudapi.cn",
    "database.usgovcloudapi.net",
    "database.windows.net",
    "dynamics.com",
    "eventgrid.azure.us",
    "grafana.azure.com",
    "inference.ml.azure.com",
    "managedhsm.azure.cn",
    "managedhsm.usgovcloudapi.net",
    "msappproxy.net",
    "onmicrosoft.com",
    "purview.azure.com",
    "redis.cache.windows.net",
    "search.azure.us",
    "sharepoint.com",
    "storage.azure.net",
    "trafficmanager.net",
    "visualstudio.com",
    // elsewhere
    "amazonaws.com",
    "appspot.com",
    "cloudfront.net",
    "firebaseapp.com",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "netlify.app",
    "ngrok.app",
    "ngrok.io",
    "onrender.com",
    "pages.dev",
    "run.app",
    "vercel.app",
    "web.app",
    "workers.dev",
];

/// The second labels under which registries of countries give names to anyone: `co.uk`, `com.br`.
const REGISTRY_LABELS: [&str; 10] = ["co", "com", "net", "org", "gov", "edu", "ac", "or", "ne", "go"];

/// Whether anyone can register a host right below this suffix: it is listed, or below a listed one, or a public suffix.
pub(super) fn is_shared(suffix: &str) -> bool {
    let below = |shared: &str| suffix.strip_suffix(shared).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    is_public(suffix) || SHARED.iter().copied().chain(azure::shared_suffixes()).any(below)
}

/// Whether the suffix is one of a registry (publicsuffix.org), as far as a rule can say it: a single label such as `com`, or two of
/// which the first is usual among registries and the last is a country code.
fn is_public(suffix: &str) -> bool {
    match suffix.split_once('.') {
        None => true,
        Some((first, last)) => {
            let is_country = last.len() == 2 && last.bytes().all(|byte| byte.is_ascii_alphabetic());
            is_country && REGISTRY_LABELS.contains(&first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_shared_with_all_that_is_below_it() {
        for shared in [
            "vault.azure.net",
            "blob.core.windows.net",
            "z00.blob.storage.azure.net",
            "westeurope.cloudapp.azure.com",
            "com",
        ] {
            assert!(is_shared(shared), "{shared}");
        }
        for own in ["example.com", "notvault.azure.net.example.com", "myazurecr.io", "payments.svc.cluster.local"] {
            assert!(!is_shared(own), "{own}");
        }
    }

    /// Whether a registry gives names to anyone right below this suffix, by the list (publicsuffix.org, its ICANN section).
    fn is_on_the_list(suffix: &str) -> bool {
        let found = psl::suffix(suffix.as_bytes());
        found.is_some_and(|found| found == suffix.as_bytes() && found.typ() == Some(psl::Type::Icann))
    }

    fn country_codes() -> impl Iterator<Item = String> {
        let letters = || 'a'..='z';
        letters().flat_map(move |first| letters().map(move |second| format!("{first}{second}")))
    }

    /// The second labels that registries of five countries or more use besides ours, and some of single countries: wildcards over these
    /// are not rejected.
    const MISSED: &[&str] = &[
        "art", "asso", "biz", "coop", "ed", "firm", "gob", "gouv", "id", "in", "ind", "info", "int", "k12", "ltd",
        "me", "med", "mil", "mobi", "museum", "name", "nhs", "nom", "plc", "police", "pro", "rec", "sc", "sch",
        "store", "tm", "tv", "web",
    ];

    #[test]
    fn the_rule_for_public_suffixes_beside_the_list() {
        for public in ["com", "co.uk", "com.br", "ac.jp", "gov.au", "net.cn", "or.kr", "go.id", "ne.jp", "edu.pl"] {
            assert!(is_on_the_list(public) && is_shared(public), "{public}");
        }
        let (mut agreed, mut missed) = (0, std::collections::BTreeSet::new());
        for country in country_codes().filter(|country| psl::suffix(country.as_bytes()).is_some_and(|it| it.is_known()))
        {
            for label in REGISTRY_LABELS.iter().chain(MISSED) {
                let suffix = format!("{label}.{country}");
                match (is_on_the_list(&suffix), is_shared(&suffix)) {
                    (true, true) => agreed += 1,
                    (true, false) => drop(missed.insert(*label)),
                    (false, _) => {}
                }
            }
        }
        assert!(agreed > 700, "{agreed}");
        assert_eq!(missed.into_iter().collect::<Vec<_>>(), MISSED, "what is missed is named");
    }
}
