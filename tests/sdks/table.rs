//! Compares the results of the runs with the table in `docs/compatibility.md`, which has one line per SDK and source.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use crate::harness::Source;
use crate::scenarios::{self, Scenario};
use crate::sdk::{self, Sdk};

const FILE: &str = "docs/compatibility.md";

/// The results of one SDK at one source, by column.
type Cells = BTreeMap<&'static str, String>;

/// The version and results of each SDK and source.
type Lines = BTreeMap<(&'static str, Source), (String, Cells)>;

/// The results of the runs so far. Clones share one table.
#[derive(Clone, Default)]
pub(crate) struct Table(Arc<Mutex<Lines>>);

impl Table {
    pub(crate) fn add(&self, sdk: &Sdk, source: Source, scenario: &'static Scenario, version: &str, result: String) {
        let mut results = self.0.lock().unwrap();
        let (recorded_version, cells) = results.entry((sdk.id, source)).or_default();
        version.clone_into(recorded_version);
        cells.insert(scenario.column, result);
    }

    /// Compares the results with the document line by line. Skips lines whose scenarios did not all run and pass.
    ///
    /// # Errors
    /// The differences, when the document has other results.
    pub(crate) fn check(&self) -> Result<(), String> {
        let path = stack::root().join(FILE);
        let document = std::fs::read_to_string(&path).map_err(|error| format!("{FILE}: {error}"))?;
        let head = head();
        // The table ends where the document does.
        let (text, existing) = document.split_once(&head).unwrap_or((&document, ""));
        let mut lines = String::new();
        let mut differences = String::new();
        for (sdk, source) in sdk::ALL.iter().flat_map(|sdk| Source::ALL.map(|source| (sdk, source))) {
            let before = existing.lines().find(|line| is_of(line, sdk, source));
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
        Err(format!("{FILE} has other results; `UPDATE=1` in the environment updates it:{differences}"))
    }

    /// Returns the line; `None` when a result is missing.
    fn line(&self, sdk: &Sdk, source: Source) -> Option<String> {
        let results = self.0.lock().unwrap();
        let (version, cells) = results.get(&(sdk.id, source))?;
        let mut line = format!("| {} {version} | {} | {source} |", sdk.name, sdk.language);
        for scenario in &scenarios::ALL {
            let cell = match cells.get(scenario.column) {
                Some(result) => result,
                None if scenario.sources(sdk).contains(&source) => return None,
                None => "–",
            };
            let _ = write!(line, " {cell} |");
        }
        Some(line)
    }
}

fn head() -> String {
    let columns: Vec<&str> = scenarios::ALL.iter().map(|scenario| scenario.column).collect();
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
