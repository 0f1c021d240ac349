//! Names of images.

use std::fmt;

/// The name of an image: registry, repository, and a tag or digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The host of the registry, with a port if it is not the usual one.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest of the manifest.
    pub digest: Option<String>,
}

/// Why a text is not the name of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReference;

impl fmt::Display for NotReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("is not the name of an image: write REGISTRY/REPOSITORY, with :TAG or @sha256:DIGEST")
    }
}

impl Reference {
    /// Parses a name, with or without `oci://` before it.
    ///
    /// # Errors
    /// If it has no registry or repository.
    pub fn parse(text: &str) -> Result<Self, NotReference> {
        let text = text.strip_prefix("oci://").unwrap_or(text);
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        let (registry, rest) = name.split_once('/').ok_or(NotReference)?;
        let (repository, tag) = rest.rsplit_once(':').map_or((rest, None), |(name, tag)| (name, Some(tag)));
        let fits = |part: &str, more: &[u8]| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let is_valid = fits(registry, b".-:[]")
            && fits(repository, b"._-/")
            && tag.is_none_or(|tag| fits(tag, b"._-"))
            && digest.is_none_or(|digest| fits(digest, b":") && digest.starts_with("sha256:"));
        let owned = |part: Option<&str>| part.map(str::to_owned);
        is_valid
            .then(|| Self {
                registry: registry.to_owned(),
                repository: repository.to_owned(),
                tag: owned(tag),
                digest: owned(digest),
            })
            .ok_or(NotReference)
    }

    /// The digest, or else the tag, or else `latest`.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_registry_a_repository_and_a_version() {
        let parts = |text: &str| {
            Reference::parse(text).map(|it| (it.registry.clone(), it.repository.clone(), it.version().to_owned()))
        };
        let expected =
            |registry: &str, repository: &str, version: &str| Ok((registry.into(), repository.into(), version.into()));
        assert_eq!(parts("oci://registry.example/a/b:1.0"), expected("registry.example", "a/b", "1.0"));
        assert_eq!(parts("127.0.0.1:5000/a@sha256:ab"), expected("127.0.0.1:5000", "a", "sha256:ab"));
        assert_eq!(parts("registry.example/a"), expected("registry.example", "a", "latest"));
        for text in ["", "a", "a/", "/a", "a/b c", "a/b@x", "a/b:", "a/b:1\n"] {
            assert_eq!(parts(text), Err(NotReference), "{text}");
        }
    }
}
