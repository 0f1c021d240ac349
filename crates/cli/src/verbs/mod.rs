//! The verbs of the command, one a file: the arguments, and what is read and printed.

pub(crate) mod aadsts;
pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod credentials;
pub(crate) mod detect;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod inspect;
pub(crate) mod render;
pub(crate) mod status;
