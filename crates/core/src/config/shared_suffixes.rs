//! Suffixes under which anybody can have a host: a token for all hosts of such a suffix is a token for strangers.

/// The suffixes of services that give each customer a host of its own. The list knows Azure best, and it is no proof: a
/// suffix that is missing here may be shared all the same.
const SHARED: &[&str] = &[
    // Azure's clouds
    "azconfig.azure.cn",
    "azconfig.azure.us",
    "azconfig.io",
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
    "azuredatabricks.net",
    "azureedge.net",
    "azurefd.net",
    "azurehdinsight.net",
    "azurestaticapps.net",
    "azuresynapse.net",
    "azurewebsites.net",
    "azurewebsites.us",
    "batch.azure.com",
    "chinacloudapp.cn",
    "chinacloudsites.cn",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cognitiveservices.azure.cn",
    "cognitiveservices.azure.com",
    "cognitiveservices.azure.us",
    "communication.azure.com",
    "core.chinacloudapi.cn",
    "core.usgovcloudapi.net",
    "core.windows.net",
    "database.chinacloudapi.cn",
    "database.usgovcloudapi.net",
    "database.windows.net",
    "digitaltwins.azure.net",
    "documents.azure.cn",
    "documents.azure.com",
    "documents.azure.us",
    "dynamics.com",
    "eventgrid.azure.net",
    "eventgrid.azure.us",
    "inference.ml.azure.com",
    "kusto.windows.net",
    "managedhsm.azure.cn",
    "managedhsm.azure.net",
    "managedhsm.usgovcloudapi.net",
    "onmicrosoft.com",
    "openai.azure.com",
    "openai.azure.us",
    "purview.azure.com",
    "redis.cache.windows.net",
    "search.azure.cn",
    "search.azure.us",
    "search.windows.net",
    "service.signalr.net",
    "servicebus.chinacloudapi.cn",
    "servicebus.usgovcloudapi.net",
    "servicebus.windows.net",
    "services.ai.azure.com",
    "sharepoint.com",
    "storage.azure.net",
    "trafficmanager.net",
    "vault.azure.cn",
    "vault.azure.net",
    "vault.usgovcloudapi.net",
    "visualstudio.com",
    "webpubsub.azure.com",
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

/// Whether strangers can have hosts right below this suffix: it is listed, or below a listed one, or a single label such
/// as `com`.
pub(super) fn is_shared(suffix: &str) -> bool {
    let below = |shared: &str| suffix.strip_suffix(shared).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !suffix.contains('.') || SHARED.iter().any(|shared| below(shared))
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
}
