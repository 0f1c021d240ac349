//! Modules of other versions that ran in this Envoy process before, and the tokens that they left in shared data.
//!
//! A module whose entries have another form uses other shelves, so neither reads what the other wrote. Envoy keeps shared
//! data for as long as it runs, and a name in it can never be removed: without this, the tokens of the former version
//! would stay. So every module enters the names of its shelves in a register, the newest last, and the newest empties
//! the shelves of all others when nobody can be using them any more. Upgrade and rollback are the same to it.

use std::time::Duration;

use super::Limits;
use super::shared::{self, PREFIX, SharedData};
use crate::event::Event;
use crate::time::Timestamp;

/// The name of the register. Its form never changes: the prefixes of shelves, one a line.
const REGISTER: &str = "entra-exchange/shelves";

/// How every prefix begins: nothing else is ever emptied, whatever the register says.
const OURS: &str = "entra-exchange/";

/// How many predecessors the register holds.
const MOST: usize = 16;

/// The shelves of a former version are kept for this long at least.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// For how long the requests that wait in a former version's VMs may need its shelves: as long as they may wait, and one
/// exchange more. The former configuration is not known: its `limits.wait` is taken to be that of this one.
fn kept_for(wait: Duration) -> Duration {
    wait.saturating_add(Limits::LONGEST_EXCHANGE).max(KEPT_FOR)
}

/// The predecessors of this module, as one VM sees them.
#[derive(Debug)]
pub struct Predecessors {
    /// When their shelves are to be emptied.
    due: Option<Timestamp>,
    kept_for: Duration,
}

impl Predecessors {
    /// Enters this module in the register, as the newest: to be called for every configuration that is accepted, with its
    /// `limits.wait`.
    pub fn register(wait: Duration, now: Timestamp, shared: &dyn SharedData) -> Self {
        Self::register_as(PREFIX, wait, now, shared)
    }

    fn register_as(own: &str, wait: Duration, now: Timestamp, shared: &dyn SharedData) -> Self {
        let mut known = read(shared);
        let others = known.iter().any(|prefix| prefix != own);
        if known.last().is_none_or(|newest| newest != own) {
            known.retain(|prefix| prefix != own);
            known.push(own.to_owned());
            known.drain(..known.len().saturating_sub(MOST));
            shared.set(REGISTER, known.join("\n").as_bytes(), None);
        }
        let kept_for = kept_for(wait);
        Self { due: others.then(|| now.plus(kept_for)), kept_for }
    }

    /// When [`Predecessors::empty`] must be called.
    pub const fn next_due(&self) -> Option<Timestamp> {
        self.due
    }

    /// Empties the shelves of all predecessors when their time has come. Returns what to log about it.
    pub fn empty(&mut self, now: Timestamp, shared: &dyn SharedData) -> Option<Event> {
        self.empty_as(PREFIX, now, shared)
    }

    fn empty_as(&mut self, own: &str, now: Timestamp, shared: &dyn SharedData) -> Option<Event> {
        let due = self.due?;
        if now < due {
            // A clock that was set back does not prolong it.
            self.due = Some(due.min(now.plus(self.kept_for)));
            return None;
        }
        self.due = None;
        let known = read(shared);
        // When there is a newer one, it is this module that is the predecessor.
        if known.last().is_none_or(|newest| newest != own) {
            return None;
        }
        let others = known.iter().filter(|prefix| *prefix != own);
        let emptied = others.map(|prefix| shared::empty(prefix, shared)).sum::<usize>();
        (emptied > 0).then(|| Event::info("upgrade").with("outcome", "emptied").with("shelves", emptied))
    }
}

