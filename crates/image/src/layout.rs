//! The image: its layer, configuration and manifest, and the OCI layout of them as files. The same module gives the same bytes.

use std::fmt;
use std::io::{Read as _, Write as _};

use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::media_type;

/// The name of the module in the layer, which Istio's agent looks for.
const FILE: &str = "plugin.wasm";

/// The first bytes of a module (WebAssembly Core Specification, section 5.5.16).
const MAGIC: &[u8] = b"\0asm";

/// The digest of some content, as OCI writes it.
pub fn digest(content: &[u8]) -> String {
    let bytes = Sha256::digest(content);
    bytes.iter().fold(String::from("sha256:"), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// What the annotations of the image say.
#[derive(Clone, Debug)]
pub struct About {
    /// The version.
    pub version: String,
    /// The commit that the module was built from.
    pub revision: Option<String>,
}

/// Content with its type and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The media type.
    pub media_type: &'static str,
    /// The digest.
    pub digest: String,
    /// The content.
    pub content: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, content: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&content), content }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.content.len() })
    }
}

/// Why content is not the module, or an image not one with a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotModule(pub String);

impl fmt::Display for NotModule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for NotModule {}

/// An image with one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The manifest.
    pub manifest: Blob,
    /// The configuration and the layer.
    pub blobs: [Blob; 2],
}

impl Image {
    /// Makes the image of a module.
    ///
    /// # Errors
    /// If the content is not a WebAssembly module.
    pub fn of_module(module: &[u8], about: &About) -> Result<Self, NotModule> {
        if !module.starts_with(MAGIC) {
            return Err(NotModule("the file is not a WebAssembly module".to_owned()));
        }
        let cannot = |error: std::io::Error| NotModule(format!("the layer cannot be made: {error}"));
        let archive = archive(module).map_err(cannot)?;
        let layer = Blob::new(media_type::LAYER, compressed(&archive).map_err(cannot)?);
        // The agent does not read it. Clients that choose by platform take an image for this one on most machines.
        let config = sorted(&json!({
            "architecture": "amd64",
            "config": {},
            "os": "linux",
            "rootfs": { "diff_ids": [digest(&archive)], "type": "layers" },
        }));
        let config = Blob::new(media_type::CONFIG, config);
        let mut annotations = json!({
            "module.wasm.image/variant": "compat",
            "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            "org.opencontainers.image.title": "entra-exchange",
            "org.opencontainers.image.version": about.version,
        });
        if let (Some(revision), Value::Object(fields)) = (&about.revision, &mut annotations) {
            fields.insert("org.opencontainers.image.revision".to_owned(), revision.as_str().into());
        }
        let manifest = sorted(&json!({
            "annotations": annotations,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
            "mediaType": media_type::MANIFEST,
            "schemaVersion": 2,
        }));
        Ok(Self { manifest: Blob::new(media_type::MANIFEST, manifest), blobs: [config, layer] })
    }

    /// The digest of the image: that of its manifest.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// The files of an OCI layout (OCI Image Format, "Image Layout"), each with its path. Its `index.json` is part of the layout and is
    /// not pushed.
    pub fn layout(&self, tag: &str) -> Vec<(String, Vec<u8>)> {
        let mut descriptor = self.manifest.descriptor();
        if let Value::Object(fields) = &mut descriptor {
            fields.insert("annotations".to_owned(), json!({ "org.opencontainers.image.ref.name": tag }));
        }
        let index = json!({ "manifests": [descriptor], "mediaType": media_type::INDEX, "schemaVersion": 2 });
        let blob = |blob: &Blob| (format!("blobs/{}", blob.digest.replace(':', "/")), blob.content.clone());
        let mut files = vec![
            ("oci-layout".to_owned(), sorted(&json!({ "imageLayoutVersion": "1.0.0" }))),
            ("index.json".to_owned(), sorted(&index)),
        ];
        files.extend([&self.manifest].into_iter().chain(&self.blobs).map(blob));
        files
    }
}

