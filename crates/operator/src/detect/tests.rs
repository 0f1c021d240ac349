//! Tests of `detect`.

use super::*;

fn found(text: &str, options: &Options) -> Detected {
    detect(&[Source::new("f.yaml", text)], options).unwrap()
}

fn options() -> Options {
    Options { tenant_id: Some("t.example".to_owned()), ..Options::default() }
}

const IDENTITY: &str = "apiVersion: aadpodidentity.k8s.io/v1\nkind: AzureIdentity\nmetadata: { name: id.one, namespace: other }\nspec: \
    { type: 0, clientID: aaaaaaaa-0000-4000-8000-000000000001 }\n---\napiVersion: aadpodidentity.k8s.io/v1\nkind: \
    AzureIdentityBinding\nmetadata: { name: b, namespace: other }\nspec: { azureIdentity: id.one, selector: sel }\n---\n";

/// An object with pods, whose pod's fields these are.
fn workload(kind: &str, metadata: &str, spec: &str) -> String {
    let pod =
        format!("{{ metadata: {{ {metadata} }}, spec: {{ containers: [ {{ name: app, image: x }} ], {spec} }} }}");
    let spec = match kind {
        "CronJob" => format!("spec: {{ jobTemplate: {{ spec: {{ template: {pod} }} }} }}"),
        _ => format!("spec: {{ template: {pod} }}"),
    };
    format!("apiVersion: apps/v1\nkind: {kind}\nmetadata: {{ name: w, namespace: ns }}\n{spec}\n")
}

fn bound(kind: &str, metadata: &str, spec: &str) -> String {
    format!("{IDENTITY}{}", workload(kind, &format!("labels: {{ aadpodidbinding: sel }}, {metadata}"), spec))
}

fn files(detected: &Detected, options: &Options) -> Vec<(String, String)> {
    let folders = folders(&detected.workloads, options).unwrap();
    folders.into_iter().flat_map(|folder| folder.files).map(|file| (file.name, file.text)).collect()
}

#[test]
fn an_identity_of_another_namespace_is_found_unless_it_is_namespaced() {
    let text = bound("Deployment", "annotations: {}", "serviceAccountName: own");
    let one = &found(&text, &options()).workloads[0];
    assert_eq!((one.identities[0].name.as_str(), one.missing.len()), ("id-one", 0));
    assert_eq!((one.subject().as_str(), one.new_service_account), ("system:serviceaccount:ns:own", false));
    let namespaced = text.replace(
        "{ name: id.one, namespace: other }",
        "{ name: id.one, namespace: other, annotations: { aadpodidentity.k8s.io/Behavior: namespaced } }",
    );
    let detected = found(&namespaced, &options());
    assert!(detected.workloads[0].missing[0].contains("azureidentitybindings"), "{detected:?}");
    assert!(detected.notes[0].contains("used by no workload"), "{detected:?}");
    assert_eq!(detected.steps[0].phase, Phase::Complete);
}

#[test]
fn the_route_fits_the_pod() {
    let route = |text: &str| found(text, &options()).workloads[0].route;
    assert_eq!(route(&bound("Deployment", "", "")), Route::Iptables);
    assert_eq!(route(&bound("Deployment", "", "hostNetwork: true")), Route::Variables);
    assert_eq!(route(&bound("Deployment", "annotations: { sidecar.istio.io/inject: \"true\" }", "")), Route::Istio);
    let mesh = "apiVersion: v1\nkind: Namespace\nmetadata: { name: ns, labels: { istio-injection: enabled } }\n---\n";
    assert_eq!(route(&format!("{mesh}{}", bound("Deployment", "", ""))), Route::Istio);
    let forced = Options { route: Some(Route::Iptables), ..options() };
    let detected = found(&bound("Deployment", "", "hostNetwork: true"), &forced);
    assert!(detected.workloads[0].missing[0].contains("--for variables"), "{detected:?}");
}

#[test]
fn a_client_secret_is_removed_from_the_pod_and_then_at_entra() {
    let secret = "containers: [ { name: app, env: [ { name: AZURE_CLIENT_SECRET, value: geheim }, { name: AZURE_CLIENT_ID, value: \
                  aaaaaaaa-0000-4000-8000-000000000001 }, { name: AZURE_TENANT_ID, value: t.example } ] } ]";
    let text =
        workload("StatefulSet", "labels: {}", "x: 1").replace("containers: [ { name: app, image: x } ], x: 1", secret);
    let detected = found(&text, &Options::default());
    assert_eq!(detected.workloads[0].ways, [Way::ClientSecret]);
    let patch = files(&detected, &Options::default()).into_iter().find(|(name, _)| name == "patch.yaml").unwrap().1;
    assert!(
        patch.contains("- { name: AZURE_CLIENT_SECRET, $patch: delete }") && patch.contains("IDENTITY_ENDPOINT"),
        "{patch}"
    );
    let all = format!("{detected:?}{patch}");
    assert!(!all.contains("geheim"), "a secret is shown: {all}");
    let last = detected.steps.iter().find(|step| step.phase == Phase::Clean).unwrap();
    assert!(last.text.contains("az ad app credential delete --id aaaaaaaa"), "{last:?}");
}