/// The prefixes that have been used in this process, the newest last.
fn read(shared: &dyn SharedData) -> Vec<String> {
    let bytes = shared.get(REGISTER).map(|(bytes, _)| bytes).unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    text.lines().filter(|line| line.starts_with(OURS) && line.ends_with('/')).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{START, Shared};
    use super::*;

    const WAIT: Duration = Duration::from_secs(15);
    const FORMER: &str = "entra-exchange/former/";

    /// Shelves of this version with tokens on two of them.
    fn used(prefix: &str) -> Shared {
        let shared = Shared::default();
        Predecessors::register_as(prefix, WAIT, START, &shared);
        for (number, value) in [(0, "[]"), (7, "[secret]"), (255, "[secret]")] {
            shared.set(&format!("{prefix}{number:02x}"), value.as_bytes(), None);
        }
        shared
    }

    fn left(prefix: &str, shared: &Shared) -> Vec<String> {
        let values = [0, 7, 255].map(|number| shared.get(&format!("{prefix}{number:02x}")).unwrap().0);
        values.map(|value| String::from_utf8(value).unwrap()).to_vec()
    }

    #[test]
    fn what_a_former_version_left_is_emptied_when_nobody_can_use_it_any_more() {
        let shared = used(FORMER);
        let mut newest = Predecessors::register(WAIT, START, &shared);
        assert_eq!(newest.next_due(), Some(START.plus(KEPT_FOR)));
        assert_eq!(newest.empty(START.plus(KEPT_FOR).minus(Duration::from_millis(1)), &shared), None);
        assert_eq!(left(FORMER, &shared), ["[]", "[secret]", "[secret]"]);
        let event = newest.empty(START.plus(KEPT_FOR), &shared).unwrap();
        assert_eq!(event.to_string(), "event=upgrade outcome=emptied shelves=2");
        assert_eq!(left(FORMER, &shared), ["[]", "", ""]);
        assert_eq!(newest.next_due(), None);
    }

    #[test]
    fn after_a_rollback_the_older_version_empties_what_the_newer_one_left() {
        let shared = used(FORMER);
        let mut newer = Predecessors::register_as(PREFIX, WAIT, START, &shared);
        shared.set(&format!("{PREFIX}07"), b"[secret]", None);
        let mut older = Predecessors::register_as(FORMER, WAIT, START.plus(Duration::from_secs(10)), &shared);
        let later = START.plus(Duration::from_secs(1000));
        assert_eq!(newer.empty(later, &shared), None, "it is the predecessor now");
        assert_eq!(left(FORMER, &shared), ["[]", "[secret]", "[secret]"]);
        assert!(older.empty_as(FORMER, later, &shared).is_some());
        assert_eq!(shared.get(&format!("{PREFIX}07")).unwrap().0, b"");
        assert_eq!(left(FORMER, &shared), ["[]", "[secret]", "[secret]"]);
    }

    #[test]
    fn without_a_predecessor_nothing_is_ever_due_however_often_it_is_configured() {
        let shared = used(PREFIX);
        for _ in 0..3 {
            let mut own = Predecessors::register(WAIT, START, &shared);
            assert_eq!((own.next_due(), own.empty(START.plus(KEPT_FOR), &shared)), (None, None));
        }
        assert_eq!(left(PREFIX, &shared), ["[]", "[secret]", "[secret]"]);
        assert_eq!(shared.get(REGISTER).unwrap().0, PREFIX.as_bytes());
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_prolong_the_life_of_what_was_left() {
        let shared = used(FORMER);
        let mut newest = Predecessors::register(WAIT, START, &shared);
        let back = START.minus(Duration::from_secs(3600));
        assert_eq!(newest.empty(back, &shared), None);
        assert_eq!(newest.next_due(), Some(back.plus(KEPT_FOR)));
        assert!(newest.empty(back.plus(KEPT_FOR), &shared).is_some());
    }

    #[test]
    fn a_register_that_makes_no_sense_empties_nothing_and_is_written_anew() {
        for register in [&b"someone-else/\nentra-exchange"[..], b"\xff\xfe", b"\n\n"] {
            let shared = Shared::default();
            shared.set(REGISTER, register, None);
            shared.set("someone-else/00", b"theirs", None);
            let mut own = Predecessors::register(WAIT, START, &shared);
            assert_eq!(own.empty(START.plus(KEPT_FOR), &shared), None);
            assert_eq!(shared.get("someone-else/00").unwrap().0, b"theirs");
            assert_eq!(shared.get(REGISTER).unwrap().0, PREFIX.as_bytes());
        }
    }

    #[test]
    fn the_register_is_bounded() {
        let shared = Shared::default();
        for number in 0..100 {
            Predecessors::register_as(&format!("entra-exchange/{number}/"), WAIT, START, &shared);
        }
        let known = read(&shared);
        assert_eq!((known.len(), known.last().map(String::as_str)), (MOST, Some("entra-exchange/99/")));
    }

    #[test]
    fn what_a_former_version_left_is_kept_for_as_long_as_its_requests_may_wait() {
        let mut newest = Predecessors::register(Duration::from_secs(300), START, &used(FORMER));
        assert_eq!(newest.next_due(), Some(START.plus(Duration::from_secs(360))));
        let back = START.minus(Duration::from_secs(3600));
        newest.empty(back, &used(FORMER));
        assert_eq!(newest.next_due(), Some(back.plus(Duration::from_secs(360))));
    }
}
