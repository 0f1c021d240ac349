//! Embeds two values in the module: the commit that it is built from, which it logs when it starts, and the fingerprint of its sources,
//! from which a test knows that the module was built from this checkout.

// A build script may panic.
#![allow(clippy::expect_used)]

use std::env;
use std::path::Path;
use std::process::Command;

// The tests include the same file.
#[path = "crates/stack/src/sources.rs"]
mod sources;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=ENTRA_EXCHANGE_COMMIT={commit}");
    // HEAD changes with the branch, and its log with every commit.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }

    let root = env::var_os("CARGO_MANIFEST_DIR").expect("CARGO_MANIFEST_DIR");
    let fingerprint = sources::fingerprint(Path::new(&root)).expect("the sources");
    println!("cargo::rustc-env=ENTRA_EXCHANGE_SOURCES={}{fingerprint}", sources::MARK);
    for source in sources::SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
}
