//! What is asked for: a few grants that differ in one thing each, some of them kept side by side in the shared memory.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use entra_exchange_core::assertion::Source;
use entra_exchange_core::entra::{Authority, Grant, GrantParts, TokenKey};
use entra_exchange_core::time::Timestamp;

pub(crate) const TENANT: &str = "11111111-1111-4111-8111-111111111111";
const CLIENT: &str = "aaaaaaaa-0000-4000-8000-000000000001";

/// The clusters to the authority: one grant has several.
const WAYS: [&str; 3] = ["entra", "entra_2", "entra_3"];

struct Parts {
    /// Of each its own, so that a log line says which it is about.
    identity: String,
    tenant_id: &'static str,
    client_id: &'static str,
    scope: String,
    ways: usize,
}

static PARTS: LazyLock<Vec<Parts>> = LazyLock::new(|| {
    let of = |tenant_id, client_id, scope: &str, ways| {
        let identity = String::new();
        Parts { identity, tenant_id, client_id, scope: scope.to_owned(), ways }
    };
    let mut all = vec![
        of(TENANT, CLIENT, "https://vault.azure.net/.default", 1),
        of(TENANT, CLIENT, "https://storage.azure.com/.default", 2),
        of(TENANT, "bbbbbbbb-0000-4000-8000-000000000002", "https://vault.azure.net/.default", 1),
        of("contoso.onmicrosoft.com", CLIENT, "https://vault.azure.net/.default", 3),
    ];
    // One that falls to the same shelf as the first.
    let shelf = |parts: &Parts| make(parts, None).key().as_bytes()[0];
    let neighbour = (0..)
        .map(|number| of(TENANT, CLIENT, &format!("api://neighbour-{number}/.default"), 1))
        .find(|parts| shelf(parts) == shelf(&all[0]));
    all.extend(neighbour);
    for (place, parts) in all.iter_mut().enumerate() {
        parts.identity = format!("identity-{place}");
    }
    all
});

fn make(parts: &Parts, discard_before: Option<Timestamp>) -> Grant {
    let ways: Vec<String> = WAYS.iter().take(parts.ways).map(|way| (*way).to_owned()).collect();
    Grant::new(&GrantParts {
        identity: &parts.identity,
        authority: &Authority::public(),
        tenant_id: parts.tenant_id,
        client_id: parts.client_id,
        scope: &parts.scope,
        assertion: &Source::File { cluster: "projected_token".to_owned() },
        clusters: &ways,
        discard_before,
    })
}

/// How many scopes callers make up.
pub(crate) const INVENTED: usize = 40;

static INVENTED_KEYS: LazyLock<HashSet<TokenKey>> =
    LazyLock::new(|| invented(None).iter().map(|grant| grant.key()).collect());

/// What callers make up, for a client of the listed grants. It is no part of a configuration.
pub(crate) fn invented(discard_before: Option<Timestamp>) -> Vec<Arc<Grant>> {
    let scopes = (0..INVENTED).map(|number| format!("api://invented-{number}/.default"));
    let identity = "inventive".to_owned();
    let parts =
        scopes.map(|scope| Parts { identity: identity.clone(), tenant_id: TENANT, client_id: CLIENT, scope, ways: 1 });
    parts.map(|parts| Arc::new(make(&parts, discard_before).unlisted())).collect()
}

/// All grants, and what callers make up as if it were listed.
pub(crate) fn everything() -> Vec<Arc<Grant>> {
    let listed = |grant: &Arc<Grant>| {
        let parts = Parts {
            identity: grant.identity().to_owned(),
            tenant_id: TENANT,
            client_id: CLIENT,
            scope: grant.scope().to_owned(),
            ways: 1,
        };
        Arc::new(make(&parts, None))
    };
    all(None).into_iter().chain(invented(None).iter().map(listed)).collect()
}

/// Whether a caller made it up.
pub(crate) fn is_invented(key: TokenKey) -> bool {
    INVENTED_KEYS.contains(&key)
}

/// All grants, with what one configuration discards.
pub(crate) fn all(discard_before: Option<Timestamp>) -> Vec<Arc<Grant>> {
    PARTS.iter().map(|parts| Arc::new(make(parts, discard_before))).collect()
}
