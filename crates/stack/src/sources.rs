//! Computes the fingerprint of the module's sources. The build script of the root package includes this file and embeds the
//! fingerprint in the module; the tests compare it with the checkout that they run in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The text before the fingerprint in the module.
pub(crate) const MARK: &str = "entra-exchange-sources:";

/// All files and folders that determine the module's content, relative to the repository's root.
pub(crate) const SOURCES: [&str; 16] = [
    "Cargo.lock",
    "Cargo.toml",
    "build.rs",
    "crates/abi/Cargo.toml",
    "crates/abi/src",
    "crates/core/Cargo.toml",
    "crates/core/build.rs",
    "crates/core/data",
    "crates/core/src",
    "crates/stack/src/sources.rs",
    "rust-toolchain.toml",
    "scripts/build-module",
    "scripts/fetch-wasm-opt",
    "scripts/wasm-opt/package-lock.json",
    "scripts/wasm-opt/requirements.txt",
    "src",
];

/// Returns the files of [`SOURCES`] in a fixed order, relative to `root`. Unit tests (`tests.rs` and folders named `tests`) are not
/// part of the module and are left out.
pub(crate) fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(root, Path::new(source), &mut files)?;
    }
    files.sort();
    Ok(files)
}

/// Returns the SHA-256 over the names and contents of [`files`] in hexadecimal digits. It does not depend on time, path or commit, so it
/// is the same in a clone, in a worktree and after an edit that was undone.
pub(crate) fn fingerprint(root: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    for file in files(root)? {
        let name: Vec<_> = file.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        let content = fs::read(root.join(&file))?;
        for part in [name.join("/").as_bytes(), &content] {
            hash.update(part.len().to_string());
            hash.update(":");
            hash.update(part);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(root: &Path, source: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !root.join(source).is_dir() {
        files.push(source.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(root.join(source))? {
        let name = entry?.file_name();
        // Temporary files of editors are not sources.
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let is_source = Path::new(&name)
            .extension()
            .is_none_or(|extension| ["rs", "tsv", "css"].iter().any(|known| extension == *known));
        if is_source && !hidden && name != "tests" && name != "tests.rs" {
            collect(root, &source.join(name), files)?;
        }
    }
    Ok(())
}
