//! Locates the repository and the built module.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::StartError;
use crate::sources;

/// The sidecar's bootstrap, relative to the repository's root. A folder that contains it is the root.
pub(crate) const SIDECAR: &str = "envoy/sidecar/envoy.yaml";

/// The module, relative to the repository's root.
pub(crate) const MODULE: &str = "dist/entra-exchange.wasm";

/// The module built as the next version, relative to the repository's root.
const NEXT_MODULE: &str = "dist/entra-exchange-next.wasm";

/// Returns the repository's root: the nearest checkout at or above the current folder, otherwise the checkout that this crate was built
/// in. Thus a test binary from another checkout tests the checkout in which it runs.
pub fn root() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let current = env::current_dir().unwrap_or_default();
    nearest_checkout(&current, &built_from).unwrap_or(current)
}

/// Returns the path of the module that `make build` created in this checkout. It is an error when the module is missing or was built
/// from other sources than the current ones.
pub fn module() -> Result<PathBuf, StartError> {
    built_module(&root(), MODULE)
}

/// Returns the path of the module that `make next` created, the version that replaces [`module`] in the upgrade test.
pub fn next_module() -> Result<PathBuf, StartError> {
    built_module(&root(), NEXT_MODULE)
}

/// Returns the files that determine whether [`module`] is stale, relative to [`root`].
pub fn module_sources() -> io::Result<Vec<PathBuf>> {
    sources::files(&root())
}

fn nearest_checkout(current: &Path, built_from: &Path) -> Option<PathBuf> {
    current
        .ancestors()
        .chain([built_from])
        .find(|folder| folder.join(SIDECAR).is_file())
        .and_then(|folder| folder.canonicalize().ok())
}

fn built_module(root: &Path, module: &str) -> Result<PathBuf, StartError> {
    let module = root.join(module);
    let Ok(content) = fs::read(&module) else { return Err(StartError::ModuleMissing(module)) };
    let expected = sources::fingerprint(root).map_err(StartError::io("reading the sources of the module"))?;
    let expected = format!("{}{expected}", sources::MARK);
    match content.windows(expected.len()).any(|part| part == expected.as_bytes()) {
        true => Ok(module),
        false => Err(StartError::ModuleStale(module)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    type Change = fn(&Path);

    /// Creates a folder with the files that [`root`] and [`module`] read.
    fn checkout() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in sources::files(&root()).unwrap().iter().map(PathBuf::as_path).chain([Path::new(SIDECAR)]) {
            let copy = folder.path().join(file);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(root().join(file), copy).unwrap();
        }
        folder
    }

    fn build(checkout: &Path) {
        let fingerprint = sources::fingerprint(checkout).unwrap();
        fs::create_dir_all(checkout.join("dist")).unwrap();
        fs::write(checkout.join(MODULE), format!("\0asm...{}{fingerprint}...", sources::MARK)).unwrap();
    }

    fn append(file: &Path, text: &str) {
        fs::write(file, fs::read_to_string(file).unwrap() + text).unwrap();
    }

    #[test]
    fn the_current_checkout_takes_precedence_over_the_one_of_the_binary() {
        let (current, built_from, elsewhere) = (checkout(), checkout(), tempfile::tempdir().unwrap());
        let found = |from: &Path| nearest_checkout(from, built_from.path()).unwrap();

        assert_eq!(found(current.path()), current.path().canonicalize().unwrap());
        assert_eq!(found(&current.path().join("envoy/sidecar")), current.path().canonicalize().unwrap());
        assert_eq!(found(elsewhere.path()), built_from.path().canonicalize().unwrap());
    }

    #[test]
    fn a_missing_module_is_an_error() {
        let checkout = checkout();

        let error = built_module(checkout.path(), MODULE).unwrap_err();

        assert!(matches!(&error, StartError::ModuleMissing(path) if path.ends_with(MODULE)), "{error}");
    }

    #[test]
    fn a_module_is_valid_in_every_copy_of_its_sources() {
        let (one, other) = (checkout(), checkout());
        build(one.path());
        fs::create_dir(other.path().join("dist")).unwrap();
        fs::copy(one.path().join(MODULE), other.path().join(MODULE)).unwrap();

        assert_eq!(built_module(other.path(), MODULE).unwrap(), other.path().join(MODULE));
    }

    #[test]
    fn a_module_is_stale_after_any_source_change_until_the_change_is_undone() {
        let changes: [(&str, Change); 6] = [
            ("the shell", |root| append(&root.join("src/lib.rs"), " ")),
            ("the core", |root| append(&root.join("crates/core/src/path.rs"), " ")),
            ("the table of services", |root| append(&root.join("crates/core/data/azure-services.tsv"), "\n")),
            ("a dependency", |root| append(&root.join("Cargo.lock"), "\n")),
            ("a new file", |root| fs::write(root.join("crates/core/src/new.rs"), "").unwrap()),
            ("a removed file", |root| fs::remove_file(root.join("src/host.rs")).unwrap()),
        ];
        for (name, change) in changes {
            let checkout = checkout();
            build(checkout.path());
            change(checkout.path());

            let error = built_module(checkout.path(), MODULE).expect_err(name);

            assert!(matches!(error, StartError::ModuleStale(_)), "{name}: {error}");
            assert!(error.to_string().contains("run `make build`"), "{error}");
        }

        let checkout = checkout();
        let file = checkout.path().join("src/lib.rs");
        let before = fs::read_to_string(&file).unwrap();
        build(checkout.path());
        append(&file, " ");
        fs::write(&file, before).unwrap();
        built_module(checkout.path(), MODULE).unwrap();
    }

    #[test]
    fn unit_tests_and_editor_files_do_not_make_a_module_stale() {
        let checkout = checkout();
        build(checkout.path());

        for file in
            ["crates/core/src/azure/tests.rs", "crates/core/src/broker/tests/mod.rs", "src/lib.rs.swp", "src/.#lib.rs"]
        {
            fs::create_dir_all(checkout.path().join(file).parent().unwrap()).unwrap();
            fs::write(checkout.path().join(file), "changed").unwrap();
        }

        built_module(checkout.path(), MODULE).unwrap();
    }
}
