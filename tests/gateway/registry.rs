//! A registry that has the module's image alone, for pulls.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::{fs, io};

use fake_http::{Endpoint, Request, Response, Server};
use image::{About, Blob, Image};

/// The name of the image.
const NAME: &str = "entra-exchange";

/// A registry on loopback, which clients ask in plaintext.
pub(crate) struct Registry {
    /// The name of the image with the registry's address, without a digest.
    pub(crate) image: String,
    /// The digest of its manifest.
    pub(crate) digest: String,
    _server: Server,
}

impl Registry {
    /// Starts on a free port with the image of the module.
    pub(crate) fn start() -> io::Result<Self> {
        let module = fs::read(stack::module().map_err(io::Error::other)?)?;
        let about = About { version: "0.0.0".to_owned(), revision: None };
        let image = Image::of_module(&module, &about).map_err(io::Error::other)?;
        let digest = image.digest().to_owned();
        let endpoint = Endpoint {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            handler: Arc::new(move |request| respond(&image, request)),
        };
        let server = Server::start("registry", vec![endpoint])?;
        let address = server.addresses().first().copied().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { image: format!("{address}/{NAME}"), digest, _server: server })
    }
}

/// Answers as the Open Container Initiative's distribution specification says (Pull).
fn respond(image: &Image, request: &Request) -> Response {
    let of = |blob: &Blob| {
        Response::of_type(blob.media_type, 200, blob.content.clone()).header("docker-content-digest", &blob.digest)
    };
    let path = request.path();
    if path == "/v2/" {
        return Response::json(200, "{}");
    }
    let blobs = std::iter::once(("manifests", &image.manifest)).chain(image.blobs.iter().map(|blob| ("blobs", blob)));
    let mut found = blobs.filter(|(kind, blob)| path == format!("/v2/{NAME}/{kind}/{}", blob.digest));
    found.next().map_or_else(|| Response::json(404, "{}"), |(_, blob)| of(blob))
}
