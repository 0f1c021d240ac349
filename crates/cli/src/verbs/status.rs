//! `status`: a running filter's tokens as a table.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use operator::status;

use crate::network;
use crate::output::{Failure, Output, Verdict, print, print_to_reader};

/// The arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The filter's status page, such as `http://127.0.0.1:15001/entra-exchange/status`; it is fetched
    #[arg(value_parser = network::url)]
    url: String,
    /// Fetch the page again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

const INTERVAL: Duration = Duration::from_secs(2);

impl Status {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let (mut text, mut verdict) = self.fetch(output)?;
        if !self.watch {
            print(&text)?;
            return Ok(verdict);
        }
        // Clears the screen (ECMA-48: CUP, ED).
        let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        while print_to_reader(&format!("{clear}{text}"))? {
            // The filter may be restarting: its page is shown again when it answers.
            loop {
                std::thread::sleep(INTERVAL);
                match self.fetch(output) {
                    Ok(fetched) => break (text, verdict) = fetched,
                    Err(failure) => drop(failure.report()),
                }
            }
        }
        Ok(verdict)
    }

    /// The page as it is printed, and whether all is in order.
    fn fetch(&self, output: Output) -> Result<(String, Verdict), Failure> {
        let body = network::body(&self.url)?;
        let page = status::Status::read(&body).map_err(Failure::remote)?;
        let value = serde_json::from_str(&body).map_err(|error| Failure::remote(error.to_string()))?;
        Ok((output.text_of(&page.table(), &value), Verdict::of(page.is_good())))
    }
}
