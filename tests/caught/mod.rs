//! Converts a panic of a test into the failure of its libtest-mimic trial. The panic's message has been printed already.

use std::panic::{UnwindSafe, catch_unwind};

use libtest_mimic::Failed;

pub(crate) fn caught(test: impl FnOnce() + UnwindSafe) -> Result<(), Failed> {
    catch_unwind(test).map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Failed::from(message.unwrap_or_else(|| "it panicked".to_owned()))
    })
}
