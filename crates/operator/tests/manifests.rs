//! The files below `envoy/` are made by `render`, byte for byte. `make manifests` writes them anew from the templates.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use operator::render::{File, Settings, Target, directory, has_placeholder, render};
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
        Target::Gateway => ("gateway.yaml", "gateway"),
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
    for folder in ["sidecar", "istio", "gateway"] {
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
fn every_host_has_its_objects_in_envoy_gateway_and_the_result_passes_the_strict_check() {
    let source = other(&THREE.replace("outbound|80||{host}", "httproute/orders/{host}/rule/0"));
    let (namespace, gateway_class) = ("orders".to_owned(), "egress.example".to_owned());
    let settings = Settings { namespace, gateway_class, ..settings(Target::Gateway) };
    let files = directory(&source, Target::Gateway, &settings).unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    for host in ["payments-kv.vault.azure.net", "orders-kv.vault.azure.net", "payments-kv.example.com"] {
        for kind in ["httproute", "backend", "backendtlspolicy", "backendtrafficpolicy"] {
            assert!(names.contains(&format!("{kind}-{host}.yaml").as_str()), "{names:?}");
        }
    }
    assert!(!names.iter().any(|name| name.contains("closed")));
    assert!(files.iter().all(|file| !file.text.contains("namespace: payments")));
    let classes: Vec<&str> =
        files.iter().flat_map(|file| file.text.lines()).filter(|line| line.contains("gatewayClassName:")).collect();
    assert_eq!(classes, ["  gatewayClassName: egress.example"]);
    let sources: Vec<Source> = files.iter().map(|file| Source::new(&file.name, &file.text)).collect();
    let checked = check(&sources, &Options::default());
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    assert_eq!(checked.configurations, 1);
}

/// A WasmPlugin names it without its algorithm, and a workload has another image.
#[test]
fn a_placeholder_of_a_digest_is_noticed_in_every_form() {
    let with_image: Vec<&str> = Target::ALL
        .into_iter()
        .filter(|target| {
            let (source, settings) = (configuration(parts(*target).0), settings(*target));
            let made = |settings: &Settings| {
                let text = render(&source, *target, settings).unwrap();
                vec![File { name: "manifest.yaml".to_owned(), text }]
            };
            let given = Settings { digest: format!("sha256:{}", "1".repeat(64)), ..settings.clone() };
            assert!(!has_placeholder(&made(&given), &given), "{}", target.as_str());
            has_placeholder(&made(&settings), &settings)
        })
        .map(Target::as_str)
        .collect();
    let expected = ["envoyfilter", "wasmplugin", "trafficextension", "egress-gateway", "gateway"];
    assert_eq!(with_image, expected);
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
    let gateway = |from: &str, to: &str| refusal(&with(from, to), Target::Gateway);
    assert_eq!(
        gateway("outbound|80||{host}", "httproute/orders/{host}/rule/0"),
        "destinations[0].tls_clusters does not list Envoy Gateway's cluster of the host: add \
         \"httproute/payments/{host}/rule/0\""
    );
    let routed = THREE.replace("outbound|80||{host}", "httproute/payments/{host}/rule/0");
    let underscore = routed.replace("payments-kv.example.com", "payments_kv.example.com");
    assert!(refusal(&underscore, Target::Gateway).contains("cannot be the name of an HTTPRoute"));
    let endpoints = routed.replace("\n}", ",\n  \"managed_identity\": { \"app_service\": {} }\n}");
    assert!(refusal(&endpoints, Target::Gateway).contains("does not run the filter: remove it"));
    let closed = r#"{ "entra": { "clusters": ["entra", "entra_new_connection"] },
        "destinations": [ { "hosts": ["closed.example.com"], "action": "refuse" } ] }"#;
    for target in [Target::EgressGateway, Target::Gateway] {
        assert!(refusal(closed, target).contains("needs a destination whose requests get a token"));
    }
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

/// A source of federated tokens over HTTP: its fields, the hosts that the settings name, and what its manifests contain.
struct HttpSource {
    fields: &'static str,
    hosts: &'static [(&'static str, &'static str)],
    contains: &'static [&'static str],
}

