//! Tests of the server over real sockets and TLS, and of the admin API.

use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use fake_entra::{Credential, Directory, Issuer, Server};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const CLIENT: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
const AUDIENCE: &str = "api://AzureADTokenExchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

struct Rig {
    server: Server,
    issuer: Issuer,
    agent: Agent,
}

impl Rig {
    fn start() -> Self {
        let issuer = Issuer::new("https://issuer.example/cluster");
        let directory = Directory::new();
        directory.trust_issuer(issuer.url(), issuer.jwks());
        directory.register_resource("https://vault.azure.net");
        directory
            .register_credential(Credential {
                tenant_id: TENANT.into(),
                client_id: CLIENT.into(),
                issuer: issuer.url().into(),
                subject: "system:serviceaccount:payments:payments".into(),
                audience: AUDIENCE.into(),
            })
            .expect("the credential is valid");
        let server = Server::start(directory).expect("free ports");
        let ca = Certificate::from_pem(server.ca_pem().as_bytes()).expect("a PEM certificate");
        let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[ca])).build();
        let agent = Agent::config_builder().tls_config(tls).http_status_as_error(false).build().new_agent();
        Self { server, issuer, agent }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.server.https_addr().port())
    }

    fn get(&self, url: &str) -> (u16, Value) {
        let mut response = self.agent.get(url).call().expect("a response");
        let body = response.body_mut().read_to_string().expect("a body");
        (response.status().as_u16(), serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    fn token(&self) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let hour = Duration::from_secs(3600);
        let assertion = self.issuer.service_account_token("payments", "payments", AUDIENCE, SystemTime::now(), hour);
        self.agent.post(self.url(&format!("/{TENANT}/oauth2/v2.0/token"))).send_form([
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("scope", "https://vault.azure.net/.default"),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", &assertion),
        ])
    }

    fn admin(&self, path: &str, body: &str) -> (u16, Value) {
        let url = format!("http://{}{path}", self.server.admin_addr());
        let mut response = self.agent.post(url).send(body).expect("a response");
        let body = response.body_mut().read_to_string().expect("a body");
        (response.status().as_u16(), serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    fn add_faults(&self, faults: Value) {
        assert_eq!(self.admin("/faults", &faults.to_string()).0, 204);
    }

    fn stats(&self) -> Value {
        self.get(&format!("http://{}/stats", self.server.admin_addr())).1
    }
}

#[test]
fn discovery_returns_the_token_endpoint_and_the_keys() {
    let rig = Rig::start();
    let (status, configuration) = rig.get(&rig.url(&format!("/{TENANT}/v2.0/.well-known/openid-configuration")));
    assert_eq!(status, 200);
    assert_eq!(configuration["token_endpoint"], rig.url(&format!("/{TENANT}/oauth2/v2.0/token")));
    assert_eq!(configuration["issuer"], format!("https://login.microsoftonline.com/{TENANT}/v2.0"));
    let (status, keys) = rig.get(configuration["jwks_uri"].as_str().expect("a URL"));
    assert_eq!((status, keys), (200, rig.server.directory().jwks()));
}

#[test]
fn an_unknown_tenant_has_no_configuration() {
    let rig = Rig::start();
    let (status, body) =
        rig.get(&rig.url("/99999999-2222-3333-4444-555555555555/v2.0/.well-known/openid-configuration"));
    assert_eq!((status, &body["error_codes"]), (400, &json!([90002])));
}

#[test]
fn instance_discovery_lists_the_clouds() {
    let rig = Rig::start();
    let path = "/common/discovery/instance?api-version=1.1&authorization_endpoint=";
    let public = format!("https%3A%2F%2Flogin.microsoftonline.com%2F{TENANT}%2Foauth2%2Fv2.0%2Fauthorize");
    let (status, body) = rig.get(&rig.url(&format!("{path}{public}")));
    assert_eq!(status, 200);
    assert_eq!(
        body["tenant_discovery_endpoint"],
        format!("https://login.microsoftonline.com/{TENANT}/v2.0/.well-known/openid-configuration")
    );
    assert_eq!(body["api-version"], "1.1");
    assert_eq!(body["metadata"][0]["aliases"][0], "login.microsoftonline.com");
    let (status, body) = rig.get(&rig.url(&format!("{path}https://login.example/x")));
    assert_eq!((status, &body["error"]), (400, &json!("invalid_instance")));
}

#[test]
fn a_token_is_issued_over_tls() {
    let rig = Rig::start();
    let mut response = rig.token().expect("a response");
    assert_eq!(response.status(), 200);
    let body: Value = serde_json::from_str(&response.body_mut().read_to_string().expect("a body")).expect("JSON");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(rig.stats()["issued"], 1);
}

#[test]
fn the_correlation_id_is_the_clients_request_id() {
    let rig = Rig::start();
    let url = rig.url(&format!("/{TENANT}/oauth2/v2.0/token"));
    let request = rig.agent.post(url).header("client-request-id", "c0ffee00-0000-0000-0000-000000000000");
    let mut response = request.send_form([("grant_type", "x")]).expect("a response");
    let body: Value = serde_json::from_str(&response.body_mut().read_to_string().expect("a body")).expect("JSON");
    assert_eq!(body["correlation_id"], "c0ffee00-0000-0000-0000-000000000000");
}

#[test]
fn the_token_endpoint_accepts_only_forms_by_post() {
    let rig = Rig::start();
    let url = rig.url(&format!("/{TENANT}/oauth2/v2.0/token"));
    assert_eq!(rig.get(&url).0, 405);
    let mut response = rig.agent.post(&url).content_type("application/json").send("{}").expect("a response");
    let body: Value = serde_json::from_str(&response.body_mut().read_to_string().expect("a body")).expect("JSON");
    assert_eq!(body["error_codes"], json!([900144]));
    assert_eq!(rig.get(&rig.url("/elsewhere")).0, 404);
}

#[test]
fn a_reset_fault_sends_a_tcp_reset() {
    use rustls_pki_types::ServerName;
    use std::io::{ErrorKind, Write};
    use tokio_rustls::rustls;

    let rig = Rig::start();
    rig.add_faults(json!([{ "kind": "reset" }]));
    let error = rig.token().map(|_| ()).expect_err("no response");
    assert!(matches!(error, ureq::Error::Io(_) | ureq::Error::Protocol(_)), "{error:?}");

    // On a raw socket the error is ECONNRESET, not an end of stream.
    rig.add_faults(json!([{ "kind": "reset" }]));
    let mut roots = rustls::RootCertStore::empty();
    let ca = <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
        rig.server.ca_pem().as_bytes(),
    );
    roots.add(ca.expect("a PEM certificate")).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("login.microsoftonline.com").expect("a name");
    let session = rustls::ClientConnection::new(config.into(), name).expect("a session");
    let socket = std::net::TcpStream::connect(rig.server.https_addr()).expect("a connection");
    let mut stream = rustls::StreamOwned::new(session, socket);
    write!(stream, "POST /{TENANT}/oauth2/v2.0/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").expect("sent");
    let error = stream.read(&mut [0; 64]).expect_err("no response");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_truncated_response_ends_before_its_content_length() {
    let rig = Rig::start();
    rig.add_faults(json!([{ "kind": "truncate" }]));
    let mut response = rig.token().expect("response headers");
    assert_eq!(response.status(), 200);
    let length: u64 = response.headers()["content-length"].to_str().expect("text").parse().expect("a number");
    let mut body = Vec::new();
    response.body_mut().as_reader().read_to_end(&mut body).expect_err("the body is incomplete");
    assert_eq!(u64::try_from(body.len()).expect("small"), length / 2);
    assert_eq!(rig.token().expect("a response").status(), 200);
}

#[test]
fn a_delayed_response_arrives_late() {
    let rig = Rig::start();
    rig.add_faults(json!([{ "kind": "delay", "ms": 300 }]));
    let start = Instant::now();
    assert_eq!(rig.token().expect("a response").status(), 200);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn retry_after_reaches_the_client() {
    let rig = Rig::start();
    rig.add_faults(json!([{ "kind": "retry_after", "seconds": 7 }, { "kind": "status", "status": 502 }]));
    let response = rig.token().expect("a response");
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().ok()), (429, Some("7")));
    assert_eq!(rig.token().expect("a response").status(), 502);
    assert_eq!(rig.token().expect("a response").status(), 200);
    let stats = rig.stats();
    assert_eq!(stats["token_requests"], 3);
    assert_eq!(stats["rejected"], json!({ "AADSTS90055": 1, "HTTP502": 1 }));
    assert_eq!(
        stats["by_key"],
        json!([{ "tenant_id": TENANT, "client_id": CLIENT, "scope": "https://vault.azure.net/.default", "count": 3 }])
    );
}

#[test]
fn the_admin_api_registers_resources_and_credentials() {
    let rig = Rig::start();
    assert_eq!(rig.admin("/resources", r#"{"resource":"https://storage.azure.com"}"#).0, 204);
    let credential = json!({
        "tenant_id": TENANT, "client_id": "other", "issuer": "https://x", "subject": "s", "audience": "a",
    });
    assert_eq!(rig.admin("/credentials", &credential.to_string()).0, 204);
    let (status, body) = rig.admin("/credentials", &credential.to_string());
    assert_eq!((status, &body["field"]), (400, &json!("subject")));
    assert_eq!(rig.admin("/reset", "").0, 204);
}

#[test]
fn the_admin_api_names_the_invalid_field() {
    let rig = Rig::start();
    let field = |path: &str, body: &str| {
        let (status, body) = rig.admin(path, body);
        assert_eq!(status, 400);
        assert!(body["error"].is_string());
        body["field"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(field("/faults", "["), "");
    assert_eq!(field("/faults", r#"[{"kind":"explode"}]"#), "[0].kind");
    assert_eq!(field("/faults", r#"[{"kind":"reset","time":3}]"#), "[0].time");
    assert_eq!(field("/resources", r#"{"resource":1}"#), "resource");
    assert_eq!(field("/credentials", r#"{"tenant_id":"t"}"#), "client_id");
    assert_eq!(rig.admin("/elsewhere", "").0, 404);
    assert_eq!(rig.admin("/stats", "").0, 405);
    assert_eq!(rig.stats()["token_requests"], 0);
}

#[test]
fn a_dropped_server_closes_its_port() {
    let rig = Rig::start();
    let address = rig.server.https_addr();
    rig.token().expect("a response");
    drop(rig);
    assert!(std::net::TcpStream::connect(address).is_err());
}
