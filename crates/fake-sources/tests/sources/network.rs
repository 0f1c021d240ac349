use std::io::{Read, Write};
use std::net::TcpStream;

use fake_sources::{Delivery, Fault, GitHub, Server, Source};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::AUDIENCE_PARAMETER;

#[test]
fn a_target_arrives_byte_for_byte_over_tls() {
    let github = GitHub::new();
    let server = Server::start_tls(&github, &["localhost", GitHub::HOST]).expect("a free port");
    let ca = Certificate::from_pem(server.ca_pem().expect("a CA").as_bytes()).expect("a PEM certificate");
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[ca])).build();
    let agent = Agent::config_builder().tls_config(tls).http_status_as_error(false).proxy(None).build().new_agent();
    let url = format!("https://localhost:{}{}&{AUDIENCE_PARAMETER}", server.addr().port(), github.target());

    let response =
        agent.get(url).header("authorization", format!("Bearer {}", github.bearer())).call().expect("a response");

    assert_eq!(response.status(), 200, "{:?}", github.stats());
}

#[test]
fn a_connection_is_reset_or_closed_in_the_middle_of_the_body() {
    let github = GitHub::new();
    github.add_faults([Fault::Deliver(Delivery::Reset), Fault::Deliver(Delivery::Truncate)]);
    let server = Server::start(&github).expect("a free port");
    let attempt = || {
        let mut stream = TcpStream::connect(server.addr()).expect("a connection");
        let request = format!(
            "GET {}&{AUDIENCE_PARAMETER} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
            github.target(),
            github.bearer()
        );
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut received = Vec::new();
        let result = stream.read_to_end(&mut received);
        (result, String::from_utf8_lossy(&received).into_owned())
    };
    let (reset, received) = attempt();
    assert!(reset.is_err() && received.is_empty(), "{received}");
    let (_, received) = attempt();
    let (head, body) = received.split_once("\r\n\r\n").expect("a complete head");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let length: usize = length.parse().expect("a number");
    assert!(!body.is_empty() && body.len() < length, "{} of {length} bytes", body.len());
}