const HTTP_SOURCES: &[HttpSource] = &[
    HttpSource {
        fields: r#""source": "github_actions""#,
        hosts: &[],
        contains: &[
            "suffix: .actions.githubusercontent.com",
            "ACTIONS_ID_TOKEN_REQUEST_URL",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
        ],
    },
    HttpSource {
        fields: r#""source": "github_actions", "allowed_hosts": ["ghes.example.com", ".actions.example.com"]"#,
        hosts: &[],
        contains: &["matcher: { exact: ghes.example.com }", "matcher: { suffix: .actions.example.com }"],
    },
    HttpSource {
        fields: r#""source": "azure_pipelines", "service_connection_id": "c0ffee00-1234-4cde-8f01-23456789abcd""#,
        hosts: &[],
        contains: &["exact: dev.azure.com", "SYSTEM_ACCESSTOKEN"],
    },
    HttpSource {
        fields: r#""source": "azure_pipelines", "service_connection_id": "c", "allowed_hosts": ["org.visualstudio.com"]"#,
        hosts: &[],
        contains: &["address: org.visualstudio.com, port_value: 443", "sni: org.visualstudio.com"],
    },
    HttpSource {
        fields: r#""source": "google_metadata""#,
        hosts: &[],
        contains: &["address: 169.254.169.254, port_value: 80"],
    },
    HttpSource {
        fields: r#""source": "azure_managed_identity", "client_id": "dddddddd-0000-4000-8000-000000000004""#,
        hosts: &[],
        contains: &["address: 169.254.169.254, port_value: 80"],
    },
    HttpSource {
        fields: r#""source": "azure_app_service", "client_id": "dddddddd-0000-4000-8000-000000000004""#,
        hosts: &[("own", "127.0.0.1:42356")],
        contains: &["address: 127.0.0.1, port_value: 42356", "IDENTITY_ENDPOINT"],
    },
    HttpSource {
        fields: r#""source": "aws_sts", "region": "us-east-1""#,
        hosts: &[],
        contains: &["exact: sts.us-east-1.amazonaws.com", "region: us-east-1\n", "aws_request_signing"],
    },
    HttpSource {
        fields: r#""source": "spiffe_workload_api""#,
        hosts: &[],
        contains: &["pipe: { path: /run/spire", "http2_protocol_options"],
    },
    HttpSource {
        fields: r#""source": "vault", "role": "r", "authority": "vault.example.net""#,
        hosts: &[("own", "10.0.0.7:8200")],
        contains: &[
            "address: 10.0.0.7, port_value: 8200",
            "exact: vault.example.net",
            "filename: /var/run/vault/token",
        ],
    },
    HttpSource {
        fields: r#""source": "vault", "role": "r""#,
        hosts: &[("own", "127.0.0.1")],
        contains: &["address: 127.0.0.1, port_value: 8100"],
    },
    HttpSource {
        fields: r#""source": "oidc_client_credentials", "authority": "login.example.net:8443", "path": "/t", "basic_auth": { "id": "i", "secret_from_env": "OWN_SECRET" }"#,
        hosts: &[],
        contains: &["address: login.example.net, port_value: 8443", "sni: login.example.net\n", "OWN_SECRET"],
    },
    HttpSource {
        fields: r#""source": "token_exchange", "path": "/t", "subject_token": "projected_token""#,
        hosts: &[("own", "sts.example.net")],
        contains: &["exact: sts.example.net", "server_listener_name: projected_token"],
    },
    HttpSource {
        fields: r#""source": "http", "request": { "path": "/t", "headers_from_env": { "x-key": "API_KEY" } }"#,
        hosts: &[("own", "[::1]:8080")],
        contains: &["address: \"::1\", port_value: 8080", "API_KEY"],
    },
    HttpSource {
        fields: r#""source": "http", "request": { "url_from_env": "TOKEN_URL", "allowed_hosts": [".tokens.example.net"] }"#,
        hosts: &[],
        contains: &["suffix: .tokens.example.net", "TOKEN_URL"],
    },
];

