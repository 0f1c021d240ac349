//! `status`: the filter's status page as a table, with ages and next steps.

use std::fmt::Write as _;

use entra_exchange_core::untrusted::UntrustedText;
use serde::Deserialize;

use crate::times::length;

/// The filter's status page (`docs/configuration.md`), as far as the table shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    version: String,
    commit: String,
    #[serde(default)]
    time: String,
    configuration: Configuration,
    #[serde(default)]
    keys: Vec<Key>,
    #[serde(default)]
    keys_left_out: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
struct Configuration {
    #[serde(default)]
    sha256: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Key {
    identity: String,
    scope: String,
    state: String,
    token: Option<Token>,
    last_problem: Option<Problem>,
}

#[derive(Clone, Debug, Deserialize)]
struct Token {
    age_s: u64,
    refresh_in_s: u64,
    expires_in_s: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Problem {
    code: String,
    class: String,
    detail: String,
    remedy: String,
    aadsts: Option<String>,
    age_s: u64,
    failures: u32,
    next_try_in_s: u64,
}

impl Status {
    /// Reads the body of the page.
    ///
    /// # Errors
    /// If it is not a status page of the filter.
    pub fn read(body: &str) -> Result<Self, String> {
        serde_json::from_str(body).map_err(|error| format!("the answer is not a status page of the filter: {error}"))
    }

    /// Whether every token is available or was not requested yet.
    pub fn is_good(&self) -> bool {
        self.keys.iter().all(|key| key.last_problem.is_none())
    }

    /// How many tokens are available, in one line.
    pub fn summary(&self) -> String {
        let failing = self.keys.iter().filter(|key| key.last_problem.is_some()).count();
        format!("version {}, {} tokens, {failing} of them with a problem", clean(&self.version), self.keys.len())
    }

    /// The page as a table.
    pub fn table(&self) -> String {
        let configuration = self.configuration.sha256.get(..12).unwrap_or(&self.configuration.sha256);
        let mut text = String::new();
        let mut line = |parts: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{parts}");
        };
        let commit = self.commit.get(..12).unwrap_or(&self.commit);
        line(format_args!("filter {} ({commit}), configuration {configuration}, {}", self.version, self.time));
        for warning in &self.configuration.warnings {
            line(format_args!("warning: {}", clean(warning)));
        }
        let rows: Vec<[String; 6]> =
            std::iter::once(HEAD.map(str::to_owned)).chain(self.keys.iter().map(row)).collect();
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        line(format_args!(""));
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            line(format_args!("{}", cells.collect::<Vec<_>>().join("  ").trim_end()));
        }
        if let Some(count) = self.keys_left_out {
            line(format_args!("{count} more tokens are not shown"));
        }
        for key in &self.keys {
            if let Some(problem) = &key.last_problem {
                line(format_args!("\n{}", next_step(key, problem)));
            }
        }
        text
    }
}

const HEAD: [&str; 6] = ["IDENTITY", "SCOPE", "STATE", "AGE", "REFRESH IN", "EXPIRES IN"];

/// A text of the page, cleaned: another process may answer at the address.
fn clean(text: &str) -> String {
    UntrustedText::new(text).as_str().to_owned()
}

fn row(key: &Key) -> [String; 6] {
    let time = |of: fn(&Token) -> u64| key.token.as_ref().map_or_else(|| "-".to_owned(), |token| length(of(token)));
    [
        clean(&key.identity),
        clean(&key.scope),
        clean(&key.state),
        time(|token| token.age_s),
        time(|token| token.refresh_in_s),
        time(|token| token.expires_in_s),
    ]
}

fn next_step(key: &Key, problem: &Problem) -> String {
    let Problem { code, class, detail, remedy, aadsts, age_s, failures, next_try_in_s } = problem;
    let aadsts = aadsts.as_ref().map(|code| format!(" {}", clean(code))).unwrap_or_default();
    let next_try = if *next_try_in_s > 0 { format!("in {}", length(*next_try_in_s)) } else { "due".to_owned() };
    format!(
        "{} {}: {}{aadsts}, {}, {failures} in a row, last {} ago, next attempt {next_try}\n  cause   {}\n  remedy  {}",
        clean(&key.identity),
        clean(&key.scope),
        clean(code),
        clean(class),
        length(*age_s),
        clean(detail),
        clean(remedy),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"{ "version": "0.1.0", "commit": "abc", "time": "2026-01-31T02:10:00Z",
        "configuration": { "sha256": "0123456789abcdef", "warnings": ["w"] },
        "keys": [
            { "identity": "default", "scope": "https://vault.azure.net/.default", "key": "1", "state": "fresh",
              "token": { "age_s": 60, "refresh_in_s": 1740, "usable_for_s": 3510, "expires_in_s": 3540 } },
            { "identity": "default", "scope": "s\u001b[31m/.default", "key": "2", "state": "failing",
              "last_problem": { "code": "entra_refused", "class": "needs_change", "detail": "d", "remedy": "Do it.",
                "aadsts": "AADSTS700213", "age_s": 5, "failures": 3, "next_try_in_s": 55 } } ] }"#;

    #[test]
    fn a_page_is_a_table_with_next_steps() {
        let status = Status::read(PAGE).unwrap();
        let table = status.table();
        assert!(!status.is_good());
        for part in [
            "filter 0.1.0 (abc), configuration 0123456789ab",
            "default   https://vault.azure.net/.default  fresh    1m   29m         59m",
            "entra_refused AADSTS700213, needs_change, 3 in a row, last 5s ago, next attempt in 55s",
            "remedy  Do it.",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
        assert!(!table.contains('\u{1b}'), "{table}");
        let after = Status::read(&PAGE.replace("\"next_try_in_s\": 55", "\"next_try_in_s\": 0")).unwrap().table();
        assert!(after.contains("last 5s ago, next attempt due\n"), "{after}");
    }

    #[test]
    fn another_answer_is_named() {
        assert!(Status::read("<html>").unwrap_err().contains("not a status page"));
    }
}
