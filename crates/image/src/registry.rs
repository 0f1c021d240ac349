//! A registry (OCI Distribution Specification): manifests and blobs, and the token that a registry asks for.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use crate::layout::{Blob, Image, NotModule, digest, module_in};
use crate::{Reference, media_type};

/// The largest manifest, and the largest blob: Istio's limit for a module.
const LARGEST_MANIFEST: u64 = 4 * 1024 * 1024;
const LARGEST_BLOB: u64 = 256 * 1024 * 1024;

/// The user and the password of a registry.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password, or a token of the registry.
    pub password: String,
}

/// Why a registry did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryError(String);

impl fmt::Display for RegistryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for RegistryError {}

impl From<NotModule> for RegistryError {
    fn from(reason: NotModule) -> Self {
        Self(reason.0)
    }
}

/// A manifest as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// The digest of its content.
    pub digest: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// A repository in a registry.
pub struct Registry {
    agent: Agent,
    base: String,
    host: String,
    credentials: Option<Credentials>,
    /// The value of `Authorization`, once the registry asked for one.
    authorization: RefCell<Option<String>>,
}

impl Registry {
    /// The repository of an image. A registry on loopback is called without TLS.
    pub fn of(reference: &Reference, credentials: Option<Credentials>) -> Self {
        let host = reference.registry.rsplit_once(':').map_or(reference.registry.as_str(), |(host, _)| host);
        let scheme = if matches!(host, "127.0.0.1" | "localhost" | "[::1]") { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}", reference.registry, reference.repository);
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .into();
        Self { agent, base, host: reference.registry.clone(), credentials, authorization: RefCell::default() }
    }

    /// Fetches a manifest by its tag or digest. The digest is computed from the content.
    ///
    /// # Errors
    /// If the registry does not have it, or does not answer.
    pub fn manifest(&self, version: &str) -> Result<Manifest, RegistryError> {
        let url = format!("{}/manifests/{version}", self.base);
        let accepted = [media_type::MANIFEST, media_type::INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_INDEX];
        let mut response = self.call(|| Request::get(&url).header("accept", accepted.join(", ")).body(Vec::new()))?;
        self.expect(&response, &[200], &url)?;
        let media_type = header(&response, "content-type").unwrap_or_default();
        let content = self.read(&mut response, LARGEST_MANIFEST)?;
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        Ok(Manifest { media_type, digest: digest(&content), content })
    }

    /// Fetches a blob, and verifies its digest.
    ///
    /// # Errors
    /// If the registry does not have it, or has other content.
    pub fn blob(&self, wanted: &str) -> Result<Vec<u8>, RegistryError> {
        let url = format!("{}/blobs/{wanted}", self.base);
        let mut response = self.call(|| Request::get(&url).body(Vec::new()))?;
        self.expect(&response, &[200], &url)?;
        let content = self.read(&mut response, LARGEST_BLOB)?;
        if digest(&content) != wanted {
            return Err(RegistryError(format!("{url} has content with another digest")));
        }
        Ok(content)
    }

