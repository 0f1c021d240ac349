//! The folder with a stack's working files.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::workspace;

/// A folder below `target/stack` that is removed when dropped, unless the test failed.
#[derive(Debug)]
pub(crate) struct Folder {
    temporary: TempDir,
}

impl Folder {
    pub(crate) fn create() -> io::Result<Self> {
        let parent = workspace::root().join("target/stack");
        std::fs::create_dir_all(&parent)?;
        let temporary = tempfile::Builder::new().prefix("run-").tempdir_in(parent)?;
        Ok(Self { temporary })
    }

    pub(crate) fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Keeps the files for troubleshooting.
    pub(crate) fn keep(&mut self) {
        self.temporary.disable_cleanup(true);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the stack's files and Envoy's log are kept in {}", self.path().display());
            self.keep();
        }
    }
}