/// JSON with the fields in the order of their names, whatever features of serde_json a build uses.
fn sorted(value: &Value) -> Vec<u8> {
    fn write(value: &Value, text: &mut String) {
        match value {
            Value::Object(fields) => {
                let fields: std::collections::BTreeMap<&String, &Value> = fields.iter().collect();
                text.push('{');
                for (index, (name, value)) in fields.into_iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { "," });
                    text.push_str(&Value::from(name.as_str()).to_string());
                    text.push(':');
                    write(value, text);
                }
                text.push('}');
            }
            Value::Array(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { "," });
                    write(item, text);
                }
                text.push(']');
            }
            other => text.push_str(&other.to_string()),
        }
    }
    let mut text = String::new();
    write(value, &mut text);
    text.into_bytes()
}

/// A tar with the module, without times and owners.
fn archive(module: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(FILE)?;
    header.set_size(u64::try_from(module.len()).unwrap_or(u64::MAX));
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, module)?;
    builder.into_inner()
}

/// A gzip member without a name and a time (RFC 1952, section 2.3.1); 255 is "unknown" as operating system.
fn compressed(archive: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    encoder.write_all(archive)?;
    encoder.finish()
}

/// The module in a layer: the file whose base name is `plugin.wasm`, in any folder.
///
/// # Errors
/// If the layer is not a compressed tar with a module.
pub(crate) fn module_in(layer: &[u8]) -> Result<Vec<u8>, NotModule> {
    let cannot = |error: std::io::Error| NotModule(format!("the last layer is not a compressed tar: {error}"));
    let mut archive = tar::Archive::new(GzDecoder::new(layer));
    for entry in archive.entries().map_err(cannot)? {
        let mut entry = entry.map_err(cannot)?;
        let is_module = entry.path().map_err(cannot)?.file_name().is_some_and(|name| name == FILE);
        if is_module {
            let mut module = Vec::new();
            entry.read_to_end(&mut module).map_err(cannot)?;
            if !module.starts_with(MAGIC) {
                return Err(NotModule(format!("{FILE} is not a WebAssembly module")));
            }
            return Ok(module);
        }
    }
    Err(NotModule(format!("the last layer has no {FILE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn image() -> Image {
        Image::of_module(MODULE, &About { version: "1.2.3".to_owned(), revision: None }).unwrap()
    }

    /// The compressor and the form of the manifest decide the digest: it changes with neither the machine nor the time.
    #[test]
    fn the_same_module_gives_the_same_bytes() {
        assert_eq!(image(), image());
        assert_eq!(image().digest(), "sha256:649638b7e6e486f3473523d255d370fea41df187f9209694aa8f30f2458b60f4");
    }

    #[test]
    fn the_layout_has_every_blob_under_its_digest() {
        let files = image().layout("1.2.3");
        for (path, content) in &files {
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(content), format!("sha256:{name}"));
            }
        }
        let index = files.iter().find(|(path, _)| path == "index.json").unwrap();
        let index: Value = serde_json::from_slice(&index.1).unwrap();
        assert_eq!(index["manifests"][0]["digest"], image().digest());
        assert_eq!(files.len(), 5);
    }

    #[test]
    fn the_module_is_in_the_last_layer() {
        let image = image();
        assert_eq!(module_in(&image.blobs[1].content).unwrap(), MODULE);
        let manifest: Value = serde_json::from_slice(&image.manifest.content).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
        assert_eq!(manifest["layers"][0]["mediaType"], media_type::LAYER);
        assert_eq!(manifest["annotations"]["module.wasm.image/variant"], "compat");
    }

    #[test]
    fn other_content_is_refused() {
        let about = About { version: "1".to_owned(), revision: None };
        assert!(Image::of_module(b"ELF", &about).is_err());
        assert!(module_in(b"not gzip").is_err());
        let empty = compressed(&tar::Builder::new(Vec::new()).into_inner().unwrap()).unwrap();
        assert!(module_in(&empty).unwrap_err().0.contains("no plugin.wasm"));
    }
}
