//! The two clocks of a machine: the steady one, by which Envoy's timers and time-outs run, and the one on the wall, which
//! the broker is told and which somebody may set.

use std::cell::{Cell, RefCell};

use entra_exchange_core::time::Timestamp;

const START: i64 = 1_795_334_000_000;

/// Times are milliseconds of the steady clock, which begins at 0.
#[derive(Default)]
pub(crate) struct Clock {
    steady: Cell<u64>,
    /// When the wall's clock was set, and by how much.
    jumps: RefCell<Vec<(u64, i64)>>,
}

impl Clock {
    pub(crate) fn steady(&self) -> u64 {
        self.steady.get()
    }

    pub(crate) fn run_to(&self, steady: u64) {
        self.steady.set(self.steady.get().max(steady));
    }

    /// What the wall's clock says.
    pub(crate) fn wall(&self) -> Timestamp {
        let offset: i64 = self.jumps.borrow().iter().map(|(_, by)| by).sum();
        Timestamp::from_unix_millis((START + self.steady() as i64 + offset) as u64)
    }

    pub(crate) fn jump(&self, by: i64) {
        self.jumps.borrow_mut().push((self.steady(), by));
    }

    /// Whether it was set since.
    pub(crate) fn jumped_since(&self, steady: u64) -> bool {
        self.jumps.borrow().iter().any(|(at, _)| *at >= steady)
    }

    /// How often it was set back since.
    pub(crate) fn times_set_back_since(&self, steady: u64) -> u64 {
        self.jumps.borrow().iter().filter(|(at, by)| *at >= steady && *by < 0).count() as u64
    }

    /// How far it was set back since, all in all.
    pub(crate) fn set_back_since(&self, steady: u64) -> u64 {
        self.jumps.borrow().iter().filter(|(at, by)| *at >= steady && *by < 0).map(|(_, by)| by.unsigned_abs()).sum()
    }
}
