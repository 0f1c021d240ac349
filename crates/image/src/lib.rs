//! The module as an OCI image, and a client for registries.
//!
//! The image has the form that Istio's agent and Envoy Gateway accept ("compat" in the Wasm artifact image specification): one manifest
//! whose last layer is a compressed tar with the file `plugin.wasm`. It has no index, because the agent rejects the digest of an index.

mod layout;
mod reference;
mod registry;

pub use layout::{About, Blob, Image, NotModule, digest};
pub use reference::{NotReference, Reference};
pub use registry::{Credentials, Manifest, Registry, RegistryError};

/// Media types of OCI and Docker.
pub mod media_type {
    /// A manifest of OCI.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An index of OCI.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A configuration of OCI.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A compressed layer of OCI.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A manifest of Docker.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// An index of Docker.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A compressed layer of Docker.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    /// Whether this is the type of an index.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_INDEX)
    }
}
