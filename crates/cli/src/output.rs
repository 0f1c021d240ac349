//! What the command prints, and its exit codes.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;

/// Why the command could not do what it was asked to do: one line on standard error, and an exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The arguments or the input cannot be used.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// Another server did not answer as expected.
    pub(crate) fn remote(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 3 }
    }

    /// The message without the name of the file that it begins with.
    pub(crate) fn without(self, name: &str) -> String {
        self.message.strip_prefix(name).map_or(self.message.clone(), |rest| rest.trim_start().to_owned())
    }

    /// Prints the line, and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let Self { message, code } = self;
        // A control character, such as one in the name of a file, could act on the terminal.
        let line = message.replace(char::is_control, " ");
        // Nothing can be done if standard error is closed.
        let _ = writeln!(std::io::stderr(), "entra-exchange: {line}");
        ExitCode::from(code)
    }
}

/// Whether what was asked for is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// In order.
    Good,
    /// Something must be changed.
    Bad,
}

impl Verdict {
    /// In order if `is_good` holds.
    pub(crate) const fn of(is_good: bool) -> Self {
        if is_good { Self::Good } else { Self::Bad }
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(match verdict {
            Verdict::Good => 0,
            Verdict::Bad => 1,
        })
    }
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
    /// SARIF 2.1.0 for code review (`check` only).
    Sarif,
    /// CSV for spreadsheets (`audit` only).
    Csv,
}

/// When the output has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The output of a verb.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Its form.
    pub(crate) form: Form,
    /// When it has colours.
    pub(crate) colour: Colour,
}

impl Output {
    /// Whether to write colours to standard output.
    pub(crate) fn has_colours(self) -> bool {
        match self.colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        }
    }

    /// Prints text or JSON, as the form says.
    pub(crate) fn print(self, text: &str, json: &serde_json::Value) -> Result<(), Failure> {
        print(&self.text_of(text, json))
    }

    /// The text or JSON, as the form says.
    pub(crate) fn text_of(self, text: &str, json: &serde_json::Value) -> String {
        match self.form {
            Form::Text => text.to_owned(),
            Form::Json | Form::Sarif | Form::Csv => format!("{json:#}"),
        }
    }
}

/// Prints a text, with one line break at its end.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_to_reader(text).map(|_| ())
}

/// Prints a text like [`print()`], and returns whether it still has a reader. One such as `head` leaves when it has what it wants.
pub(crate) fn print_to_reader(text: &str) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::input(format!("standard output cannot be written: {error}"))),
        Ok(()) => Ok(true),
    }
}

/// Prints a value as indented JSON.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value:#}"))
}
