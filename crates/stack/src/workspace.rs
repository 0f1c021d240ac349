//! Where this repository lies.

use std::env;
use std::path::{Path, PathBuf};

/// The sidecar's bootstrap, seen from the repository's root. A folder that holds it is the root.
pub(crate) const SIDECAR: &str = "envoy/sidecar/envoy.yaml";

/// The repository's root: where this crate was built from, or the nearest folder above the current one.
pub fn root() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let current = env::current_dir().unwrap_or_default();
    std::iter::once(built_from.as_path())
        .chain(current.ancestors())
        .find(|folder| folder.join(SIDECAR).is_file())
        .and_then(|folder| folder.canonicalize().ok())
        .unwrap_or(current)
}
