//! `check --registry`: the images that manifests name by digest. What the registry has under it, the caller asks.

use std::ops::Range;

use crate::document;
use crate::finding::{Finding, Findings};
use crate::inventory::{Found, Inventory};
use crate::source::Source;
use crate::tree::Node;

/// An image that a manifest names by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// The name of the image with its digest, `oci://…@sha256:…`.
    pub reference: String,
    source: usize,
    span: Range<usize>,
}

/// What a registry has under a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A manifest, as it must be.
    Manifest,
    /// An index.
    Index,
    /// Nothing, or no answer: why.
    Nothing(String),
}

/// The images in the sources.
pub fn images(sources: &[Source]) -> Vec<ImageUse> {
    let documents = document::read(sources, &mut Findings::default());
    let inventory = Inventory::of(sources, &documents);
    let mut images: Vec<ImageUse> = Vec::new();
    for document in &inventory.documents {
        document.node.walk(&mut |node| images.extend(image_of(Found { node, ..*document })));
    }
    images.dedup();
    images
}

fn image_of(found: Found<'_>) -> Option<ImageUse> {
    let is_image = |node: &&Node| node.text().is_some_and(|text| text.starts_with("oci://"));
    if let Some(uri) = found.node.get("uri").filter(is_image) {
        let reference = uri.text().filter(|text| text.contains("@sha256:"))?.to_owned();
        return Some(ImageUse { reference, source: found.source, span: uri.span.clone() });
    }
    // In an EnvoyExtensionPolicy of Envoy Gateway, without a scheme.
    if let Some(url) = found.node.at(&["code", "image", "url"]) {
        let reference = format!("oci://{}", url.text().filter(|text| text.contains("@sha256:"))?);
        return Some(ImageUse { reference, source: found.source, span: url.span.clone() });
    }
    let url = found.node.get("url").filter(is_image)?.text()?;
    if url.contains('@') {
        let span = found.node.get("url").map(|url| url.span.clone())?;
        return Some(ImageUse { reference: url.to_owned(), source: found.source, span });
    }
    let digest = found.node.get("sha256")?;
    let reference = format!("{url}@sha256:{}", digest.text()?);
    Some(ImageUse { reference, source: found.source, span: digest.span.clone() })
}

/// What is wrong with an image, if anything.
pub fn judge(image: &ImageUse, answer: &Answer) -> Option<Finding> {
    let mut findings = Findings::default();
    let place = (image.source, image.span.clone());
    match answer {
        Answer::Manifest => {}
        Answer::Index => {
            findings.add(
                "digest_is_an_index",
                place,
                "this is the digest of an index, and the istio-agent rejects it with a checksum mismatch",
                "Write the digest of the image's manifest, and publish the image without an index (make image).",
            );
        }
        Answer::Nothing(reason) => {
            findings.add(
                "image_not_found",
                place,
                format!("the registry does not give this image: {reason}"),
                "Push the image, or correct its name and digest. For an EnvoyFilter the registry must allow anonymous pulls.",
            );
        }
    }
    findings.0.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_with_their_digests() {
        let text = "a: { uri: \"oci://r.example/x@sha256:1\" }\nb: { url: oci://r.example/y:1.0, sha256: \"2a\" }\nc: { url: https://x }\nd: { code: { image: { url: \"r.example/z@sha256:3\" } } }\n";
        let sources = [Source::new("f.yaml", format!("static_resources: {{}}\n{text}"))];
        let found: Vec<String> = images(&sources).into_iter().map(|image| image.reference).collect();
        let expected = ["oci://r.example/x@sha256:1", "oci://r.example/y:1.0@sha256:2a", "oci://r.example/z@sha256:3"];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_index_and_a_missing_image_are_findings() {
        let image = ImageUse { reference: String::new(), source: 0, span: 0..1 };
        let code = |answer: &Answer| judge(&image, answer).map(|finding| finding.code);
        assert_eq!(code(&Answer::Manifest), None);
        assert_eq!(code(&Answer::Index), Some("digest_is_an_index"));
        assert_eq!(code(&Answer::Nothing("404".to_owned())), Some("image_not_found"));
    }
}
