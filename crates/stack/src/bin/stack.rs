//! `make stack`: runs the stack until Ctrl-C, for manual tests.
//!
//! Prints all addresses and writes them to `target/stack.env`. `CONFIG=file.json` replaces the filter's configuration,
//! `CONCURRENCY=n` sets the number of Envoy's workers, `ENVOY=/path` selects another Envoy binary.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, thread};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stack::{Options, Stack, root};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    // Handle signals before the start: a Ctrl-C during the start must stop the processes that run already.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let stack = Stack::start(options()?)?;
    let file = root().join("target/stack.env");
    let mut lines = String::new();
    for (name, value) in stack.environment() {
        writeln!(lines, "{name}={value}")?;
    }
    fs::write(&file, &lines)?;
    print!("{lines}");
    println!("These variables are also in {}. Ctrl-C stops everything.", file.display());
    let result = wait(&stack, &mut signals);
    fs::remove_file(file)?;
    result
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options::default();
    if let Some(path) = variable("CONFIG") {
        let path = Path::new(&path);
        let text = fs::read_to_string(path).map_err(|error| format!("CONFIG={}: {error}", path.display()))?;
        options.configuration = Some(text);
    }
    if let Some(workers) = variable("CONCURRENCY") {
        options.concurrency = workers.parse().map_err(|error| format!("CONCURRENCY={workers}: {error}"))?;
    }
    Ok(options)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn wait(stack: &Stack, signals: &mut Signals) -> Result<(), Box<dyn Error>> {
    loop {
        if signals.pending().next().is_some() {
            return Ok(());
        }
        if let Some(status) = stack.envoy.exit_status() {
            return Err(format!("Envoy exited ({status}); its log:\n{}", stack.log()).into());
        }
        thread::sleep(Duration::from_millis(100));
    }
}
