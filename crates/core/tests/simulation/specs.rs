//! The token specs of the simulation. They differ in one part each, and two of them share a shelf in shared data.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use entra_exchange_core::assertion::Source;
use entra_exchange_core::authority::Authority;
use entra_exchange_core::config::Config;
use entra_exchange_core::entra::{CredentialKey, TokenKey, TokenSpec, TokenSpecParts};
use entra_exchange_core::policy::Policy;
use entra_exchange_core::time::Timestamp;

pub(crate) const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const CLIENT: &str = "aaaaaaaa-0000-4000-8000-000000000001";

/// The cluster that serves the file with the federated token.
pub(crate) const FILE: &str = "projected_token";

/// The cluster of the service that issues federated tokens.
pub(crate) const SERVICE: &str = "sts";

/// Where the federated tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Federated {
    /// A file, which each worker reads.
    File,
    /// A service, which one worker asks for all.
    Service,
}

static SERVICE_SOURCE: LazyLock<Source> = LazyLock::new(|| {
    let text = serde_json::json!({
        "assertions": [{
            "name": "sts", "source": "http", "cluster": SERVICE, "request": {"authority": "sts.example", "path": "/token"},
            "response": {"token": "/token"}, "timeout": "3s", "attempts": 2, "reuse": "1m",
        }],
        "identities": [{"assertion": "sts", "tenant_id": TENANT, "client_id": CLIENT}],
        "destinations": [{"hosts": ["a.example"], "scope": "s/.default", "tls_clusters": ["a"], "warm": true}],
    });
    let config = Config::parse(text.to_string().as_bytes(), &|_| None).unwrap();
    Policy::new(&config, false).warm()[0].assertion().clone()
});

impl Federated {
    fn source(self) -> Source {
        match self {
            Self::File => Source::File { cluster: FILE.to_owned() },
            Self::Service => SERVICE_SOURCE.clone(),
        }
    }
}

/// The clusters that lead to the authority. Some token specs have several.
const CLUSTERS: [&str; 3] = ["entra", "entra_2", "entra_3"];

struct Parts {
    /// A different name for each token spec, so that a log line can be assigned to one.
    identity: String,
    tenant_id: &'static str,
    client_id: &'static str,
    scope: String,
    clusters: usize,
}

static PARTS: LazyLock<Vec<Parts>> = LazyLock::new(|| {
    let of = |tenant_id, client_id, scope: &str, clusters| {
        let identity = String::new();
        Parts { identity, tenant_id, client_id, scope: scope.to_owned(), clusters }
    };
    let mut all = vec![
        of(TENANT, CLIENT, "https://vault.azure.net/.default", 1),
        of(TENANT, CLIENT, "https://storage.azure.com/.default", 2),
        of(TENANT, "bbbbbbbb-0000-4000-8000-000000000002", "https://vault.azure.net/.default", 1),
        of("contoso.onmicrosoft.com", CLIENT, "https://vault.azure.net/.default", 3),
    ];
    // One on the same shelf as the first.
    let shelf = |parts: &Parts| make(parts, None, Federated::File).key().as_bytes()[0];
    let neighbor = (0..)
        .map(|number| of(TENANT, CLIENT, &format!("api://neighbour-{number}/.default"), 1))
        .find(|parts| shelf(parts) == shelf(&all[0]));
    all.extend(neighbor);
    for (index, parts) in all.iter_mut().enumerate() {
        parts.identity = format!("identity-{index}");
    }
    all
});

fn make(parts: &Parts, discard_before: Option<Timestamp>, federated: Federated) -> TokenSpec {
    let clusters: Vec<String> = CLUSTERS.iter().take(parts.clusters).map(|cluster| (*cluster).to_owned()).collect();
    TokenSpec::new(&TokenSpecParts {
        identity: &parts.identity,
        authority: &Authority::public(),
        tenant_id: parts.tenant_id,
        client_id: parts.client_id,
        scope: &parts.scope,
        assertion: &federated.source(),
        clusters: &clusters,
        discard_before,
    })
}

/// The first unlisted scope, which is in use all the time in some plans.
pub(crate) const IN_USE: &str = "api://invented-0/.default";

/// The number of unlisted scopes that callers request.
pub(crate) const UNLISTED: usize = 40;

static UNLISTED_KEYS: LazyLock<HashSet<TokenKey>> =
    LazyLock::new(|| unlisted(None).iter().map(|spec| spec.key()).collect());

/// The credential of all unlisted scopes.
pub(crate) fn unlisted_credential() -> CredentialKey {
    static KEY: LazyLock<CredentialKey> = LazyLock::new(|| unlisted(None)[0].credential());
    *KEY
}

/// The index of the first unlisted scope among all token specs.
pub(crate) fn first_unlisted() -> usize {
    PARTS.len()
}

/// The token specs of unlisted scopes, for a client that also has listed ones.
pub(crate) fn unlisted(discard_before: Option<Timestamp>) -> Vec<Arc<TokenSpec>> {
    let scopes = (0..UNLISTED).map(|number| format!("api://invented-{number}/.default"));
    debug_assert_eq!(scopes.clone().next().as_deref(), Some(IN_USE));
    let identity = "inventive".to_owned();
    let parts = scopes.map(|scope| Parts {
        identity: identity.clone(),
        tenant_id: TENANT,
        client_id: CLIENT,
        scope,
        clusters: 1,
    });
    parts.map(|parts| Arc::new(make(&parts, discard_before, Federated::File).unlisted())).collect()
}

/// All token specs. The unlisted scopes are included as if they were listed.
pub(crate) fn all_as_listed() -> Vec<Arc<TokenSpec>> {
    let listed = |spec: &Arc<TokenSpec>| {
        let parts = Parts {
            identity: spec.identity().to_owned(),
            tenant_id: TENANT,
            client_id: CLIENT,
            scope: spec.scope().to_owned(),
            clusters: 1,
        };
        Arc::new(make(&parts, None, Federated::File))
    };
    all(None, Federated::File).into_iter().chain(unlisted(None).iter().map(listed)).collect()
}

/// Whether the key is that of an unlisted scope.
pub(crate) fn is_unlisted(key: TokenKey) -> bool {
    UNLISTED_KEYS.contains(&key)
}

/// All listed token specs, with the `discard_tokens_before` of a configuration.
pub(crate) fn all(discard_before: Option<Timestamp>, federated: Federated) -> Vec<Arc<TokenSpec>> {
    PARTS.iter().map(|parts| Arc::new(make(parts, discard_before, federated))).collect()
}
