//! The permissions as CSV (RFC 4180), for the sheets of a review.

use super::permissions::Permission;
use super::{Audited, Finding};

const COLUMNS: &[&str] = &[
    "change",
    "file",
    "identity",
    "tenant_id",
    "client_id",
    "scope",
    "right",
    "hosts",
    "requests",
    "callers",
    "used",
    "used_scopes",
    "place",
    "findings",
];

/// One line for each permission, those that an older version had included.
pub fn csv(audited: &Audited) -> String {
    let changes = audited.changes.as_deref().unwrap_or_default();
    let is_new = |permission: &Permission| {
        changes.iter().any(|change| change.added && change.permission.key() == permission.key())
    };
    let mut text = line(COLUMNS.iter().map(|column| (*column).to_owned()));
    for permission in &audited.permissions {
        text.push_str(&row(if is_new(permission) { "added" } else { "" }, permission, &audited.findings));
    }
    for change in changes.iter().filter(|change| !change.added) {
        text.push_str(&row("removed", &change.permission, &[]));
    }
    text
}

fn row(change: &str, permission: &Permission, findings: &[Finding]) -> String {
    let about = findings.iter().filter(|finding| {
        let place = permission.place.split(',').next().unwrap_or_default();
        finding.file == permission.file && (finding.place == permission.place || finding.place.starts_with(place))
    });
    let mut codes: Vec<&str> = about.map(|finding| finding.code).collect();
    codes.dedup();
    let used = match permission.used {
        None => "",
        Some(true) => "yes",
        Some(false) => "no",
    };
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    line(
        [
            change.to_owned(),
            permission.file.clone(),
            permission.identity.clone(),
            optional(&permission.tenant_id),
            optional(&permission.client_id),
            permission.scope.clone(),
            permission.right.as_str().to_owned(),
            permission.hosts.join(" "),
            permission.requests.join(" "),
            permission.callers.join("; "),
            used.to_owned(),
            permission.used_scopes.join(" "),
            permission.place.clone(),
            codes.join(" "),
        ]
        .into_iter(),
    )
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.map(|cell| quoted(&cell)).collect();
    format!("{}\r\n", cells.join(","))
}

/// A cell. A sheet takes one that begins with these characters as a formula (OWASP, "CSV Injection").
fn quoted(cell: &str) -> String {
    let cell = cell.replace(char::is_control, " ");
    let cell = if cell.starts_with(['=', '+', '-', '@']) { format!("'{cell}") } else { cell };
    if cell.contains(['"', ',', ';', ' ']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_no_formula_and_stays_in_its_column() {
        assert_eq!(quoted("=1+1"), "'=1+1");
        assert_eq!(quoted("a,\"b\"\nc"), "\"a,\"\"b\"\" c\"");
        assert_eq!(quoted("*.example.com"), "*.example.com");
    }
}
