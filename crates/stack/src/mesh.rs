//! Callers with client certificates, as a service mesh issues them to its workloads.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::client::{Request, Response};

/// The name of the gateway that callers connect to.
const GATEWAY: &str = "gateway.example.com";

/// A service mesh with its own CA.
pub struct Mesh {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    roots: RootCertStore,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Mesh {
    /// Creates a mesh with a new CA.
    pub fn new() -> io::Result<Self> {
        Self::create().map_err(io::Error::other)
    }

    fn create() -> Result<Self, Failure> {
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "mesh CA");
        let key = KeyPair::generate()?;
        let certificate = ca.self_signed(&key)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone())?;
        Ok(Self { issuer: Issuer::new(ca, key), ca_pem: certificate.pem(), roots })
    }

    /// Returns Envoy's `transport_socket` for a listener that requires and verifies client certificates of this mesh.
    pub fn transport_socket(&self) -> io::Result<Value> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let own = CertificateParams::new(vec![GATEWAY.to_owned()]).map_err(io::Error::other)?;
        let own = own.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok(json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": {
                    "tls_certificates": [{
                        "certificate_chain": {"inline_string": own.pem()},
                        "private_key": {"inline_string": key.serialize_pem()},
                    }],
                    "validation_context": {"trusted_ca": {"inline_string": self.ca_pem}},
                },
            },
        }))
    }

    /// Sends a request over mTLS as a caller whose certificate has these URI SANs.
    pub fn send_as(&self, uris: &[&str], request: &Request, addr: SocketAddr) -> io::Result<Response> {
        request.send_over_tls(addr, GATEWAY, self.client(uris).map_err(io::Error::other)?)
    }

    fn client(&self, uris: &[&str]) -> Result<ClientConfig, Failure> {
        let key = KeyPair::generate()?;
        let mut own = CertificateParams::new(Vec::new())?;
        for uri in uris {
            own.subject_alt_names.push(SanType::URI(Ia5String::try_from(*uri)?));
        }
        let own = own.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![own.der().clone()], key)?)
    }
}
