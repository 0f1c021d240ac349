//! Removes the tokens that modules of other versions left in this Envoy process's shared data.
//!
//! A module with another entry format uses other shelves, so neither reads the entries of the other. Envoy keeps shared data until it
//! exits, and names in it cannot be removed, so the tokens of a previous version would remain. Every module therefore adds the prefix
//! of its shelves to a register, newest last, and the newest module clears the shelves of all others once they can no longer be in
//! use. Upgrades and rollbacks are handled the same way.

use std::time::Duration;

use super::super::vocabulary::Limits;
use super::shared_data::{PREFIX, SharedData, shelf_names};
use crate::event::Event;
use crate::time::Timestamp;

/// The name of the register. Its format never changes: the prefixes of shelves, one per line.
const REGISTER: &str = "entra-exchange/shelves";

/// The start of every prefix. Other names are never cleared, whatever the register contains.
const COMMON_PREFIX: &str = "entra-exchange/";

/// Maximum number of prefixes in the register.
const MAX: usize = 16;

/// Minimum time for which the shelves of a previous version are kept.
const MIN_RETENTION: Duration = Duration::from_secs(120);

/// Returns the time for which requests in the VMs of a previous version may need its shelves: their maximum wait and one exchange.
/// The previous configuration is unknown, so its `limits.wait` is assumed to be `wait`, that of this configuration.
fn retention(wait: Duration) -> Duration {
    wait.saturating_add(Limits::LONGEST_EXCHANGE).max(MIN_RETENTION)
}

/// The pending cleanup of other versions' shelves in one VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Predecessors {
    /// The time at which their shelves are cleared.
    due: Option<Timestamp>,
    retention: Duration,
}

impl Predecessors {
    /// Adds this module to the register as the newest. Call it for every accepted configuration, with its `limits.wait`.
    pub(super) fn register(wait: Duration, now: Timestamp, shared: &dyn SharedData) -> Self {
        Self::register_as(PREFIX, wait, now, shared)
    }

    fn register_as(own: &str, wait: Duration, now: Timestamp, shared: &dyn SharedData) -> Self {
        let mut known = read(shared);
        let others = known.iter().any(|prefix| prefix != own);
        if known.last().is_none_or(|newest| newest != own) {
            known.retain(|prefix| prefix != own);
            known.push(own.to_owned());
            known.drain(..known.len().saturating_sub(MAX));
            shared.set(REGISTER, known.join("\n").as_bytes(), None);
        }
        let retention = retention(wait);
        Self { due: others.then(|| now.plus(retention)), retention }
    }

    /// The time at which [`Predecessors::empty`] must be called.
    pub(super) const fn next_due(&self) -> Option<Timestamp> {
        self.due
    }

    /// Clears the shelves of all predecessors if they are due. Returns the event to log.
    pub(super) fn empty(&mut self, now: Timestamp, shared: &dyn SharedData) -> Option<Event> {
        self.empty_as(PREFIX, now, shared)
    }

    fn empty_as(&mut self, own: &str, now: Timestamp, shared: &dyn SharedData) -> Option<Event> {
        let due = self.due?;
        if now < due {
            // A clock that was set back does not extend the retention.
            self.due = Some(due.min(now.plus(self.retention)));
            return None;
        }
        self.due = None;
        let known = read(shared);
        // If another module is the newest, this module is a predecessor.
        if known.last().is_none_or(|newest| newest != own) {
            return None;
        }
        let others = known.iter().filter(|prefix| *prefix != own);
        let emptied = others.map(|prefix| clear(prefix, shared)).sum::<usize>();
        (emptied > 0).then(|| Event::info("upgrade").with("outcome", "emptied").with("shelves", emptied))
    }
}

/// Clears the shelves of a version, whose names begin with `prefix`. Returns the number of shelves that held entries.
fn clear(prefix: &str, shared: &dyn SharedData) -> usize {
    // No format writes an entry in so few bytes, and every format reads an empty value as a shelf without entries.
    const NO_ENTRIES: usize = 2;
    let used = shelf_names(prefix).filter(|name| shared.get(name).is_some_and(|(bytes, _)| bytes.len() > NO_ENTRIES));
    used.map(|name| shared.set(&name, b"", None)).filter(|emptied| *emptied).count()
}

