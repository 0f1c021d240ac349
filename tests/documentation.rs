//! The commands with which `docs/istio.md` checks an installation: they show what the page says.

// A test may panic.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use stack::{Options, Request, Response, Stack};

fn document(file: &str) -> String {
    fs::read_to_string(stack::root().join(file)).unwrap()
}

/// The shell blocks of a document.
fn shell_blocks(text: &str) -> Vec<&str> {
    text.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// A command line's words; the documents quote with single quotes only.
fn split_words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

/// Sends what `curl` would send to a port of `envoy/sidecar/envoy.yaml`.
fn curl(line: &str, stack: &Stack) -> Response {
    let words = split_words(line);
    assert_eq!(words[0], "curl", "{line}");
    let url = words.iter().find_map(|word| word.strip_prefix("http://127.0.0.1:")).unwrap();
    let (port, path) = url.split_at(url.find('/').unwrap());
    let header = words.iter().skip_while(|word| *word != "-H").nth(1);
    let host = header.map_or("127.0.0.1", |header| header.strip_prefix("Host: ").unwrap());
    let addr = match port {
        "15001" => stack.outbound_addr(),
        "15000" => stack.envoy.admin_addr(),
        _ => panic!("{line}: nothing listens there"),
    };
    Request::get(host, path).send(addr).unwrap()
}

#[test]
fn the_commands_that_check_plain_envoy_show_what_the_page_says() {
    let page = document("docs/istio.md");
    let plain = page.split("\n## Plain Envoy\n").nth(1).unwrap();
    let [service, metrics] = shell_blocks(plain)[0].lines().collect::<Vec<_>>().try_into().unwrap();
    let stack = Stack::start(Options::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(curl(service, &stack).status, 200, "{}", stack.log());
    let issued = || stack.log().contains("event=exchange outcome=issued");
    assert!(stack::eventually(Duration::from_secs(5), issued), "{}", stack.log());
    let injected = r#"entra_exchange_requests_total{identity="default",outcome="injected"} 1"#;
    let counted = || curl(metrics, &stack).text().contains(injected);
    assert!(stack::eventually(Duration::from_secs(10), counted), "{}", curl(metrics, &stack).text());
    // The other page with the same command.
    assert!(document("docs/troubleshooting.md").contains(split_words(metrics).last().unwrap()));
}

/// What needs a cluster is compared with the manifests: the names that its commands look for.
#[test]
fn the_commands_that_check_istio_look_for_what_the_manifests_have() {
    let page = document("docs/istio.md");
    let checks = page.split("### Verify on AKS").nth(1).unwrap();
    let block = shell_blocks(checks)[0];
    let objects = |file: &str| stack::document::read(&format!("envoy/istio/{file}")).unwrap();

    let workload = objects("workload.yaml");
    let deployment = workload.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let (namespace, name) = (&deployment["metadata"]["namespace"], &deployment["metadata"]["name"]);
    for line in block.lines() {
        let words = split_words(line);
        let after = |option: &str| words.iter().skip_while(|word| *word != option).nth(1);
        assert_eq!(after("-n").unwrap(), namespace.as_str().unwrap(), "{line}");
        let target = words.iter().find_map(|word| word.strip_prefix("deploy/"));
        assert!(target.is_none_or(|target| target == name), "{line}");
        if let Some(label) = after("-l") {
            let (key, value) = label.split_once('=').unwrap();
            assert_eq!(deployment["spec"]["template"]["metadata"]["labels"][key], value, "{line}");
        }
    }

    let filters = objects("envoyfilter.yaml");
    let patches = filters.iter().filter_map(|object| object["spec"]["configPatches"].as_array()).flatten();
    let clusters: BTreeSet<&str> = patches
        .filter(|patch| patch["applyTo"] == "CLUSTER")
        .map(|patch| patch["patch"]["value"]["name"].as_str().unwrap())
        .collect();
    let alternatives = block.split("grep -E '^(").nth(1).unwrap().split(')').next().unwrap();
    assert_eq!(alternatives.split('|').collect::<BTreeSet<_>>(), clusters);

    // `grep -A1 -E 'AZURE_|azure-identity-token'` must find the variables and the token's path.
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    let found =
        |annotation: &str| -> Value { serde_json::from_str(annotations[annotation].as_str().unwrap()).unwrap() };
    let variables = found("proxy.istio.io/config")["proxyMetadata"].take();
    assert!(variables.as_object().unwrap().keys().all(|name| name.starts_with("AZURE_")), "{variables}");
    assert_eq!(variables.as_object().unwrap().len(), 3);
    assert!(annotations["sidecar.istio.io/userVolume"].as_str().unwrap().contains("azure-identity-token"));
}
