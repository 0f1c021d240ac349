//! Tests of the access review.

use super::*;

const NEW: &str = r#"# entra-exchange check: accept broad_scope, because the job manages its own resource group.
entra: { clusters: [entra, entra_new_connection] }
identities:
- { name: orders, tenant_id: t.example, client_id: aaaaaaaa-0000-4000-8000-000000000001, resources: ["https://vault.azure.net", "https://storage.azure.com"] }
- { name: jobs, tenant_id: t.example, client_id: aaaaaaaa-0000-4000-8000-000000000002 }
destinations:
- { hosts: ["*.example.com"], identity: orders, scope: api://orders/.default, methods: [GET], path_prefixes: [/v1], tls_clusters: [api] }
- { azure_service: resource_manager, identity: jobs, tls_clusters: [arm] }
- { hosts: [closed.example.net], action: refuse }
managed_identity: { identities: [orders], imds: {}, app_service: {} }
"#;

fn source(text: &str) -> Vec<Source> {
    vec![Source::new("new.yaml", text)]
}

fn review(text: &str, older: Option<&str>, log: Option<&str>) -> Audited {
    let older = older.map(source);
    let uses = log.map(|log| Uses::read(log).unwrap());
    audit(&source(text), older.as_deref(), uses.as_ref(), &[]).unwrap()
}

fn codes(audited: &Audited, accepted: bool) -> Vec<&'static str> {
    let mut codes: Vec<_> =
        audited.findings.iter().filter(|one| one.accepted == accepted).map(|one| one.code).collect();
    codes.dedup();
    codes
}

#[test]
fn every_permission_has_its_identity_scope_right_hosts_and_callers() {
    let audited = review(NEW, None, None);
    let rows: Vec<String> = audited
        .permissions
        .iter()
        .map(|one| {
            let (hosts, requests, callers) = (one.hosts.join(" "), one.requests.join(" "), one.callers.join(" "));
            format!("{} {} {} [{hosts}] [{requests}] {callers}", one.identity, one.scope, one.right.as_str())
        })
        .collect();
    let (process, secret) = ("every process of the pod", "every process with IDENTITY_HEADER");
    assert_eq!(
        rows,
        [
            "orders api://orders/.default inject [*.example.com] [GET /v1] every client of the proxy".to_owned(),
            "jobs https://management.azure.com/.default inject [management.azure.com] [] every client of the proxy"
                .to_owned(),
            format!("orders https://vault.azure.net/.default imds [] [] {process}"),
            format!("orders https://storage.azure.com/.default imds [] [] {process}"),
            format!("orders https://vault.azure.net/.default app_service [] [] {secret}"),
            format!("orders https://storage.azure.com/.default app_service [] [] {secret}"),
        ]
    );
}

#[test]
fn findings_are_named_with_their_question_also_if_they_are_accepted() {
    let audited = review(NEW, None, None);
    assert_eq!(codes(&audited, true), ["broad_scope"]);
    assert_eq!(codes(&audited, false), ["any_process", "wildcard_hosts"]);
    assert!(!audited.is_good());
    let accepting = format!("# entra-exchange check: accept any_process, because the pod has one process.\n{NEW}");
    assert_eq!(codes(&review(&accepting, None, None), false), ["wildcard_hosts"]);
    let open = NEW.replace(", resources: [\"https://vault.azure.net\", \"https://storage.azure.com\"]", "");
    assert!(codes(&review(&open, None, None), false).contains(&"resources_missing"));
    for finding in &audited.findings {
        assert!(
            QUESTIONS.iter().any(|question| question.code == finding.code && question.question == finding.question)
        );
    }
}

