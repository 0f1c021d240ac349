//! The verbs that call another server: what they show, and what they say if it does not answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

/// Serves one response for each request, by the path's beginning.
fn serve(pages: Vec<(&'static str, u16, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            let path = request.split(' ').nth(1).unwrap();
            let found = pages.iter().find(|(beginning, ..)| path.starts_with(beginning));
            let (status, body) = found.map_or((404, ""), |(_, status, body)| (*status, body.as_str()));
            let length = body.len();
            // The body of a manifest here is its kind.
            let kind = match body {
                "index" | "manifest" => format!("application/vnd.oci.image.{body}.v1+json"),
                _ => "text/plain".to_owned(),
            };
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .unwrap();
        }
    });
    format!("http://{address}")
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_entra-exchange")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn status_shows_each_token_and_the_exit_code_says_whether_one_has_a_problem() {
    let server = serve(vec![("/status", 200, fixture("status.json"))]);
    let (code, stdout, _) = run(&["status", &format!("{server}/status")]);
    assert!(code == 1 && stdout.contains("https://storage.azure.com/.default  failing"), "{stdout}");
    let (code, stdout, _) = run(&["status", &format!("{server}/status"), "--output", "json"]);
    assert!(code == 1 && stdout.contains("\"next_try_in_s\": 108"), "{stdout}");
}

#[test]
fn watched_status_is_shown_again_after_a_failure_and_ends_with_its_reader() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/status", listener.local_addr().unwrap());
    let page = fixture("status.json");
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            let (status, length) = (if index == 1 { 503 } else { 200 }, page.len());
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}")
                .unwrap();
        }
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_entra-exchange"))
        .args(["status", &url, "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let is_header = |line: &String| line.starts_with("IDENTITY");
    assert!(lines.find(is_header).is_some() && lines.find(is_header).is_some());
    drop(lines);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, format!("entra-exchange: {url} answered 503 instead of 200\n"));
}

#[test]
fn a_server_that_does_not_answer_as_expected_is_one_line_and_exit_code_3() {
    let server = serve(vec![("/html", 200, "<html>".to_owned()), ("/forbidden", 403, String::new())]);
    for (page, reason) in [("/html", "not a status page"), ("/forbidden", "answered 403"), ("/other", "answered 404")] {
        let (code, stdout, stderr) = run(&["status", &format!("{server}{page}")]);
        assert!(code == 3 && stdout.is_empty() && stderr.contains(reason) && stderr.lines().count() == 1, "{stderr}");
    }
    for not_a_url in ["file:///etc/passwd", "127.0.0.1:15001", ""] {
        assert_eq!(run(&["status", not_a_url]).0, 2, "{not_a_url}");
        assert_eq!(run(&["doctor", "--remote", "--status", not_a_url]).0, 2, "{not_a_url}");
    }
    let (code, _, stderr) = run(&["status", "http://127.0.0.1:1/"]);
    assert!(code == 3 && stderr.contains("cannot be reached"), "{stderr}");
}

#[test]
fn doctor_judges_what_envoy_and_the_filter_answer() {
    let server = serve(vec![
        ("/clusters", 200, fixture("clusters.txt")),
        ("/stats", 200, fixture("stats.txt")),
        ("/status", 200, fixture("status.json")),
    ]);
    let (code, stdout, _) = run(&["doctor", "--remote", "--admin", &server, "--status", &format!("{server}/status")]);
    let lines: Vec<&str> = stdout.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(code, 1);
    for (line, beginning) in
        lines.iter().zip(["wrong filter", "ok    cluster entra: 14 connections", "wrong cluster entra_new_connection"])
    {
        assert!(line.starts_with(beginning), "{stdout}");
    }
    assert_eq!(run(&["doctor", "--remote"]).0, 2);
    let (code, stdout, _) = run(&["doctor", "--remote", "--connect", "--authority", "https://127.0.0.1:1"]);
    assert!(code == 1 && stdout.starts_with("wrong connection"), "{stdout}");
}

#[test]
fn inspect_verifies_with_a_key_set_that_it_fetches() {
    let server = serve(vec![("/keys", 200, "{\"keys\": []}".to_owned())]);
    let token = format!("{}/tests/fixtures/token.jwt", env!("CARGO_MANIFEST_DIR"));
    let arguments = ["inspect", &token, "--at", "2026-01-31T02:10:00Z"];
    let (code, stdout, _) = run(&arguments);
    assert!(code == 0 && !stdout.contains("bm90"), "{stdout}");
    assert_eq!(run(&[&arguments[..], &["--output", "sarif"]].concat()).0, 2);
    let (code, stdout, _) = run(&[&arguments[..], &["--jwks", &format!("{server}/keys")]].concat());
    assert!(code == 1 && stdout.contains("not verified: the key set has no keys"), "{stdout}");
}

#[test]
fn check_asks_the_registry_whether_a_digest_is_an_index() {
    let digest = "4444444444444444444444444444444444444444444444444444444444444444";
    for (kind, code) in [("index", "digest_is_an_index"), ("manifest", "")] {
        let server = serve(vec![("/v2/mesh/filter/manifests/sha256:", 200, kind.to_owned())]);
        let registry = server.trim_start_matches("http://");
        let manifest = format!(
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: entra-exchange }}\nspec:\n  url: \
             oci://{registry}/mesh/filter:1.0\n  sha256: \"{digest}\"\n  pluginConfig: {{ destinations: [ {{ hosts: [a.example], action: pass }} ] }}\n"
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plugin.yaml");
        std::fs::write(&file, manifest).unwrap();
        let (status, stdout, _) = run(&["check", "--registry", file.to_str().unwrap()]);
        assert_eq!(
            (status, stdout.contains("digest_is_an_index")),
            (i32::from(!code.is_empty()), !code.is_empty()),
            "{stdout}"
        );
    }
}
