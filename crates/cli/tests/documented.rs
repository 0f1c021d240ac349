//! `docs/command.md` shows each verb's output as it really is.
//!
//! Each command in a block of the language `console` is run in the root of the repository. With `UPDATE=1` the test writes the
//! outputs anew.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Serves what a filter and an Envoy answer, on a port that the commands of the page get in place of theirs.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            let file = match request.split([' ', '?']).nth(1).unwrap() {
                "/clusters" => "clusters.txt",
                "/stats" => "stats.txt",
                _ => "status.json",
            };
            let body = std::fs::read_to_string(root().join("crates/cli/tests/fixtures").join(file)).unwrap();
            let length = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
        }
    });
    port
}

/// The output of a command, standard error included. A shell runs it, because commands have pipes.
fn output(command: &str, port: u16) -> String {
    let server = format!("127.0.0.1:{port}");
    let command = command.replace("127.0.0.1:15001", &server).replace("127.0.0.1:15000", &server);
    let folder = Path::new(env!("CARGO_BIN_EXE_entra-exchange")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let run = Command::new("sh")
        .args(["-c", &format!("{command} 2>&1")])
        .current_dir(root())
        .env("PATH", path)
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .unwrap();
    String::from_utf8(run.stdout).unwrap().replace(&server, "127.0.0.1:15000")
}

#[test]
fn the_page_shows_each_output_as_it_is() {
    let path = root().join("docs/command.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let port = serve();
    let (mut written, mut commands) = (String::new(), 0);
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        writeln!(written, "{line}").unwrap();
        if line != "```console" {
            continue;
        }
        while let Some(command) = lines.next_if(|line| line.starts_with("$ ")) {
            commands += 1;
            writeln!(written, "{command}").unwrap();
            while lines.next_if(|line| !line.starts_with("$ ") && *line != "```").is_some() {}
            written += &output(command.trim_start_matches("$ "), port);
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(&path, &written).unwrap();
    }
    assert!(commands > 0);
    assert!(written == page, "run the test with UPDATE=1, and look at the difference:\n{written}");
}