#[test]
fn a_permission_that_only_one_version_has_is_a_change() {
    let older = NEW.replace("methods: [GET], ", "").replace(", \"https://storage.azure.com\"", "");
    let audited = review(NEW, Some(&older), None);
    let changes: Vec<(bool, &str, &[String])> = audited
        .changes
        .iter()
        .flatten()
        .map(|change| (change.added, change.permission.scope.as_str(), change.permission.requests.as_slice()))
        .collect();
    let (storage, orders) = ("https://storage.azure.com/.default", "api://orders/.default");
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let none: &[String] = &[];
    assert_eq!(
        changes,
        [
            (true, orders, &words("GET /v1")[..]),
            (true, storage, none),
            (true, storage, none),
            (false, orders, &words("/v1")[..])
        ]
    );
    // The place of a rule is no permission.
    let moved = NEW.replace("- { hosts: [closed.example.net], action: refuse }\n", "");
    let moved = moved.replace("destinations:\n", "destinations:\n- { hosts: [closed.example.net], action: refuse }\n");
    assert_eq!(review(&moved, Some(NEW), None).changes, Some(Vec::new()));
}

#[test]
fn the_log_shows_which_permissions_are_used() {
    let log = "[2026-01-31 02:10:00.000][7][info][wasm] wasm log: event=exchange outcome=issued identity=orders scope=https://vault.azure.net/.default expires_in_s=1\n\
        {\"log\":\"x event=exchange outcome=failed identity=\\\"jobs\\\" scope=https://management.azure.com/.default code=x\"}\n";
    let audited = review(NEW, None, Some(log));
    let unused: Vec<&str> =
        audited.permissions.iter().filter(|one| one.used == Some(false)).map(|one| one.scope.as_str()).collect();
    assert_eq!(
        unused,
        ["api://orders/.default", "https://storage.azure.com/.default", "https://storage.azure.com/.default"]
    );
    assert!(codes(&audited, false).contains(&"scope_unused"));
    let open = NEW.replace(", resources: [\"https://vault.azure.net\", \"https://storage.azure.com\"]", "");
    let any = review(&open, None, Some(log));
    assert!(
        any.permissions.iter().any(|one| one.scope == "any" && one.used_scopes == ["https://vault.azure.net/.default"])
    );
    assert!(Uses::read("nothing").is_err());
}

#[test]
fn a_configuration_with_mistakes_or_none_is_refused() {
    let refused = |text: &str| audit(&source(text), None, None, &[]).unwrap_err();
    assert!(refused("destinations: [ {} ]\n").contains("mistake"));
    assert!(refused("kind: Namespace\napiVersion: v1\n").contains("no configuration"));
}

#[test]
fn each_caller_of_an_egress_gateway_is_named() {
    let gateway = "identities:\n- { name: a, client_id: aaaaaaaa-0000-4000-8000-000000000001, principals: [\"spiffe://x/ns/a/sa/a\"] }\n\
        - { name: b, client_id: aaaaaaaa-0000-4000-8000-000000000002, principals: [\"spiffe://x/ns/b/sa/b\"] }\n\
        destinations:\n- { hosts: [api.example.com], scope: api://x/.default, tls_clusters: [api] }\n";
    let audited = review(gateway, None, None);
    let callers: Vec<&str> = audited.permissions.iter().map(|one| one.callers[0].as_str()).collect();
    assert_eq!(callers, ["spiffe://x/ns/a/sa/a", "spiffe://x/ns/b/sa/b"]);
    assert!(
        text(&audited).contains("a         api://x/.default  inject  api.example.com  spiffe://x/ns/a/sa/a"),
        "{}",
        text(&audited)
    );
    assert_eq!(csv(&audited).lines().count(), 3);
}

#[test]
fn the_page_maps_each_finding_to_its_question() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/audit.md")).unwrap();
    for Question { code, question } in QUESTIONS {
        assert!(page.contains(&format!("\n| `{code}` | {question} | ")), "{code}");
        let is_own = ["any_process", "wildcard_hosts", "scope_unused"].contains(code);
        assert!(is_own || crate::code(code).is_some(), "{code}");
    }
}