    /// Fetches the module as Istio's agent does: the manifest must have the digest of the reference and not be an index, and its last
    /// layer must be a compressed tar with `plugin.wasm`.
    ///
    /// # Errors
    /// Why the agent would not accept the image.
    pub fn module(&self, reference: &Reference) -> Result<Vec<u8>, RegistryError> {
        let manifest = self.manifest(reference.version())?;
        if media_type::is_index(&manifest.media_type) {
            return Err(RegistryError(format!("{} is an index, not a manifest", reference.version())));
        }
        if reference.digest.as_ref().is_some_and(|digest| *digest != manifest.digest) {
            return Err(RegistryError("the manifest has another digest".to_owned()));
        }
        let value: Value = serde_json::from_slice(&manifest.content)
            .map_err(|error| RegistryError(format!("the manifest is not JSON: {error}")))?;
        let layer = value.get("layers").and_then(Value::as_array).and_then(|layers| layers.last());
        let text = |name: &str| layer.and_then(|layer| layer.get(name)).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("mediaType"), media_type::LAYER | media_type::DOCKER_LAYER) {
            return Err(RegistryError(format!("the last layer has the type {:?}", text("mediaType"))));
        }
        Ok(module_in(&self.blob(text("digest"))?)?)
    }

    /// Pushes an image under a tag; blobs that the registry has are not sent again.
    ///
    /// # Errors
    /// If the registry does not accept it.
    pub fn push(&self, image: &Image, tag: &str) -> Result<(), RegistryError> {
        for blob in &image.blobs {
            self.push_blob(blob)?;
        }
        let url = format!("{}/manifests/{tag}", self.base);
        let Blob { media_type, content, .. } = &image.manifest;
        let response = self.call(|| Request::put(&url).header("content-type", *media_type).body(content.clone()))?;
        self.expect(&response, &[201], &url)
    }

    fn push_blob(&self, blob: &Blob) -> Result<(), RegistryError> {
        let url = format!("{}/blobs/{}", self.base, blob.digest);
        if self.call(|| Request::head(&url).body(Vec::new()))?.status() == 200 {
            return Ok(());
        }
        let start = format!("{}/blobs/uploads/", self.base);
        let response = self.call(|| Request::post(&start).body(Vec::new()))?;
        self.expect(&response, &[202], &start)?;
        let place = header(&response, "location").unwrap_or_default();
        // A location may be relative (RFC 9110, section 10.2.2).
        let origin = self.base.split("/v2/").next().unwrap_or_default();
        let place = if place.starts_with('/') { format!("{origin}{place}") } else { place };
        let separator = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{separator}digest={}", blob.digest);
        let put = || Request::put(&url).header("content-type", "application/octet-stream").body(blob.content.clone());
        let response = self.call(put)?;
        self.expect(&response, &[201], &url)
    }

    /// Sends a request, and once more with a token if the registry asks for one.
    fn call<F>(&self, request: F) -> Result<Response<Body>, RegistryError>
    where
        F: Fn() -> Result<Request<Vec<u8>>, ureq::http::Error>,
    {
        let response = self.send(&request)?;
        if response.status() != 401 {
            return Ok(response);
        }
        let challenge = header(&response, "www-authenticate").unwrap_or_default();
        *self.authorization.borrow_mut() = Some(self.authorize(&challenge)?);
        self.send(&request)
    }

    fn send<F>(&self, request: &F) -> Result<Response<Body>, RegistryError>
    where
        F: Fn() -> Result<Request<Vec<u8>>, ureq::http::Error>,
    {
        let cannot = |error: &dyn fmt::Display| RegistryError(format!("{} cannot be reached: {error}", self.host));
        let mut request = request().map_err(|error| cannot(&error))?;
        if let Some(value) = self.authorization.borrow().as_deref() {
            let value = value.parse().map_err(|_| RegistryError("the token is not valid".to_owned()))?;
            request.headers_mut().insert("authorization", value);
        }
        self.agent.run(request).map_err(|error| cannot(&error))
    }

    /// The value of `Authorization` for a challenge: a token from the registry's token server, or user and password.
    fn authorize(&self, challenge: &str) -> Result<String, RegistryError> {
        let basic = self
            .credentials
            .as_ref()
            .map(|Credentials { user, password }| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        let Some(parameters) = challenge.strip_prefix("Bearer ") else {
            return basic.ok_or_else(|| {
                RegistryError(format!("{} asks for a login: set REGISTRY_USER and REGISTRY_PASSWORD", self.host))
            });
        };
        let parameter = |name: &str| {
            let start = parameters.split(&format!("{name}=\"")).nth(1)?;
            start.split('"').next().map(str::to_owned)
        };
        let realm =
            parameter("realm").filter(|realm| realm.starts_with("https://") || self.base.starts_with("http://"));
        let realm = realm.ok_or_else(|| RegistryError(format!("{} names no token server with TLS", self.host)))?;
        let mut request = self.agent.get(&realm);
        for name in ["service", "scope"] {
            if let Some(value) = parameter(name) {
                request = request.query(name, value);
            }
        }
        if let Some(basic) = basic {
            request = request.header("authorization", basic);
        }
        let mut response =
            request.call().map_err(|error| RegistryError(format!("{realm} cannot be reached: {error}")))?;
        self.expect(&response, &[200], &realm)?;
        let content = self.read(&mut response, LARGEST_MANIFEST)?;
        let answer: Value = serde_json::from_slice(&content).unwrap_or_default();
        let token = ["token", "access_token"].iter().find_map(|name| answer.get(name)?.as_str());
        token.map(|token| format!("Bearer {token}")).ok_or_else(|| RegistryError(format!("{realm} gave no token")))
    }

    fn expect(&self, response: &Response<Body>, wanted: &[u16], url: &str) -> Result<(), RegistryError> {
        let status = response.status().as_u16();
        if wanted.contains(&status) {
            return Ok(());
        }
        let plain = url.split('?').next().unwrap_or(url);
        Err(RegistryError(format!("{plain} answered {status}")))
    }

    fn read(&self, response: &mut Response<Body>, largest: u64) -> Result<Vec<u8>, RegistryError> {
        let read = response.body_mut().with_config().limit(largest).read_to_vec();
        read.map_err(|error| RegistryError(format!("{} did not send the whole answer: {error}", self.host)))
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}
