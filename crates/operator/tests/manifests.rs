//! The files below `envoy/` are made by `render`, byte for byte. `make manifests` writes them anew from the templates.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use operator::render::{Settings, Target, directory, render};
use operator::{Options, Source, check};

fn envoy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../envoy")
}

fn configuration(name: &str) -> Source {
    let path = envoy().join("configuration").join(name);
    Source::new(name, std::fs::read_to_string(path).unwrap())
}

/// The configuration from which a manifest is made, and its file.
const fn parts(target: Target) -> (&'static str, &'static str) {
    match target {
        Target::Envoy | Target::FileServer => ("sidecar.json", "sidecar"),
        Target::WasmPlugin | Target::TrafficExtension => ("istio.yaml", "istio"),
        Target::EgressGateway => ("egress-gateway.json", "istio"),
        _ => ("istio.json", "istio"),
    }
}

fn settings(target: Target) -> Settings {
    Settings { istio: (1, 30), ..Settings::of(target) }
}

#[test]
fn every_manifest_is_made_by_render() {
    let mut made = Vec::new();
    for target in Target::ALL {
        let (name, folder) = parts(target);
        let text = render(&configuration(name), target, &settings(target)).unwrap();
        let path = envoy().join(folder).join(format!("{}.yaml", target.as_str()));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap();
        let different = text.lines().zip(written.lines()).find(|(made, written)| made != written);
        assert!(text == written, "{}: change the template, and run make manifests: {different:?}", path.display());
        made.push(path);
    }
    for folder in ["sidecar", "istio"] {
        for entry in std::fs::read_dir(envoy().join(folder)).unwrap() {
            assert!(made.contains(&entry.unwrap().path()), "a manifest is not made by render");
        }
    }
}

const THREE: &str = r#"{
  "entra": { "clusters": ["entra", "entra_new_connection"] },
  "destinations": [
    { "azure_service": "key_vault", "names": ["payments-kv", "orders-kv"], "tls_clusters": ["outbound|80||{host}"] },
    { "hosts": ["payments-kv.example.com"], "scope": "api://x/.default", "tls_clusters": ["outbound|80||{host}"] },
    { "hosts": ["closed.example.com"], "action": "refuse" }
  ]
}"#;

fn other(text: &str) -> Source {
    Source::new("configuration.json", text)
}

#[test]
fn every_host_has_its_objects_and_the_result_passes_the_strict_check() {
    for target in [Target::EnvoyFilter, Target::WasmPlugin, Target::TrafficExtension, Target::Upstream] {
        let files = directory(&other(THREE), target, &settings(target)).unwrap();
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        for name in [
            "serviceentry-payments-kv.yaml",
            "serviceentry-orders-kv.yaml",
            "destinationrule-payments-kv-example-com.yaml",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("closed")));
        let sources: Vec<Source> = files.iter().map(|file| Source::new(&file.name, &file.text)).collect();
        let findings = check(&sources, &Options::default()).findings;
        assert!(findings.is_empty(), "{findings:?}");
    }
    let plain = THREE.replace("outbound|80||{host}", "to_{host}");
    let text = render(&other(&plain), Target::Envoy, &Settings::default()).unwrap();
    let source = Source::new("envoy.yaml", text);
    let findings = check(std::slice::from_ref(&source), &Options::default()).findings;
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn what_does_not_fit_a_manifest_is_refused_with_the_reason() {
    let refusal = |text: &str, target: Target| render(&other(text), target, &settings(target)).unwrap_err().to_string();
    let with = |from: &str, to: &str| THREE.replace(from, to);
    assert!(refusal(THREE, Target::Envoy).contains("cannot be the name of a cluster"));
    assert!(refusal(&with("outbound|80||{host}", "x"), Target::EnvoyFilter).contains("does not list Istio's cluster"));
    assert!(refusal(&with("outbound|80||{host}", "x"), Target::Envoy).contains("two hosts"));
    assert!(refusal(&with("[\"entra\", ", "[\"other\", "), Target::EnvoyFilter).contains("entra_new_connection"));
    assert!(
        refusal(&with("payments-kv.example.com", "*.example.com"), Target::EnvoyFilter).contains("without wildcard")
    );
    assert!(refusal(&with("\"action\"", "\"acton\""), Target::EnvoyFilter).contains("mistakes"));
    assert!(
        render(&Source::new("c.yaml", "kind: x\napiVersion: v1\n"), Target::Envoy, &Settings::default())
            .unwrap_err()
            .to_string()
            .contains("not the filter's configuration")
    );
    let health = with("\n}", ",\n  \"managed_identity\": { \"health\": { \"hosts\": [\"h.example\"] } }\n}");
    assert!(directory(&other(&health), Target::WasmPlugin, &settings(Target::WasmPlugin)).is_err());
}

/// A configuration in YAML becomes JSON in a StringValue, and a text in it cannot end the block.
#[test]
fn a_configuration_in_yaml_becomes_json_where_envoy_needs_json() {
    let yaml = "entra: { clusters: [entra, entra_new_connection] }\ndestinations:\n- name: \"a\\n- b: |\"\n  hosts: [api.example.com]\n  scope: api://x/.default\n  tls_clusters: [\"outbound|80||{host}\"]\n";
    let source = Source::new("configuration.yaml", yaml);
    for target in [Target::EnvoyFilter, Target::WasmPlugin] {
        let text = render(&source, target, &settings(target)).unwrap();
        assert_eq!(text.contains("\"clusters\": [\"entra\""), target == Target::EnvoyFilter, "{text}");
    }
    let mut tabs = THREE.replace("  ", "\t");
    tabs.push('\n');
    assert!(render(&other(&tabs), Target::WasmPlugin, &settings(Target::WasmPlugin)).is_ok());
}
