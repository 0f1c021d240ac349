//! Writes files, and never over another one without `--force`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::output::Failure;

/// Writes all files, or none if one exists and may not be overwritten. Returns their paths.
pub(crate) fn write(files: &[(PathBuf, &str)], force: bool) -> Result<Vec<String>, Failure> {
    let cannot = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::input(format!("{} cannot be written: {error}", path.display()))
    };
    // A link that leads nowhere exists, too.
    let existing = files.iter().find(|(path, _)| path.symlink_metadata().is_ok());
    if let Some((path, _)) = existing.filter(|_| !force) {
        return Err(cannot(path, &"it exists; --force overwrites it"));
    }
    for (path, text) in files {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| cannot(folder, &error))?;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(!force).create(force).truncate(force);
        let written = options.open(path).and_then(|mut open| open.write_all(text.as_bytes()));
        written.map_err(|error| cannot(path, &error))?;
    }
    Ok(files.iter().map(|(path, _)| path.display().to_string()).collect())
}
