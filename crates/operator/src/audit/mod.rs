//! `audit`: who may get which token where, what is wider than it need be, and what changed.

mod csv;
mod permissions;
mod text;
mod use_log;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::check::{self, Options, check};
use crate::document;
use crate::finding::{self, Findings, Severity};
use crate::inventory::Inventory;
use crate::source::Source;
pub use csv::csv;
pub use permissions::{Permission, Right};
pub use text::text;
pub use use_log::Uses;

/// A kind of finding of an access review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The code: one of `check`, or one of those that only a review has.
    pub code: &'static str,
    /// What a reviewer asks: `who`, `what`, `where` or `by which right`.
    pub question: &'static str,
}

const fn ask(code: &'static str, question: &'static str) -> Question {
    Question { code, question }
}

const WHO: &str = "who";
const WHAT: &str = "what";
const WHERE: &str = "where";
const RIGHT: &str = "by which right";

/// The kinds of findings that an access review has. docs/audit.md maps each to what reviewers ask.
pub const QUESTIONS: &[Question] = &[
    ask("any_process", WHO),
    ask("resources_missing", WHAT),
    ask("broad_scope", WHAT),
    ask("scope_unused", WHAT),
    ask("identity_unused", WHAT),
    ask("same_client_id", WHAT),
    ask("wildcard_hosts", WHERE),
    ask("shared_suffix_allowed", WHERE),
    ask("plaintext_allowed", WHERE),
    ask("tls_clusters_missing", WHERE),
    ask("destination_cluster_not_verified", WHERE),
    ask("unknown_authority_allowed", WHERE),
    ask("entra_not_tls", WHERE),
    ask("entra_certificate_not_verified", WHERE),
    ask("entra_name_not_verified", WHERE),
    ask("source_cluster_not_verified", WHERE),
    ask("mirror_gets_token", WHERE),
    ask("token_logged", WHERE),
    ask("override_headers_allowed", RIGHT),
    ask("path_rules_evaded", RIGHT),
    ask("refusal_evaded", RIGHT),
    ask("on_failure_pass", RIGHT),
    ask("fail_open", RIGHT),
    ask("node_credentials_passed", RIGHT),
    ask("foreign_metadata_passed", RIGHT),
];

/// Something that is wider than it need be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The code, one of [`QUESTIONS`].
    pub code: &'static str,
    /// What a reviewer asks.
    pub question: &'static str,
    /// The file.
    pub file: String,
    /// The place in the configuration, or the line of the file.
    pub place: String,
    /// What was found.
    pub message: String,
    /// An instruction.
    pub remedy: String,
    /// Whether a comment in the file accepts it, with a reason there.
    pub accepted: bool,
}

/// A permission that only one of two versions has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Whether the new version has it.
    pub added: bool,
    /// The permission.
    pub permission: Permission,
}

/// The result of `audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// Every permission.
    pub permissions: Vec<Permission>,
    /// What is wider than it need be.
    pub findings: Vec<Finding>,
    /// What changed; `None` without an older version.
    pub changes: Option<Vec<Change>>,
}

impl Audited {
    /// Whether nothing needs a decision: no finding that nobody accepted, and no permission that is new.
    pub fn is_good(&self) -> bool {
        let is_new = self.changes.iter().flatten().any(|change| change.added);
        !is_new && self.findings.iter().all(|finding| finding.accepted)
    }
}

/// Reviews the configurations in the sources. `against` is an older version, and `uses` what the log of a running filter shows.
///
/// # Errors
/// If a configuration has mistakes, or the sources contain none: a sentence.
pub fn audit(
    sources: &[Source],
    against: Option<&[Source]>,
    uses: Option<&Uses>,
    variables: &[(String, String)],
) -> Result<Audited, String> {
    let options = Options { variables: variables.to_vec(), ..Options::default() };
    let mut permissions = permissions_of(sources, &options)?;
    let mut findings = of_check(sources, &options);
    findings.extend(permissions.iter().flat_map(own));
    if let Some(uses) = uses {
        permissions.iter_mut().for_each(|permission| uses.mark(permission));
        findings.extend(permissions.iter().filter(|permission| permission.used == Some(false)).map(unused));
    }
    let order = |finding: &Finding| QUESTIONS.iter().position(|question| question.code == finding.code);
    findings.sort_by_key(order);
    findings.dedup();
    for finding in &mut findings {
        let source = sources.iter().find(|source| source.name() == finding.file);
        finding.accepted = source.is_some_and(|source| check::accepts(source, finding.code));
    }
    let changes = match against {
        None => None,
        Some(older) => {
            let older = permissions_of(older, &options).map_err(|reason| format!("the older version: {reason}"))?;
            Some(changes(&older, &permissions))
        }
    };
    Ok(Audited { permissions, findings, changes })
}

