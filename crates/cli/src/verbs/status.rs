//! `status`: a running filter's tokens as a table.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use clap::Args;
use operator::status;

use crate::network;
use crate::output::{Failure, Form, Output, Verdict, print, print_json};

/// The arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The filter's status page, such as `http://127.0.0.1:15001/entra-exchange/status`; it is fetched
    url: String,
    /// Fetch the page again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

const INTERVAL: Duration = Duration::from_secs(2);

impl Status {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        loop {
            let verdict = self.show(output)?;
            if !self.watch {
                return Ok(verdict);
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn show(&self, output: Output) -> Result<Verdict, Failure> {
        let body = network::body(&self.url)?;
        let page = status::Status::read(&body).map_err(Failure::remote)?;
        if self.watch && std::io::stdout().is_terminal() {
            // Clears the screen (ECMA-48: CUP, ED). If standard output is closed, `print` says so.
            let _ = write!(std::io::stdout(), "\x1b[H\x1b[2J");
        }
        match output.form {
            Form::Json => {
                let value = serde_json::from_str(&body).map_err(|error| Failure::remote(error.to_string()))?;
                print_json(&value)?;
            }
            _ => print(&page.table())?,
        }
        Ok(Verdict::of(page.is_good()))
    }
}
