//! `make image` and `make push`: the image of the module as an OCI layout, and in a registry.
//!
//! ```text
//! image build MODULE DIRECTORY VERSION [COMMIT]
//! image push MODULE REGISTRY/REPOSITORY VERSION [COMMIT]
//! ```
//!
//! A registry that asks for a login gets `REGISTRY_USER` and `REGISTRY_PASSWORD`.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use image::{About, Credentials, Image, Reference, Registry};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("image: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    match arguments {
        ["build", module, directory, version, more @ ..] => {
            let image = made(module, version, more.first())?;
            write(Path::new(directory), &image, version)?;
            Ok(format!("{directory}: {}", image.digest()))
        }
        ["push", module, name, version, more @ ..] => {
            let image = made(module, version, more.first())?;
            let reference = Reference::parse(name).map_err(|reason| format!("{name} {reason}"))?;
            Registry::of(&reference, credentials()).push(&image, version)?;
            Ok(format!("{}/{}@{}", reference.registry, reference.repository, image.digest()))
        }
        _ => Err("write: build MODULE DIRECTORY VERSION [COMMIT], or push MODULE REGISTRY/REPOSITORY VERSION [COMMIT]"
            .into()),
    }
}

fn made(module: &str, version: &str, revision: Option<&&str>) -> Result<Image, Box<dyn Error>> {
    let content = std::fs::read(module).map_err(|error| format!("{module} cannot be read: {error}"))?;
    let about = About { version: version.to_owned(), revision: revision.map(|text| (*text).to_owned()) };
    Ok(Image::of_module(&content, &about)?)
}

fn credentials() -> Option<Credentials> {
    Some(Credentials { user: std::env::var("REGISTRY_USER").ok()?, password: std::env::var("REGISTRY_PASSWORD").ok()? })
}

/// Writes the layout in place of an earlier one.
fn write(directory: &Path, image: &Image, tag: &str) -> std::io::Result<()> {
    // Only what is a layout is removed.
    if directory.join("oci-layout").exists() {
        std::fs::remove_dir_all(directory)?;
    }
    for (path, content) in image.layout(tag) {
        let path = directory.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, content)?;
    }
    Ok(())
}
