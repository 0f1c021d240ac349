//! Host suffixes under which anyone can register a host. A wildcard over such a suffix would send the token to hosts of other
//! owners.

use crate::azure;

/// Suffixes of services that give each customer a host, in addition to those of the services in [`azure`]. The list covers
/// Azure best and is not complete: a suffix that is missing here may still be shared. Spaces separate the suffixes.
const SHARED: &str = "\
    attest.azure.net azmk8s.io azure-api.cn azure-api.net azure-api.us azure-devices.cn azure-devices.net \
    azure-devices.us azurecontainer.io azurecontainerapps.io azurecr.cn azurecr.io azurecr.us azureedge.net \
    azurefd.net azurehdinsight.net azurehealthcareapis.com azureiotcentral.com azuremicroservices.io \
    azurestaticapps.net azuresynapse.net azurewebsites.net azurewebsites.us chinacloudapp.cn chinacloudsites.cn \
    cloudapp.azure.com cloudapp.net cognitiveservices.azure.cn core.chinacloudapi.cn core.usgovcloudapi.net \
    core.windows.net database.chinacloudapi.cn database.usgovcloudapi.net database.windows.net dynamics.com \
    eventgrid.azure.us grafana.azure.com inference.ml.azure.com managedhsm.azure.cn managedhsm.usgovcloudapi.net \
    msappproxy.net onmicrosoft.com purview.azure.com redis.cache.windows.net search.azure.us sharepoint.com \
    storage.azure.net trafficmanager.net visualstudio.com amazonaws.com appspot.com cloudfront.net \
    firebaseapp.com github.io gitlab.io herokuapp.com netlify.app ngrok.app ngrok.io onrender.com pages.dev \
    run.app vercel.app web.app workers.dev";

/// The labels below a country code under which registries register names for anyone, as in `co.uk` and `com.br`.
const REGISTRY_LABELS: [&str; 10] = ["co", "com", "net", "org", "gov", "edu", "ac", "or", "ne", "go"];

/// Whether anyone can register a host directly below this suffix: it is listed, or below a listed one, or a public suffix.
pub(super) fn is_shared(suffix: &str) -> bool {
    let below = |shared: &str| suffix.strip_suffix(shared).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    is_public(suffix) || SHARED.split(' ').any(below) || azure::shared_suffixes().any(below)
}

/// Whether this is a public suffix (publicsuffix.org), as far as a rule can decide: a single label such as `com`, or a country
/// code after one of [`REGISTRY_LABELS`].
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
    fn a_suffix_below_a_shared_suffix_is_shared() {
        for shared in [
            "vault.azure.net",
            "blob.core.windows.net",
            "z00.blob.storage.azure.net",
            "westeurope.cloudapp.azure.com",
            "com",
        ] {
            assert!(is_shared(shared), "{shared}");
        }
        for own in [
            "example.com",
            "com.example",
            "co.12",
            "notvault.azure.net.example.com",
            "myazurecr.io",
            "payments.svc.cluster.local",
        ] {
            assert!(!is_shared(own), "{own}");
        }
    }

    /// Whether this is a public suffix by the list itself (publicsuffix.org, ICANN section).
    fn is_on_the_list(suffix: &str) -> bool {
        let found = psl::suffix(suffix.as_bytes());
        found.is_some_and(|found| found == suffix.as_bytes() && found.typ() == Some(psl::Type::Icann))
    }

    fn country_codes() -> impl Iterator<Item = String> {
        let letters = || 'a'..='z';
        letters().flat_map(move |first| letters().map(move |second| format!("{first}{second}")))
    }

    /// Labels that registries of at least five countries use and [`REGISTRY_LABELS`] does not have, and some of single countries.
    /// Wildcards over these are not rejected.
    const MISSED: &[&str] = &[
        "art", "asso", "biz", "coop", "ed", "firm", "gob", "gouv", "id", "in", "ind", "info", "int", "k12", "ltd",
        "me", "med", "mil", "mobi", "museum", "name", "nhs", "nom", "plc", "police", "pro", "rec", "sc", "sch",
        "store", "tm", "tv", "web",
    ];

    #[test]
    fn the_rule_for_public_suffixes_agrees_with_the_list_except_for_named_labels() {
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
        assert_eq!(missed.into_iter().collect::<Vec<_>>(), MISSED, "every missed label is in MISSED");
    }
}