fn permissions_of(sources: &[Source], options: &Options) -> Result<Vec<Permission>, String> {
    let mistakes = check(sources, options).count(Severity::Error);
    if mistakes > 0 {
        return Err(format!("the files have {}", finding::correct(mistakes)));
    }
    let documents = document::read(sources, &mut Findings::default());
    let inventory = Inventory::of(sources, &documents);
    if inventory.configurations.is_empty() {
        return Err(
            "the files contain no configuration of the filter: give it, or the manifest that contains it".to_owned()
        );
    }
    let environment = check::environment::of(&inventory, options);
    let mut permissions = Vec::new();
    for configuration in &inventory.configurations {
        let file = sources.get(configuration.source).map(Source::name).unwrap_or_default();
        permissions.extend(permissions::of(file, configuration, &environment)?);
    }
    Ok(permissions)
}

/// What `check` finds, as far as it is about access.
fn of_check(sources: &[Source], options: &Options) -> Vec<Finding> {
    let every = check::every(sources, options).findings;
    let of_review = every.into_iter().filter_map(|found| {
        let Question { code, question } = *QUESTIONS.iter().find(|question| question.code == found.code)?;
        let source = sources.get(found.source)?;
        let line = source.position(found.span.start).line;
        Some(Finding {
            code,
            question,
            file: source.name().to_owned(),
            place: found.path.clone().unwrap_or_else(|| format!("line {line}")),
            accepted: false,
            message: found.message,
            remedy: found.remedy,
        })
    });
    of_review.collect()
}

/// Findings that only a review has: they are no risk of their own.
fn own(permission: &Permission) -> Vec<Finding> {
    let finding = |code: &'static str, question, message: String, remedy: &str| Finding {
        code,
        question,
        file: permission.file.clone(),
        place: permission.place.clone(),
        message,
        remedy: remedy.to_owned(),
        accepted: false,
    };
    let mut findings = Vec::new();
    let wildcards: Vec<&str> =
        permission.hosts.iter().map(String::as_str).filter(|host| host.starts_with('*')).collect();
    if !wildcards.is_empty() && permission.right != Right::Imds {
        findings.push(finding(
            "wildcard_hosts",
            WHERE,
            format!("the token of {} is sent to every host below {}", permission.identity, wildcards.join(", ")),
            "List the hosts that the workload calls.",
        ));
    }
    if permission.right == Right::Imds {
        findings.push(finding(
            "any_process",
            WHO,
            format!("every process of the pod may get a token of {}", permission.identity),
            "Use app_service, whose callers need a secret, or list only identities that every process may have.",
        ));
    }
    findings
}

fn unused(permission: &Permission) -> Finding {
    Finding {
        code: "scope_unused",
        question: WHAT,
        file: permission.file.clone(),
        place: permission.place.clone(),
        message: format!("the log has no exchange of {} for {}", permission.identity, permission.scope),
        remedy: "Remove the permission if nothing needs it, after a time that covers rare tasks.".to_owned(),
        accepted: false,
    }
}

/// The permissions that only one of two versions has.
fn changes(older: &[Permission], newer: &[Permission]) -> Vec<Change> {
    let keys = |permissions: &[Permission]| permissions.iter().map(Permission::key).collect::<BTreeSet<_>>();
    let (before, after) = (keys(older), keys(newer));
    let only = |added: bool, permissions: &[Permission], others: &BTreeSet<_>| {
        let mut seen = BTreeSet::new();
        let new = permissions.iter().filter(|one| !others.contains(&one.key()) && seen.insert(one.key()));
        new.map(|one| Change { added, permission: one.clone() }).collect::<Vec<_>>()
    };
    [only(true, newer, &before), only(false, older, &after)].concat()
}

#[cfg(test)]
mod tests;
