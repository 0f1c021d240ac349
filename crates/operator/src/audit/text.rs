//! The review for people: a table, the findings, and the changes.

use std::fmt::Write as _;

use super::permissions::Permission;
use super::{Audited, Finding};

const HEAD: [&str; 6] = ["IDENTITY", "SCOPE", "RIGHT", "HOSTS", "CALLERS", "PLACE"];

/// The review as text.
pub fn text(audited: &Audited) -> String {
    let mut text = table(&audited.permissions);
    for permission in audited.permissions.iter().filter(|permission| !permission.used_scopes.is_empty()) {
        let _ = writeln!(
            text,
            "\n{} ({}) requested {}",
            permission.identity,
            permission.place,
            permission.used_scopes.join(", ")
        );
    }
    if let Some(changes) = &audited.changes {
        let count = |added: bool| changes.iter().filter(|change| change.added == added).count();
        let _ = writeln!(text, "\nchanges: {} added, {} removed", count(true), count(false));
        for change in changes {
            let mark = if change.added { '+' } else { '-' };
            let [identity, scope, right, hosts, callers, _] = row(&change.permission);
            let _ = writeln!(text, "{mark} {identity} {scope} {right} {hosts} ({callers})");
        }
    }
    let open = audited.findings.iter().filter(|finding| !finding.accepted).count();
    let _ = writeln!(
        text,
        "\n{} findings, {} of them accepted",
        audited.findings.len(),
        audited.findings.len().saturating_sub(open)
    );
    for Finding { code, question, file, place, message, remedy, accepted } in &audited.findings {
        let accepted = if *accepted { ", accepted" } else { "" };
        let _ = writeln!(text, "{question}: {code} at {place} of {file}{accepted}\n  {message}\n  {remedy}");
    }
    // A control character, such as one in the name of a file, could act on the terminal.
    text.replace(|one: char| one.is_control() && one != '\n', " ")
}

fn table(permissions: &[Permission]) -> String {
    let rows: Vec<[String; 6]> = std::iter::once(HEAD.map(str::to_owned)).chain(permissions.iter().map(row)).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn row(permission: &Permission) -> [String; 6] {
    let hosts = match permission.hosts.as_slice() {
        [] => "-".to_owned(),
        [one, two, more @ ..] if !more.is_empty() => format!("{one}, {two} and {} more", more.len()),
        few => few.join(", "),
    };
    let requests =
        if permission.requests.is_empty() { String::new() } else { format!(" ({})", permission.requests.join(" ")) };
    let unused = if permission.used == Some(false) { " (not used)" } else { "" };
    [
        permission.identity.clone(),
        format!("{}{unused}", permission.scope),
        permission.right.as_str().to_owned(),
        format!("{hosts}{requests}"),
        permission.callers.join(", "),
        permission.place.clone(),
    ]
}
