//! The last exchanges of a token, for the status page. Consecutive exchanges with the same outcome are one run, so that a long series of
//! failures does not displace what came before it.

use serde::{Deserialize, Serialize};

use super::causes::Cause;
use crate::problem::Problem;
use crate::time::Timestamp;

/// The last exchanges of a token: at most [`Exchanges::MAX`] runs, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exchanges(Vec<Run>);

/// Consecutive exchanges with the same outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// `None` if they gave a token.
    cause: Option<Cause>,
    pub(crate) count: u32,
    /// The time of the first one.
    pub(crate) first: Timestamp,
    /// The time of the last one.
    pub(crate) last: Timestamp,
}

impl Exchanges {
    /// The maximum number of runs: enough to see whether failures come and go, at about 25 bytes in the shared entry for each.
    pub(crate) const MAX: usize = 6;

    /// Adds an exchange that gave a token, or that failed with this problem.
    pub(super) fn record(&mut self, problem: Option<&Problem>, now: Timestamp) {
        let cause = problem.map(Cause::of);
        if let Some(run) = self.0.last_mut().filter(|run| run.cause == cause) {
            run.count = run.count.saturating_add(1);
            run.last = now;
            return;
        }
        if self.0.len() >= Self::MAX {
            self.0.remove(0);
        }
        self.0.push(Run { cause, count: 1, first: now, last: now });
    }

    /// Whether there was no exchange.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The runs, the latest first.
    pub(crate) fn latest_first(&self) -> impl Iterator<Item = &Run> {
        self.0.iter().rev()
    }
}

impl Run {
    /// `issued`, or the problem code.
    pub(crate) const fn outcome(&self) -> &'static str {
        match &self.cause {
            Some(cause) => cause.code.as_str(),
            None => "issued",
        }
    }

    /// Entra's error code, if Entra rejected the exchanges.
    pub(crate) fn aadsts(&self) -> Option<String> {
        crate::problem::aadsts(self.cause?.aadsts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn shown(exchanges: &Exchanges) -> Vec<String> {
        let runs = exchanges.latest_first();
        runs.map(|run| {
            let times = [run.first, run.last].map(Timestamp::unix_seconds);
            format!("{} × {} {} {times:?}", run.count, run.outcome(), run.aadsts().unwrap_or_default())
        })
        .collect()
    }

    #[test]
    fn consecutive_exchanges_with_the_same_outcome_are_one_run() {
        let mut exchanges = Exchanges::default();
        let mut refused = Problem::new(Code::EntraRefused, "d", "r");
        refused.entra.aadsts = Some(700_213);
        let outcomes = [None, None, Some(&refused), Some(&refused), Some(&refused), None];
        for (outcome, second) in outcomes.into_iter().zip(10..) {
            exchanges.record(outcome, Timestamp::from_unix_seconds(second));
        }
        assert_eq!(
            shown(&exchanges),
            ["1 × issued  [15, 15]", "3 × entra_refused AADSTS700213 [12, 14]", "2 × issued  [10, 11]"]
        );
    }

    #[test]
    fn the_number_of_runs_is_bounded_and_the_latest_are_kept() {
        let mut exchanges = Exchanges::default();
        let mut refused = Problem::new(Code::EntraRefused, "d", "r");
        for aadsts in 0..20 {
            refused.entra.aadsts = Some(aadsts);
            exchanges.record(Some(&refused), Timestamp::default());
        }
        let kept: Vec<_> = exchanges.latest_first().filter_map(Run::aadsts).collect();
        let latest: Vec<_> = (0..20).rev().take(Exchanges::MAX).map(|code| format!("AADSTS{code}")).collect();
        assert_eq!(kept, latest);
    }
}