/// Reads the prefixes that have been used in this process, newest last.
fn read(shared: &dyn SharedData) -> Vec<String> {
    let bytes = shared.get(REGISTER).map(|(bytes, _)| bytes).unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    text.lines().filter(|line| line.starts_with(COMMON_PREFIX) && line.ends_with('/')).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{Memory as Shared, START};
    use super::*;

    const WAIT: Duration = Duration::from_secs(15);
    const FORMER: &str = "entra-exchange/former/";

    /// Shared data with shelves of this version, two of which hold tokens.
    fn used(prefix: &str) -> Shared {
        let shared = Shared::default();
        Predecessors::register_as(prefix, WAIT, START, &shared);
        for (name, value) in
            [("00", "[]"), ("07", "[secret]"), ("ff", "[secret]"), ("credential/f", "[state]"), ("sources", "[secret]")]
        {
            shared.set(&format!("{prefix}{name}"), value.as_bytes(), None);
        }
        shared
    }

    fn left(prefix: &str, shared: &Shared) -> Vec<String> {
        let values = [0, 7, 255].map(|number| shared.get(&format!("{prefix}{number:02x}")).unwrap().0);
        values.map(|value| String::from_utf8(value).unwrap()).to_vec()
    }

    #[test]
    fn the_shelves_of_a_previous_version_are_cleared_once_they_can_no_longer_be_in_use() {
        let shared = used(FORMER);
        let mut newest = Predecessors::register(WAIT, START, &shared);
        assert_eq!(newest.next_due(), Some(START.plus(MIN_RETENTION)));
        assert_eq!(newest.empty(START.plus(MIN_RETENTION).minus(Duration::from_millis(1)), &shared), None);
        assert_eq!(left(FORMER, &shared), ["[]", "[secret]", "[secret]"]);
        let event = newest.empty(START.plus(MIN_RETENTION), &shared).unwrap();
        assert_eq!(event.to_string(), "event=upgrade outcome=emptied shelves=4");
        assert_eq!(left(FORMER, &shared), ["[]", "", ""]);
        for name in ["credential/f", "sources"] {
            assert_eq!(shared.get(&format!("{FORMER}{name}")).unwrap().0, b"", "{name}");
        }
        assert_eq!(newest.next_due(), None);
    }

    #[test]
    fn nothing_is_logged_if_a_previous_version_left_no_tokens() {
        let shared = Shared::default();
        Predecessors::register_as(FORMER, WAIT, START, &shared);
        let mut newest = Predecessors::register(WAIT, START, &shared);
        assert_eq!(newest.empty(START.plus(MIN_RETENTION), &shared), None);
    }

    #[test]
    fn after_a_rollback_the_older_version_clears_the_shelves_of_the_newer_one() {
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
    fn without_a_predecessor_no_cleanup_is_due_however_often_the_module_is_configured() {
        let shared = used(PREFIX);
        for _ in 0..3 {
            let mut own = Predecessors::register(WAIT, START, &shared);
            assert_eq!((own.next_due(), own.empty(START.plus(MIN_RETENTION), &shared)), (None, None));
        }
        assert_eq!(left(PREFIX, &shared), ["[]", "[secret]", "[secret]"]);
        assert_eq!(shared.get(REGISTER).unwrap().0, PREFIX.as_bytes());
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_extend_the_retention() {
        let shared = used(FORMER);
        let mut newest = Predecessors::register(WAIT, START, &shared);
        let back = START.minus(Duration::from_secs(3600));
        assert_eq!(newest.empty(back, &shared), None);
        assert_eq!(newest.next_due(), Some(back.plus(MIN_RETENTION)));
        assert!(newest.empty(back.plus(MIN_RETENTION), &shared).is_some());
    }

    #[test]
    fn an_invalid_register_clears_nothing_and_is_replaced() {
        for register in [&b"someone-else/\nentra-exchange"[..], b"\xff\xfe", b"\n\n"] {
            let shared = Shared::default();
            shared.set(REGISTER, register, None);
            shared.set("someone-else/00", b"theirs", None);
            let mut own = Predecessors::register(WAIT, START, &shared);
            assert_eq!(own.empty(START.plus(MIN_RETENTION), &shared), None);
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
        assert_eq!((known.len(), known.last().map(String::as_str)), (MAX, Some("entra-exchange/99/")));
    }

    #[test]
    fn the_shelves_of_a_previous_version_are_kept_for_as_long_as_its_requests_may_wait() {
        let mut newest = Predecessors::register(Duration::from_secs(300), START, &used(FORMER));
        assert_eq!(newest.next_due(), Some(START.plus(Duration::from_secs(360))));
        let back = START.minus(Duration::from_secs(3600));
        newest.empty(back, &used(FORMER));
        assert_eq!(newest.next_due(), Some(back.plus(Duration::from_secs(360))));
    }
}
