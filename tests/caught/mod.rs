//! How the trials of a list fail: by a panic, whose message has been printed by then.

use std::panic::{UnwindSafe, catch_unwind};

use libtest_mimic::Failed;

pub(crate) fn caught(test: impl FnOnce() + UnwindSafe) -> Result<(), Failed> {
    catch_unwind(test).map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Failed::from(message.unwrap_or_else(|| "it panicked".to_owned()))
    })
}
