//! Tells the module which commit it is made of, for the line that it logs when it starts, and the fingerprint of its sources, by which
//! a test knows that it reads the module of this checkout.

// A build may fail where it stands.
#![allow(clippy::expect_used)]

use std::env;
use std::path::Path;
use std::process::Command;

// The tests have the same file.
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
    // HEAD changes with the branch, its log with every commit.
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