fn with_source(fields: &str, route: &str) -> Source {
    other(&format!(
        r#"{{ "entra": {{ "clusters": ["entra", "entra_new_connection"] }},
  "assertions": [ {{ "name": "s", "cluster": "own", {fields} }} ],
  "identities": [ {{ "assertion": "s" }} ],
  "destinations": [ {{ "azure_service": "key_vault", "names": ["payments-kv"], "tls_clusters": ["{route}"] }} ] }}"#
    ))
}

#[test]
fn a_source_over_http_has_its_cluster_and_variables_in_every_form() {
    let forms = [
        (Target::Envoy, "to_{host}"),
        (Target::EnvoyFilter, "outbound|80||{host}"),
        (Target::WasmPlugin, "outbound|80||{host}"),
        (Target::TrafficExtension, "outbound|80||{host}"),
        (Target::Upstream, "outbound|80||{host}"),
        (Target::EgressGateway, "outbound|443||{host}"),
        (Target::Gateway, "httproute/payments/{host}/rule/0"),
    ];
    for HttpSource { fields, hosts, contains } in HTTP_SOURCES {
        for (target, route) in forms {
            let owned = |(cluster, host): &(&str, &str)| ((*cluster).to_owned(), (*host).to_owned());
            let settings = Settings { sources: hosts.iter().map(owned).collect(), ..settings(target) };
            let files = directory(&with_source(fields, route), target, &settings);
            let files = files.unwrap_or_else(|refusal| panic!("{fields}: {}: {refusal}", target.as_str()));
            let text: String = files.iter().map(|file| file.text.as_str()).collect();
            for part in contains.iter().chain(&["name: own\n"]) {
                assert!(text.contains(part), "{fields}: {}: {part}\n{text}", target.as_str());
            }
            assert_eq!(
                text.contains("azure-identity-token"),
                contains.iter().any(|part| part.contains("projected_token")) || (target == Target::EgressGateway),
                "{fields}"
            );
            assert!(!text.contains("keycloak") && !text.contains("vault.example.com"), "{text}");
            let sources: Vec<Source> = files.iter().map(|file| Source::new(&file.name, &file.text)).collect();
            let findings = check(&sources, &Options::default()).findings;
            assert!(findings.is_empty(), "{fields}: {}: {findings:?}", target.as_str());
        }
    }
}

#[test]
fn a_source_whose_cluster_cannot_be_made_is_refused_with_the_reason() {
    let refusal = |fields: &str, hosts: &[(&str, &str)]| {
        let owned = |(cluster, host): &(&str, &str)| ((*cluster).to_owned(), (*host).to_owned());
        let settings = Settings { sources: hosts.iter().map(owned).collect(), ..Settings::default() };
        render(&with_source(fields, "to_{host}"), Target::Envoy, &settings).unwrap_err().to_string()
    };
    let vault = r#""source": "vault", "role": "r""#;
    let http = r#""source": "http", "request": { "path": "/t" }"#;
    for (fields, authority) in [(vault, "assertions[0].authority"), (http, "assertions[0].request.authority")] {
        let unknown = "assertions[0]: the host of the cluster \"own\" is not known: write --source own=HOST, or set ";
        assert_eq!(refusal(fields, &[]), format!("{unknown}{authority}"));
        assert!(refusal(fields, &[("own", "10.0.0.7")]).contains(&format!("set {authority} to the name")));
    }
    assert!(refusal(vault, &[("own", "a b")]).contains("is not a valid host"));
    assert!(
        refusal(vault, &[("own", "vault.example.net"), ("other", "x.example")])
            .contains("no assertion over HTTP has the cluster \"other\"")
    );
    assert!(refusal(r#""source": "github_actions""#, &[("own", "x.example")]).contains("allowed_hosts"));
    assert!(refusal(r#""source": "spiffe_workload_api""#, &[("own", "x.example")]).contains("leads to a socket"));
    assert!(refusal(r#""source": "aws_sts", "region": "a b""#, &[]).contains("mistake"));
    assert!(refusal(r#""source": "file""#, &[]).contains("and not by \"own\""));
}
