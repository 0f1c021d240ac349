//! Copies the rows of `data/azure-services.tsv`, without comments and source pages, to the output directory.

// A build script may panic.
#![allow(clippy::expect_used)]

use std::path::Path;
use std::{env, fs};

const TABLE: &str = "data/azure-services.tsv";

fn main() {
    println!("cargo::rerun-if-changed={TABLE}");
    let table = fs::read_to_string(TABLE).expect("the table");
    let mut rows = String::new();
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '@'])) {
        let row: Vec<&str> = match line.strip_prefix('\t') {
            Some(_) => line.split('\t').collect(),
            // The last field lists the source pages.
            None => line.split('\t').take(4).collect(),
        };
        rows.push_str(&row.join("\t"));
        rows.push('\n');
    }
    let folder = env::var_os("OUT_DIR").expect("OUT_DIR");
    fs::write(Path::new(&folder).join("azure-services.tsv"), rows).expect("the rows");
}
