//! Reads files and standard input. What cannot be read is one line that says why.

use std::fs::File;
use std::io::{ErrorKind, Read, Stdin};

use operator::{LONGEST, NotText, Source};

use crate::output::Failure;

/// The name that stands for standard input.
const STDIN: &str = "-";

/// Reads the files as sources. `-` is standard input, and may be given once.
pub(crate) fn sources(names: &[String]) -> Result<Vec<Source>, Failure> {
    if names.iter().filter(|name| *name == STDIN).count() > 1 {
        return Err(Failure::input("- is given twice: standard input can be read once"));
    }
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
        Failure::input(format!("{name} {reason}"))
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

fn from_stdin(stdin: Stdin) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX).saturating_add(1);
    stdin
        .take(limit)
        .read_to_end(&mut content)
        .map_err(|error| Failure::input(format!("standard input cannot be read: {error}")))?;
    Ok(content)
}
