//! Every manifest, and every example in the documentation, passes `check --strict`, or says in a comment which warning it accepts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use operator::{Finding, Options, Source, check};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files below a folder with one of these endings, in order.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn described(source: &Source, first_line: usize, findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let line = source.position(finding.span.start).line + first_line - 1;
        writeln!(text, "{}:{line} {}: {}", source.name(), finding.code, finding.message).unwrap();
    }
    text
}

#[test]
fn every_manifest_passes_the_strict_check() {
    let mut found = String::new();
    let folders = [("envoy", [".yaml"].as_slice()), ("examples", &[".yaml", ".json"])];
    let files: Vec<PathBuf> = folders.iter().flat_map(|(folder, endings)| files(folder, endings)).collect();
    assert!(files.len() > 10);
    for path in files {
        let source = Source::read(path.display().to_string(), &std::fs::read(&path).unwrap()).unwrap();
        // JSON has no comments: those in the page of its folder are about it.
        let page = path.with_file_name("README.md");
        let page = std::fs::read_to_string(page).unwrap_or_default();
        let accepted = page.lines().filter_map(accepted).filter(|_| path.extension().unwrap() == "json").collect();
        let checked = check(std::slice::from_ref(&source), &Options { accepted, ..Options::default() });
        found += &described(&source, 1, &checked.findings);
    }
    assert!(found.is_empty(), "\n{found}");
}

/// The objects of the mesh are applied together.
#[test]
fn the_manifests_of_a_mesh_pass_the_strict_check_together() {
    let read = |path: &PathBuf| Source::read(path.display().to_string(), &std::fs::read(path).unwrap()).unwrap();
    let sources: Vec<Source> = files("envoy/istio", &[".yaml"]).iter().map(read).collect();
    let checked = check(&sources, &Options::default());
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    assert!(checked.configurations >= 4);
}

/// A fenced block of a page.
struct Block {
    language: String,
    /// The line of the page in which the block's text begins.
    line: usize,
    text: String,
    accepted: Vec<String>,
}

/// The code that a comment of a page accepts.
fn accepted(line: &str) -> Option<String> {
    let rest = line.strip_prefix("<!-- entra-exchange check: accept ")?;
    rest.split(',').next().map(str::to_owned)
}

/// The fenced blocks of a page. `<!-- entra-exchange check: accept CODE, because … -->` before a block is about the block.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut accepted_next = Vec::new();
    for (index, line) in page.lines().enumerate() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let accepted = std::mem::take(&mut accepted_next);
                open = Some(Block { language: language.to_owned(), line: index + 2, text: String::new(), accepted });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => writeln!(block.text, "{line}").unwrap(),
            (None, None) => match accepted(line) {
                Some(code) => accepted_next.push(code),
                None if line.trim().is_empty() => {}
                None => accepted_next.clear(),
            },
        }
    }
    blocks
}

#[test]
fn every_example_in_the_documentation_passes_the_strict_check() {
    let (mut found, mut configurations) = (String::new(), 0);
    let mut pages = files("docs", &[".md"]);
    pages.extend(files("examples", &[".md"]));
    pages.push(root().join("README.md"));
    for page in pages {
        for block in blocks(&std::fs::read_to_string(&page).unwrap()) {
            let ending = match block.language.as_str() {
                "json" => "json",
                "yaml" => "yaml",
                _ => continue,
            };
            let source = Source::new(format!("{}#{ending}.{ending}", page.display()), block.text);
            let options = Options { accepted: block.accepted, ..Options::default() };
            let checked = check(std::slice::from_ref(&source), &options);
            configurations += checked.configurations;
            // A part of another file, or a reply.
            let mut findings = checked.findings;
            findings.retain(|finding| finding.code != "no_configuration");
            found += &described(&source, block.line, &findings);
        }
    }
    assert!(found.is_empty(), "\n{found}");
    assert!(configurations >= 12, "{configurations}");
}

#[test]
fn a_token_proxy_with_a_ca_of_the_pod_is_accepted_as_a_cluster_for_entra() {
    let files = ["aks-token-proxy", "aks-token-proxy-new-connection"];
    let read = |name: &&str| std::fs::read_to_string(root().join(format!("envoy/sources/{name}.yaml"))).unwrap();
    let clusters = files.iter().map(read).collect::<String>().replace('\n', "\n  ");
    let configuration = "entra: { clusters: [aks_token_proxy, aks_token_proxy_new_connection] }\n\
                         destinations: [{ hosts: [x.example], action: pass }]\n";
    let ca = read(&"aks-token-proxy-ca");
    let found = |ca: &[&str]| {
        let envoy = format!("static_resources:\n  clusters:\n  {clusters}\n");
        let mut sources = vec![Source::new("filter.yaml", configuration), Source::new("envoy.yaml", &envoy)];
        sources.extend(ca.iter().map(|ca| Source::new("ca.yaml", *ca)));
        let found = check(&sources, &Options::default()).findings;
        found.into_iter().map(|finding| finding.code).collect::<Vec<_>>()
    };
    assert_eq!([found(&[]), found(&[&ca])], [Vec::<&str>::new(), Vec::new()]);
    // Any public CA could be asked for a certificate with this name.
    let public = ca.replace("/var/run/secrets/azure/wi/ca-cert/ca.crt", "/etc/ssl/certs/ca-certificates.crt");
    assert!(found(&[&public]).contains(&"entra_name_not_verified"));
}
