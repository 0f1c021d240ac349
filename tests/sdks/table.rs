//! `docs/compatibility.md`: what the runs have shown, one line for each SDK and source.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use crate::cases::{self, Case};
use crate::sdk::{self, Sdk};
use crate::world::Source;

const FILE: &str = "docs/compatibility.md";

/// What one SDK has shown at one source: by the column.
type Cells = BTreeMap<&'static str, String>;

/// By the SDK's id and the source, its version and what it has shown.
type Lines = BTreeMap<(&'static str, Source), (String, Cells)>;

/// What the runs have shown so far. A clone is the same table.
#[derive(Clone, Default)]
pub(crate) struct Table(Arc<Mutex<Lines>>);

impl Table {
    pub(crate) fn add(&self, sdk: &Sdk, source: Source, case: &'static Case, version: &str, result: String) {
        let mut seen = self.0.lock().unwrap();
        let (of_version, cells) = seen.entry((sdk.id, source)).or_default();
        version.clone_into(of_version);
        cells.insert(case.column, result);
    }

    /// Compares with the document, line by line. A line of which something was not run, or failed, is not compared.
    ///
    /// # Errors
    /// When they differ: how.
    pub(crate) fn settle(&self) -> Result<(), String> {
        let path = stack::root().join(FILE);
        let document = std::fs::read_to_string(&path).map_err(|error| format!("{FILE}: {error}"))?;
        let head = head();
        // The table ends where the document does.
        let (text, present) = document.split_once(&head).unwrap_or((&document, ""));
        let mut lines = String::new();
        let mut differences = String::new();
        for (sdk, source) in sdk::ALL.iter().flat_map(|sdk| Source::ALL.map(|source| (sdk, source))) {
            let before = present.lines().find(|line| is_of(line, sdk, source));
            let now = self.line(sdk, source);
            if let Some(now) = &now
                && before != Some(now)
            {
                let _ = write!(differences, "\n- {}\n+ {now}", before.unwrap_or_default());
            }
            if let Some(line) = now.as_deref().or(before) {
                let _ = writeln!(lines, "{line}");
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        if std::env::var_os("UPDATE").is_some_and(|update| update == "1") {
            return std::fs::write(&path, format!("{text}{head}{lines}")).map_err(|error| format!("{FILE}: {error}"));
        }
        Err(format!("{FILE} tells otherwise; `UPDATE=1` in the environment writes what was seen:{differences}"))
    }

    /// The line, when all of it is known.
    fn line(&self, sdk: &Sdk, source: Source) -> Option<String> {
        let seen = self.0.lock().unwrap();
        let (version, cells) = seen.get(&(sdk.id, source))?;
        let mut line = format!("| {} {version} | {} | {source} |", sdk.name, sdk.language);
        for case in &cases::ALL {
            let cell = match cells.get(case.column) {
                Some(result) => result,
                None if case.sources(sdk).contains(&source) => return None,
                None => "–",
            };
            let _ = write!(line, " {cell} |");
        }
        Some(line)
    }
}

fn head() -> String {
    let columns: Vec<&str> = cases::ALL.iter().map(|case| case.column).collect();
    let rule = "---|".repeat(columns.len() + 3);
    format!("| SDK | language | source | {} |\n|{rule}\n", columns.join(" | "))
}

fn is_of(line: &str, sdk: &Sdk, source: Source) -> bool {
    let mut cells = line.split(" | ");
    let name = cells.next().and_then(|cell| cell.strip_prefix("| ")).and_then(|cell| cell.rsplit_once(' '));
    name.is_some_and(|(name, _)| name == sdk.name)
        && cells.next() == Some(sdk.language)
        && cells.next() == Some(&source.to_string())
}
