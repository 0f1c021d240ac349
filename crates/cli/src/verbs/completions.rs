//! `completions`: a script with which a shell completes this command's arguments.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::output::{Failure, Verdict, print};

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run<C: CommandFactory>(&self) -> Result<Verdict, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "entra-exchange", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(Verdict::Good)
    }
}
