//! `check`: every mistake and every risk in configurations and manifests, each at its place.

mod clusters;
mod configuration;
pub(crate) mod environment;
mod istio;
mod listeners;
mod logs;
mod risks;
mod sentences;
mod sources;
mod token_file;

use std::collections::HashSet;
use std::ops::Range;

use crate::document;
use crate::finding::{Finding, Findings, Severity};
use crate::inventory::Inventory;
use crate::source::Source;

/// What `check` is told in addition to the files.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Environment variables of the proxy's container, which override those in the files.
    pub variables: Vec<(String, String)>,
    /// The time, in seconds since 1970, for settings that depend on it.
    pub now: Option<u64>,
    /// The codes of warnings that are accepted in all files.
    pub accepted: Vec<String>,
}

/// The result of `check`.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The findings, in the order of the sources and of their places. Accepted ones are left out.
    pub findings: Vec<Finding>,
    /// How many configurations of the filter were found.
    pub configurations: usize,
    /// How many findings a comment accepts.
    pub accepted: usize,
}

impl Checked {
    /// How many findings have this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// The comment that accepts all findings with a code in its file: `entra-exchange check: accept CODE, because …`.
const ACCEPT: &str = "entra-exchange check: accept ";

/// Checks the sources together: a cluster may be in one file, and the configuration that names it in another.
pub fn check(sources: &[Source], options: &Options) -> Checked {
    let Checked { mut findings, configurations, .. } = every(sources, options);
    let all = findings.len();
    findings.retain(|finding| !is_accepted(sources, options, finding));
    let accepted = all.saturating_sub(findings.len());
    Checked { findings, configurations, accepted }
}

/// Checks the sources, and returns every finding, accepted or not.
pub(crate) fn every(sources: &[Source], options: &Options) -> Checked {
    let mut findings = Findings::default();
    let documents = document::read(sources, &mut findings);
    let inventory = Inventory::of(sources, &documents);
    let environment = environment::of(&inventory, options);
    configuration::check(&inventory, &environment, options, &mut findings);
    risks::check(&inventory, &mut findings);
    clusters::check(&inventory, &environment, &mut findings);
    sources::check(&inventory, &mut findings);
    listeners::check(&inventory, &mut findings);
    logs::check(sources, &inventory, &mut findings);
    istio::check(sources, &inventory, &mut findings);
    token_file::check(&inventory, &mut findings);
    let mut findings = findings.0;
    findings.sort_by_key(|finding| (finding.source, finding.span.start, finding.severity));
    // An object that is used again by a YAML alias is checked once for each use. Several fields may be missing at one place.
    let mut seen: HashSet<(usize, Range<usize>, &str, String)> = HashSet::new();
    findings.retain(|Finding { source, span, code, message, path, .. }| {
        let field = path.as_ref().and_then(|path| path.rsplit('.').next()).unwrap_or_default();
        seen.insert((*source, span.clone(), *code, format!("{field}: {message}")))
    });
    Checked { findings, configurations: inventory.configurations.len(), accepted: 0 }
}

/// Whether the options, or a comment in the file, accept the finding. A mistake cannot be accepted.
fn is_accepted(sources: &[Source], options: &Options, finding: &Finding) -> bool {
    let source = sources.get(finding.source);
    finding.severity == Severity::Warning
        && (options.accepted.iter().any(|code| code == finding.code)
            || source.is_some_and(|source| accepts(source, finding.code)))
}

/// Whether a comment in the file accepts the findings with a code.
pub(crate) fn accepts(source: &Source, code: &str) -> bool {
    let names = |rest: &str| rest.split([',', ' ', '\n', ':']).next() == Some(code);
    source.text().split(ACCEPT).skip(1).any(names)
}