#[test]
fn a_client_secret_from_a_whole_secret_is_found_and_overridden() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: s, namespace: ns }\ndata: { AZURE_CLIENT_SECRET: Z2VoZWlt }\n---\n";
    let container = "containers: [ { name: app, envFrom: [ { secretRef: { name: s } } ], env: [ { name: AZURE_CLIENT_ID, value: \
                     aaaaaaaa-0000-4000-8000-000000000001 } ] } ]";
    let pod = workload("Deployment", "labels: {}", "x: 1")
        .replace("containers: [ { name: app, image: x } ], x: 1", container);
    let detected = found(&format!("{secret}{pod}"), &options());
    assert!(detected.workloads[0].evidence[0].starts_with("Secret s with AZURE_CLIENT_SECRET"), "{detected:?}");
    let patch = files(&detected, &options()).into_iter().find(|(name, _)| name == "patch.yaml").unwrap().1;
    assert!(patch.contains("- { name: AZURE_CLIENT_SECRET, value: \"\" }") && !patch.contains("Z2VoZWlt"), "{patch}");
}

#[test]
fn an_application_that_exchanges_its_token_itself_need_not_change() {
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: own, namespace: ns, annotations: { \
        azure.workload.identity/client-id: aaaaaaaa-0000-4000-8000-000000000001, azure.workload.identity/tenant-id: t.example } }\n---\n";
    let pod = workload("Deployment", "labels: { azure.workload.identity/use: \"true\" }", "serviceAccountName: own");
    let detected = found(&format!("{account}{pod}"), &Options::default());
    assert!(!detected.workloads[0].must_change() && detected.steps.is_empty(), "{detected:?}");
    let proxied =
        pod.replace("labels:", "annotations: { azure.workload.identity/inject-proxy-sidecar: \"false\" }, labels:");
    let detected = found(&format!("{account}{proxied}"), &Options::default());
    assert_eq!(
        (detected.workloads[0].ways.as_slice(), detected.workloads[0].missing.len()),
        (&[Way::ProxySidecar][..], 0)
    );
}

#[test]
fn every_file_passes_the_strict_check_and_has_the_pods_place() {
    for (kind, depth) in [("Deployment", 4), ("CronJob", 8)] {
        for route in Route::ALL {
            let options =
                Options { route: Some(route), issuer: Some("https://issuer.example/".to_owned()), ..options() };
            let detected = found(&bound(kind, "", ""), &options);
            for (name, text) in files(&detected, &options) {
                let sources = [Source::new(&name, text.clone())];
                let checks = crate::check(
                    &sources,
                    &crate::Options { accepted: vec!["resources_missing".to_owned()], ..crate::Options::default() },
                );
                let is_checked = name == "configuration.json" || name == "objects.yaml";
                assert!(!is_checked || checks.findings.is_empty(), "{route:?} {name}: {:?}\n{text}", checks.findings);
                let account = format!("\n{}  serviceAccountName: w\n", " ".repeat(depth));
                assert!(name != "patch.yaml" || text.contains(&account), "{text}");
            }
        }
    }
}

#[test]
fn names_that_would_break_a_manifest_are_not_written() {
    for (from, to) in [
        ("name: w", "name: \"w }\""),
        ("aaaaaaaa-0000-4000-8000-000000000001", "\"x\\\"\""),
        ("namespace: ns", "namespace: \"a\\nb\""),
    ] {
        let detected = found(&bound("Deployment", "", "").replace(from, to), &options());
        assert!(!detected.workloads[0].missing.is_empty(), "{to}: {detected:?}");
        assert!(files(&detected, &options()).is_empty(), "{to}");
    }
    let image = Options { image: Some("a b".to_owned()), ..options() };
    assert!(folders(&found(&bound("Deployment", "", ""), &image).workloads, &image).is_err());
}

#[test]
fn objects_that_a_workload_made_are_no_workloads_of_their_own() {
    let made = "---\napiVersion: v1\nkind: Pod\nmetadata: { name: w-7-x, namespace: ns, labels: { aadpodidbinding: sel }, ownerReferences: \
        [ { kind: ReplicaSet, name: w-7 } ] }\nspec: { containers: [ { name: app } ] }\n";
    let text = format!("{}{made}", bound("Deployment", "", ""));
    assert_eq!(found(&text, &options()).workloads.len(), 1);
    let alone = format!("{IDENTITY}{made}");
    assert_eq!(found(&alone, &options()).workloads[0].kind, "Pod");
    let assigned = "---\napiVersion: aadpodidentity.k8s.io/v1\nkind: AzureAssignedIdentity\nmetadata: { name: a }\nspec: { pod: other-1, podNamespace: ns }\n";
    assert!(found(&format!("{text}{assigned}"), &options()).notes[0].contains("ns/other-1"));
}
