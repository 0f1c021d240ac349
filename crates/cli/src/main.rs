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

/// Checks, explains and renders configurations of entra-exchange, the Envoy and Istio filter that gives a workload its Microsoft Entra token.
#[derive(Debug, Parser)]
#[command(name = "entra-exchange", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
    /// The form of the output
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Form,
    /// When the output has colors
    #[arg(long, global = true, value_enum, default_value = "auto")]
    color: Colour,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  no problem was found
  1  a problem was found: a mistake, with --strict a risk, or what the command checks is not as it must be
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
    /// List who may get which token where, what is wider than necessary, and what changed
    Audit(verbs::audit::Audit),
    /// Show the tokens of a running filter (fetches its status page)
    Status(verbs::status::Status),
    /// Check a machine or pod: variables, token file, and with options the filter, Envoy and the authority
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
        (Form::Sarif, _) => return Err(Failure::input("only check has --output sarif: write text or json")),
        (Form::Csv, _) => return Err(Failure::input("only audit has --output csv: write text or json")),
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// The words of a command line up to a pipe, a redirection or a comment. A substitution is one word.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote, mut depth) = (Vec::new(), String::new(), None, 0_u32);
        for character in format!("{line} ").chars() {
            match (character, quote) {
                ('(', _) if word.ends_with('$') || depth > 0 => depth += 1,
                (')', _) if depth > 0 => depth -= 1,
                (_, _) if depth > 0 => {}
                (_, Some(end)) if character == end => quote = None,
                ('"' | '\'', None) => quote = Some(character),
                (' ', None) if word.is_empty() => {}
                (' ', None) if matches!(word.as_str(), "|" | ">" | "#") => return words,
                (' ', None) => words.push(std::mem::take(&mut word)),
                _ => word.push(character),
            }
        }
        words
    }

    /// The Markdown files below a folder.
    fn pages(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let pages = entries.flat_map(|path| if path.is_dir() { pages(&path) } else { vec![path] });
        pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
    }

    /// The commands in the shell blocks of a page.
    fn commands(page: &str) -> Vec<&str> {
        let blocks = page
            .split("```")
            .skip(1)
            .step_by(2)
            .filter(|block| block.starts_with("sh\n") || block.starts_with("console\n"));
        let lines = blocks.flat_map(str::lines).map(|line| line.trim_start_matches([' ', '$']));
        lines.filter(|line| line.starts_with("entra-exchange ")).collect()
    }

    #[test]
    fn every_command_of_the_documentation_has_valid_arguments() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut count = 0;
        for path in ["docs", "examples"].iter().flat_map(|folder| pages(&root.join(folder))) {
            let page = std::fs::read_to_string(&path).unwrap().replace("\\\n", "");
            for line in commands(&page) {
                let parsed = Command::try_parse_from(words(line));
                assert!(parsed.is_ok(), "{}: {line}\n{}", path.display(), parsed.unwrap_err());
                count += 1;
            }
        }
        assert!(count > 30, "{count}");
    }
}
