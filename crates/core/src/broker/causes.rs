//! Counts of an exchange's failures since the last token, separately for each cause.
//!
//! The first failure of a new cause gets the shortest back-off: after eight timeouts, the first rejection does not wait as long as a
//! ninth timeout. Alternating causes keep their counts, so that together they cost no more exchanges than each would alone.

use serde::{Deserialize, Serialize};

use crate::problem::{Code, Problem};

/// Maximum number of causes with a count of their own. A further cause continues the highest count, so that the number of exchanges
/// is bounded whatever error codes Entra returns.
const MAX: usize = 4;

/// The cause of a failure: the problem code and, for a rejection, Entra's error code. All failures of Entra itself are one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cause {
    pub(super) code: Code,
    pub(super) aadsts: Option<u32>,
}

impl Cause {
    pub(super) fn of(problem: &Problem) -> Self {
        let aadsts = problem.entra.aadsts.filter(|_| problem.code == Code::EntraRefused);
        Self { code: problem.code, aadsts }
    }
}

/// The number of failures of each cause since the last token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Causes(Vec<(Cause, u32)>);

impl Causes {
    /// Counts a failure. Returns the number of failures of its cause, including this one.
    pub(super) fn count(&mut self, problem: &Problem) -> u32 {
        let cause = Cause::of(problem);
        let known = self.0.iter().position(|(other, _)| *other == cause);
        let index = known.unwrap_or_else(|| self.add(cause));
        self.0.get_mut(index).map_or(1, |(_, count)| {
            *count = count.saturating_add(1);
            *count
        })
    }

    /// Returns the number of failures of all causes.
    pub(super) fn total(&self) -> u32 {
        self.0.iter().fold(0, |total, (_, count)| total.saturating_add(*count))
    }

    /// Adds a cause without failures. Returns its index.
    fn add(&mut self, cause: Cause) -> usize {
        if self.0.len() < MAX {
            self.0.push((cause, 0));
            return self.0.len() - 1;
        }
        let longest = self.0.iter_mut().enumerate().max_by_key(|(_, (_, count))| *count);
        longest.map_or(0, |(index, (other, _))| {
            *other = cause;
            index
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: Code, aadsts: Option<u32>) -> Problem {
        let mut problem = Problem::new(code, "detail", "remedy");
        problem.entra.aadsts = aadsts;
        problem
    }

    #[test]
    fn each_cause_keeps_its_own_count_when_another_cause_occurs() {
        let mut causes = Causes::default();
        let mut count = |code, aadsts| causes.count(&problem(code, aadsts));
        assert_eq!([count(Code::EntraUnavailable, None), count(Code::EntraUnavailable, Some(90_033))], [1, 2]);
        assert_eq!([count(Code::EntraRefused, Some(90_002)), count(Code::EntraRefused, Some(53_003))], [1, 1]);
        assert_eq!([count(Code::EntraUnavailable, None), count(Code::EntraRefused, Some(90_002))], [3, 2]);
    }

    #[test]
    fn the_number_of_counted_causes_is_bounded() {
        let mut causes = Causes::default();
        let counts: Vec<u32> = (0..9).map(|code| causes.count(&problem(Code::EntraRefused, Some(code)))).collect();
        assert_eq!(counts, [1, 1, 1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(causes.0.len(), MAX);
    }
}
