//! The verbs of the command, one a file: the arguments, and what is read and printed.

pub(crate) mod check;
pub(crate) mod completions;
