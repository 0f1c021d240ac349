//! The command `entra-exchange`: a shell over the library `entra-exchange-operator`. It reads files, and prints what the library
//! returns.

mod choice;
mod clock;
mod files;
mod input;
mod network;
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
    /// Explain how the filter would handle a request, and why
    Explain(Box<verbs::explain::Explain>),
    /// Make manifests from a configuration
    Render(Box<verbs::render::Render>),
    /// Show what a token says and what Entra will think of it
    Inspect(verbs::inspect::Inspect),
    /// Explain an error code of Microsoft Entra
    Aadsts(verbs::aadsts::Aadsts),
    /// Print the federated credentials that a configuration needs
    Credentials(verbs::credentials::Credentials),
    /// Find workloads with aad-pod-identity, Azure Workload Identity or client secrets, and say how to migrate each
    Detect(verbs::detect::Detect),
    /// List who may get which token where, what is wider than it need be, and what changed
    Audit(verbs::audit::Audit),
    /// Show the tokens of a running filter (fetches its status page)
    Status(verbs::status::Status),
    /// Look at a machine or pod: variables, token file, and with the flags the filter, Envoy and the authority
    Doctor(verbs::doctor::Doctor),
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
    match (output.form, &command.verb) {
        (Form::Text | Form::Json, _) | (Form::Sarif, Verb::Check(_)) | (Form::Csv, Verb::Audit(_)) => {}
        (Form::Sarif, _) => return Err(Failure::input("--output sarif is a form of check alone: write text or json")),
        (Form::Csv, _) => return Err(Failure::input("--output csv is a form of audit alone: write text or json")),
    }
    match &command.verb {
        Verb::Check(check) => check.run(output),
        Verb::Aadsts(aadsts) => aadsts.run(output),
        Verb::Explain(explain) => explain.run(output),
        Verb::Render(render) => render.run(output),
        Verb::Inspect(inspect) => inspect.run(output),
        Verb::Credentials(credentials) => credentials.run(output),
        Verb::Detect(detect) => detect.run(output),
        Verb::Audit(audit) => audit.run(output),
        Verb::Status(status) => status.run(output),
        Verb::Doctor(doctor) => doctor.run(output),
        Verb::Completions(completions) => completions.run::<Command>(),
    }
}
