//! `audit`: who may get which token where, for access reviews.

use clap::Args;
use operator::audit::{self, Uses};
use serde_json::json;

use crate::input;
use crate::output::{Failure, Form, Output, Verdict, print};

/// The arguments of `audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Configurations, or manifests that contain them; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// A file of an older version, to show what changed; may be repeated
    #[arg(long, value_name = "OLD")]
    against: Vec<String>,
    /// The log of a running filter, to show which permissions are used
    #[arg(long, value_name = "FILE")]
    log: Option<String>,
    /// An environment variable of the proxy's container, such as `AZURE_AUTHORITY_HOST=https://login.microsoftonline.us`
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = super::check::variable)]
    variables: Vec<(String, String)>,
}

impl Audit {
    pub(crate) fn run(&self, output: Output) -> Result<Verdict, Failure> {
        let sources = input::sources(&self.files)?;
        let against = if self.against.is_empty() { None } else { Some(input::sources(&self.against)?) };
        let uses = match &self.log {
            None => None,
            Some(file) => {
                let source = input::source(file)?;
                Some(
                    Uses::read(source.text())
                        .map_err(|reason| Failure::input(format!("{} {reason}", source.name())))?,
                )
            }
        };
        let audited =
            audit::audit(&sources, against.as_deref(), uses.as_ref(), &self.variables).map_err(Failure::input)?;
        match output.form {
            Form::Csv => print(&audit::csv(&audited))?,
            _ => output.print(&audit::text(&audited), &json!(audited))?,
        }
        Ok(Verdict::of(audited.is_good()))
    }
}
