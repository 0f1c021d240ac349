//! Checks the links in the repository's Markdown pages: every link has a target, and every page is reachable from `docs/README.md`.

// A test may panic.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The page from which every other page must be reachable.
const INDEX: &str = "docs/README.md";

/// The page that is ordered by symptom.
const TROUBLESHOOTING: &str = "docs/troubleshooting.md";

/// Pages that must link to [`TROUBLESHOOTING`].
const MUST_LINK_TO_TROUBLESHOOTING: &[&str] = &[
    "README.md",
    INDEX,
    "docs/absolute-links.md",
    "docs/azure-services.md",
    "docs/compatibility.md",
    "docs/configuration.md",
    "docs/destinations.md",
    "docs/istio.md",
    "docs/migrate.md",
    "docs/operating.md",
    "docs/tokens.md",
    "docs/upgrade.md",
];

/// Folders whose Markdown is not documentation: it is generated or downloaded, or GitHub displays it in other places.
const NOT_PAGES: &[&str] = &[".git", ".github", ".tools", "dist", "node_modules", "target"];

#[test]
fn every_relative_link_has_an_existing_file_and_heading_as_target() {
    let pages = pages();
    let mut broken = Vec::new();
    for (page, text) in &pages {
        for link in links(text) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = resolve(page, path);
            let leads = match pages.get(&target) {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty() && root().join(&target).exists(),
            };
            if !leads {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links without a target:\n{}", broken.join("\n"));
}

#[test]
fn every_page_is_reachable_from_the_index() {
    let pages = pages();
    let mut reached = BTreeSet::new();
    let mut next = vec![PathBuf::from(INDEX)];
    while let Some(page) = next.pop() {
        if reached.insert(page.clone()) {
            next.extend(targets(&page, &pages).filter(|target| pages.contains_key(target)));
        }
    }
    let must_be = |page: &&PathBuf| page.starts_with("docs") || page.parent() == Some(Path::new(""));
    let missing: Vec<&PathBuf> = pages.keys().filter(must_be).filter(|page| !reached.contains(*page)).collect();
    assert!(missing.is_empty(), "no path of links leads from {INDEX} to {missing:?}");
}

#[test]
fn every_operators_page_links_to_the_troubleshooting_page() {
    let pages = pages();
    let missing: Vec<&&str> = MUST_LINK_TO_TROUBLESHOOTING
        .iter()
        .filter(|page| !targets(Path::new(page), &pages).any(|target| target == Path::new(TROUBLESHOOTING)))
        .collect();
    assert!(missing.is_empty(), "no link to {TROUBLESHOOTING} in {missing:?}");
}

#[test]
fn links_and_headings_are_parsed_like_on_github() {
    let text = "# A `code` heading: with *marks*\n\n[a](b.md#c) `[no](link)` [`x`](../d) ![i](e.png \"title\")\n\n\
                ```sh\n# no heading\n[no](link)\n```\n\n## Twice\n\n## Twice\n\n<https://example.com> [web](https://example.com)\n";
    assert_eq!(links(text), ["b.md#c", "../d", "e.png"]);
    let expected = ["a-code-heading-with-marks", "twice", "twice-1"].map(str::to_owned);
    assert_eq!(anchors(text), BTreeSet::from(expected));
    assert_eq!(resolve(Path::new("docs/decisions/a.md"), "../b.md"), Path::new("docs/b.md"));
    assert_eq!(resolve(Path::new("docs/a.md"), ""), Path::new("docs/a.md"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every page with its text, by its path from the repository's root.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().map(Result::unwrap) {
            let (path, kind) = (folder.join(entry.file_name()), entry.file_type().unwrap());
            if kind.is_dir() && !NOT_PAGES.iter().any(|name| entry.file_name() == *name) {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "md") {
                pages.insert(path, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    assert!(pages.contains_key(Path::new(INDEX)), "{INDEX} is missing");
    pages
}

/// The target paths of a page's links.
fn targets<'a>(page: &'a Path, pages: &'a BTreeMap<PathBuf, String>) -> impl Iterator<Item = PathBuf> + 'a {
    let links = pages.get(page).map(|text| links(text)).unwrap_or_default();
    links.into_iter().map(move |link| resolve(page, link.split('#').next().unwrap_or_default()))
}

/// The target of a link, as a path from the repository's root; the page itself if the link has only an anchor.
fn resolve(page: &Path, link: &str) -> PathBuf {
    if link.is_empty() {
        return page.to_owned();
    }
    let mut path = page.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {link} leads out of the repository", page.display()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

/// The lines of a page outside fenced code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// The targets of a page's links, without those to other sites.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        // Text between backticks is code.
        let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join("");
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            let target = target.split(' ').next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                links.push(target.to_owned());
            }
        }
    }
    links
}

/// The anchors that GitHub generates for a page's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let mut candidates = std::iter::once(anchor.clone()).chain(numbered);
        anchors.extend(candidates.find(|candidate| !anchors.contains(candidate)));
    }
    anchors
}
