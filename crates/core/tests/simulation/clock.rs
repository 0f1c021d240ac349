//! The two clocks of a machine: the steady clock, which Envoy's timers and time-outs use, and the wall clock, which the
//! broker uses and an administrator can set.

use std::cell::{Cell, RefCell};

use entra_exchange_core::time::Timestamp;

const START: i64 = 1_795_334_000_000;

/// Both clocks. Times are in milliseconds of the steady clock, which begins at 0.
#[derive(Default)]
pub(crate) struct Clock {
    steady: Cell<u64>,
    /// The times at which the wall clock was set, with the change in milliseconds.
    jumps: RefCell<Vec<(u64, i64)>>,
}

impl Clock {
    pub(crate) fn steady(&self) -> u64 {
        self.steady.get()
    }

    pub(crate) fn run_to(&self, steady: u64) {
        self.steady.set(self.steady.get().max(steady));
    }

    /// The time of the wall clock.
    pub(crate) fn wall(&self) -> Timestamp {
        let offset: i64 = self.jumps.borrow().iter().map(|(_, by)| by).sum();
        Timestamp::from_unix_millis((START + self.steady() as i64 + offset) as u64)
    }

    pub(crate) fn jump(&self, by: i64) {
        self.jumps.borrow_mut().push((self.steady(), by));
    }

    /// Whether the wall clock was set since then.
    pub(crate) fn jumped_since(&self, steady: u64) -> bool {
        self.jumps.borrow().iter().any(|(at, _)| *at >= steady)
    }

    /// The number of times that the wall clock was set back since then.
    pub(crate) fn times_set_back_since(&self, steady: u64) -> u64 {
        self.jumps.borrow().iter().filter(|(at, by)| *at >= steady && *by < 0).count() as u64
    }

    /// The total time by which the wall clock was set back since then.
    pub(crate) fn set_back_since(&self, steady: u64) -> u64 {
        self.jumps.borrow().iter().filter(|(at, by)| *at >= steady && *by < 0).map(|(_, by)| by.unsigned_abs()).sum()
    }
}
