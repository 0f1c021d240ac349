//! The command `entra-exchange`: a shell over the library `entra-exchange-operator`. It reads files, and prints what the library
//! returns.

mod input;
mod output;
mod verbs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::{Colour, Failure, Form, Output, Verdict};

/// Asks about entra-exchange, the Envoy and Istio filter that gives a workload its Microsoft Entra token.
#[derive(Debug, Parser)]
#[command(name = "entra-exchange", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
    /// The form of the output
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Form,
    /// When the output has colours
    #[arg(long, global = true, value_enum, default_value = "auto")]
    color: Colour,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  in order
  1  something must be changed: a mistake, with --strict a risk, or an answer that is not in order
  2  the arguments or the input cannot be used
  3  another server did not answer as expected";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find mistakes and risks in configurations and manifests
    Check(verbs::check::Check),
    /// Print a script for the completion of arguments in a shell
    Completions(verbs::completions::Completions),
}

fn main() -> ExitCode {
    let command = Command::parse();
    match run(&command) {
        Ok(verdict) => verdict.into(),
        Err(failure) => failure.report(),
    }
}

fn run(command: &Command) -> Result<Verdict, Failure> {
    let output = Output { form: command.output, colour: command.color };
    match &command.verb {
        Verb::Check(check) => check.run(output),
        Verb::Completions(completions) => completions.run::<Command>(),
    }
}
