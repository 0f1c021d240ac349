//! The image in a real registry on loopback (Debian's docker-registry): it is pushed, and pulled back as Istio's agent does.
//!
//! `make test-image` fetches the registry and runs this test.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::{About, Image, Reference, Registry};

/// A registry that ends with the test.
struct Server {
    process: Child,
    address: String,
    _storage: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.tools/registry/usr/bin/docker-registry");
    if own.exists() { own } else { PathBuf::from("docker-registry") }
}

fn start() -> Server {
    let storage = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let configuration = format!(
        "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"{free}\" }}\n",
        storage.path().display()
    );
    let file = storage.path().join("config.yml");
    std::fs::write(&file, configuration).unwrap();
    let process = Command::new(program())
        .arg("serve")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry is missing: run make test-image");
    let server = Server { process, address: free.to_string(), _storage: storage };
    let start = Instant::now();
    while TcpStream::connect(free).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "the registry does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

const MODULE: &[u8] = b"\0asm\x01\0\0\0and some content";

fn image() -> Image {
    Image::of_module(MODULE, &About { version: "1.2.3".to_owned(), revision: Some("abc".to_owned()) }).unwrap()
}

#[test]
#[ignore = "needs docker-registry: make test-image"]
fn an_image_is_pushed_and_pulled_back_as_istios_agent_does() {
    let server = start();
    let named =
        |version: &str| Reference::parse(&format!("oci://{}/mesh/entra-exchange{version}", server.address)).unwrap();
    let registry = Registry::of(&named(""), None);
    registry.push(&image(), "1.2.3").unwrap();
    // A second push sends no blob again, and changes nothing.
    registry.push(&image(), "1.2.3").unwrap();
    let by_digest = named(&format!("@{}", image().digest()));
    assert_eq!(registry.module(&by_digest).unwrap(), MODULE);
    assert_eq!(registry.module(&named(":1.2.3")).unwrap(), MODULE);
    let manifest = registry.manifest("1.2.3").unwrap();
    assert_eq!((manifest.digest.as_str(), manifest.content), (image().digest(), image().manifest.content));
    let missing = format!("@{}", image::digest(b"other"));
    assert!(registry.module(&named(&missing)).unwrap_err().to_string().contains("answered 404"));
}

/// What `check --registry` finds: a digest that is an index's.
#[test]
#[ignore = "needs docker-registry: make test-image"]
fn the_digest_of_an_index_is_told_apart() {
    let server = start();
    let name = format!("{}/mesh/entra-exchange", server.address);
    let reference = Reference::parse(&name).unwrap();
    let registry = Registry::of(&reference, None);
    registry.push(&image(), "1.2.3").unwrap();
    let index = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[{{\"mediaType\":\"{}\",\"digest\":\"{}\",\"size\":{}}}]}}",
        image::media_type::INDEX,
        image::media_type::MANIFEST,
        image().digest(),
        image().manifest.content.len()
    );
    let digest = image::digest(index.as_bytes());
    let url = format!("http://{}/v2/mesh/entra-exchange/manifests/{digest}", server.address);
    ureq::put(&url).header("content-type", image::media_type::INDEX).send(index.as_bytes()).unwrap();
    let manifest = registry.manifest(&digest).unwrap();
    assert!(image::media_type::is_index(&manifest.media_type));
    let by_digest = Reference::parse(&format!("{name}@{digest}")).unwrap();
    assert!(registry.module(&by_digest).unwrap_err().to_string().contains("is an index"));
}
