//! Hosts that violate a guarantee that the broker relies on. The judge must detect each of them, which shows that its checks
//! are effective.

/// The fault of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The timer never fires.
    NoTimer,
    /// A worker's message to itself never arrives.
    NoMessageToOneself,
    /// A compare-and-set does not compare.
    EverySetSucceeds,
    /// The shelves are not created before the workers start, so the first compare-and-set of each worker succeeds.
    ShelvesNotMade,
    /// Each worker has its own shared data.
    NothingShared,
    /// A response is delivered for another token key.
    AnswersMixedUp,
    /// One worker's clock is two hours slow.
    SlowClock,
    /// One worker's clock has stopped.
    ClockStandsStill,
    /// Messages to other workers never arrive.
    NoMessageToOthers,
}

impl Sabotage {
    /// All faults, each with the rule that it violates.
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
