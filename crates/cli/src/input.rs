//! Reads files and standard input. What cannot be read is one line that says why.

use std::fs::File;
use std::io::{ErrorKind, Read, Stdin};
use std::sync::atomic::{AtomicBool, Ordering};

use operator::{LONGEST, NotText, Source};

use crate::output::Failure;

/// The name that stands for standard input.
const STDIN: &str = "-";

/// Reads the files as sources. `-` is standard input.
pub(crate) fn sources(names: &[String]) -> Result<Vec<Source>, Failure> {
    names.iter().map(|name| source(name)).collect()
}

/// Reads one file, or standard input, as a source.
pub(crate) fn source(name: &str) -> Result<Source, Failure> {
    let shown = if name == STDIN { "standard input" } else { name };
    let content = bytes(name)?;
    Source::read(shown, &content).map_err(|reason| Failure::input(format!("{shown} {reason}")))
}

/// Reads the content of a file, or of standard input.
pub(crate) fn bytes(name: &str) -> Result<Vec<u8>, Failure> {
    if name == STDIN {
        return from_stdin(std::io::stdin());
    }
    let cannot = |error: &std::io::Error| {
        let reason = match error.kind() {
            ErrorKind::NotFound => "does not exist: check its name".to_owned(),
            ErrorKind::PermissionDenied => "cannot be read: permission denied".to_owned(),
            ErrorKind::IsADirectory => "is a directory: name its files, such as FOLDER/*.yaml".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        let shown = if name.is_empty() { "\"\"" } else { name };
        Failure::input(format!("{shown} {reason}"))
    };
    let file = File::open(name).map_err(|error| cannot(&error))?;
    let about = file.metadata().map_err(|error| cannot(&error))?;
    if about.is_dir() {
        return Err(cannot(&ErrorKind::IsADirectory.into()));
    }
    let mut content = Vec::new();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut content).map_err(|error| cannot(&error))?;
    if content.len() > LONGEST {
        return Err(Failure::input(format!("{name} {}", NotText::TooLong)));
    }
    Ok(content)
}

/// Reads standard input, which several arguments of a verb can name, but which can be read once.
fn from_stdin(stdin: Stdin) -> Result<Vec<u8>, Failure> {
    static IS_READ: AtomicBool = AtomicBool::new(false);
    if IS_READ.swap(true, Ordering::Relaxed) {
        return Err(Failure::input("- is given twice: standard input can be read once"));
    }
    let mut content = Vec::new();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX).saturating_add(1);
    stdin
        .take(limit)
        .read_to_end(&mut content)
        .map_err(|error| Failure::input(format!("standard input cannot be read: {error}")))?;
    Ok(content)
}
