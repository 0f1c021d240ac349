//! How often exchanges of one key failed since the last token, apart for each cause.
//!
//! The first failure of a new cause backs off as the first one did: eight time-outs of Entra's must not make the first
//! refusal wait as long as a ninth. Causes that alternate do not begin anew, so that they cost no more exchanges than each
//! of them would alone.

use serde::{Deserialize, Serialize};

use crate::problem::{Code, Problem};

/// The most causes that are counted apart. One more continues the longest row: whatever Entra makes up, the number of
/// exchanges stays bounded.
const MOST: usize = 4;

/// What a failure is counted under: the code and, where Entra refused, its code. Entra's own troubles are one cause,
/// whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cause {
    code: Code,
    aadsts: Option<u32>,
}

impl Cause {
    fn of(problem: &Problem) -> Self {
        let aadsts = problem.entra.aadsts.filter(|_| problem.code == Code::EntraRefused);
        Self { code: problem.code, aadsts }
    }
}

/// How often each cause made an exchange fail since the last token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Causes(Vec<(Cause, u32)>);

impl Causes {
    /// Counts a failure. Returns how many of this cause there were, this one included.
    pub(super) fn count(&mut self, problem: &Problem) -> u32 {
        let cause = Cause::of(problem);
        let known = self.0.iter().position(|(other, _)| *other == cause);
        let index = known.unwrap_or_else(|| self.add(cause));
        self.0.get_mut(index).map_or(1, |(_, count)| {
            *count = count.saturating_add(1);
            *count
        })
    }

    /// How many failures there were of all causes.
    pub(super) fn total(&self) -> u32 {
        self.0.iter().fold(0, |total, (_, count)| total.saturating_add(*count))
    }

    /// Adds a cause that has not been counted yet. Returns its index.
    fn add(&mut self, cause: Cause) -> usize {
        if self.0.len() < MOST {
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
    fn each_cause_has_its_own_row_and_keeps_it_when_another_comes_between() {
        let mut causes = Causes::default();
        let mut count = |code, aadsts| causes.count(&problem(code, aadsts));
        assert_eq!([count(Code::EntraUnavailable, None), count(Code::EntraUnavailable, Some(90_033))], [1, 2]);
        assert_eq!([count(Code::EntraRefused, Some(90_002)), count(Code::EntraRefused, Some(53_003))], [1, 1]);
        assert_eq!([count(Code::EntraUnavailable, None), count(Code::EntraRefused, Some(90_002))], [3, 2]);
    }

    #[test]
    fn causes_without_end_are_one_row_after_the_first_few() {
        let mut causes = Causes::default();
        let counts: Vec<u32> = (0..9).map(|code| causes.count(&problem(Code::EntraRefused, Some(code)))).collect();
        assert_eq!(counts, [1, 1, 1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(causes.0.len(), MOST);
    }
}
