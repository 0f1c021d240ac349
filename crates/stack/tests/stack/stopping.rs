//! Tests that a stack leaves nothing behind, however it ends.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use stack::{Stack, eventually};

use crate::without_filter;

const PARENT: &str = "STACK_TEST_PARENT";

fn accepts(addr: SocketAddr) -> bool {
    TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok()
}

#[test]
fn dropping_a_stack_stops_everything_and_removes_its_files() {
    let stack = Stack::start(without_filter()).unwrap();
    let addresses = [stack.envoy.admin_addr(), stack.outbound_addr(), stack.imds_addr(), stack.upstream.addr()];
    let token = stack.token_directory.file();
    assert!(addresses.into_iter().all(accepts));
    assert!(token.is_file());

    drop(stack);

    assert!(!addresses.into_iter().any(accepts));
    assert!(!token.exists());
}

#[test]
fn the_files_are_kept_when_the_test_fails() {
    let (sender, kept) = std::sync::mpsc::channel::<PathBuf>();
    let test = thread::spawn(move || {
        let stack = Stack::start(without_filter()).unwrap();
        sender.send(stack.token_directory.watched().parent().unwrap().to_owned()).unwrap();
        panic!("a failing test");
    });
    assert!(test.join().is_err());

    let folder = kept.recv().unwrap();
    assert!(folder.join("envoy.log").is_file());
    assert!(folder.join("envoy.json").is_file());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn envoy_outlives_the_thread_that_started_it() {
    let stack = thread::spawn(|| Stack::start(without_filter()).unwrap()).join().unwrap();

    assert_eq!(stack.get(stack::LISTED_HOST, "/", &[]).status, 200);
    assert_eq!(stack.envoy.exit_status(), None);
}

/// The process that the test below starts and kills; otherwise it does nothing.
#[test]
fn a_parent_that_waits_to_be_killed() {
    if env::var_os(PARENT).is_none() {
        return;
    }
    let stack = Stack::start(without_filter()).unwrap();
    let folder = stack.token_directory.watched().parent().unwrap();
    println!("\nSTACK {} {}", stack.envoy.admin_addr(), folder.display());
    thread::sleep(Duration::from_secs(120));
}

#[test]
#[cfg(target_os = "linux")]
fn envoy_stops_when_its_parent_is_killed() {
    let mut parent = Command::new(env::current_exe().unwrap())
        .args(["--exact", "stopping::a_parent_that_waits_to_be_killed", "--nocapture"])
        .env(PARENT, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines().map_while(Result::ok);
    let started = lines.into_iter().find_map(|line| line.strip_prefix("STACK ").map(str::to_owned));
    // SIGKILL: no code of the parent runs any more.
    let killed = parent.kill();
    parent.wait().unwrap();
    killed.unwrap();

    let started = started.expect("the parent prints the address of its Envoy");
    let (admin, folder) = started.split_once(' ').unwrap();
    let admin = admin.parse().unwrap();
    assert!(eventually(Duration::from_secs(5), || !accepts(admin)));
    std::fs::remove_dir_all(folder).unwrap();
}
