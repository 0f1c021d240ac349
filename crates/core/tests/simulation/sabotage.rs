//! Hosts that break what the broker relies on: each must be noticed, or nothing is proved by the rest.

/// What is wrong with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The timer never fires.
    NoTimer,
    /// A worker's message to itself never comes.
    NoMessageToOneself,
    /// A compare-and-set compares nothing.
    EverySetSucceeds,
    /// The shelves are not made while nobody else is there: the first set on each then succeeds for everybody.
    ShelvesNotMade,
    /// Each worker has a memory of its own.
    NothingShared,
    /// An answer is given to the wrong question.
    AnswersMixedUp,
    /// One worker's clock is two hours late.
    SlowClock,
    /// One worker's clock stands still.
    ClockStandsStill,
    /// Messages reach only the worker that sends them.
    NoMessageToOthers,
}

impl Sabotage {
    /// All of them, with the rule that each breaks.
    pub(crate) const ALL: [(Self, &str); 9] = [
        (Self::NoTimer, "answered in time"),
        (Self::NoMessageToOneself, "answered in time"),
        (Self::EverySetSucceeds, "one exchange"),
        (Self::ShelvesNotMade, "one exchange"),
        (Self::NothingShared, "one exchange"),
        (Self::AnswersMixedUp, "own token"),
        (Self::SlowClock, "one exchange"),
        (Self::ClockStandsStill, "no expired token"),
        (Self::NoMessageToOthers, "rejected"),
    ];
}
