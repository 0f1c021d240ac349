//! Tests that every store passes: the one in Envoy's shared data and the one in memory.

use super::*;
use crate::assertion::Source;

/// Changes the scope of a token's entry. Returns whether the change was made.
fn set_scope(store: &dyn Store, key: TokenKey, scope: &str, is_kept: bool) -> Option<()> {
    store::update(store, key, START, |entry| {
        scope.clone_into(&mut entry.scope);
        // An entry without any effect is removed.
        entry.forced_at = Some(START);
        Update::commit_if(is_kept, ())
    })
}

#[test]
fn a_change_is_read_by_all_and_one_that_is_not_kept_leaves_no_trace() {
    let [one, other] = ["a/.default", "b/.default"].map(|scope| spec_of("payments", scope, &["entra"], None).key());
    for store in stores() {
        assert!(store.read(one) == Entry::default() && store.read_all().is_empty());
        assert_eq!(set_scope(&*store, one, "a/.default", false), Some(()));
        assert!(store.read(one) == Entry::default() && store.read_all().is_empty());
        assert_eq!(set_scope(&*store, one, "a/.default", true), Some(()));
        assert_eq!(set_scope(&*store, other, "b/.default", true), Some(()));
        assert_eq!(set_scope(&*store, one, "c/.default", false), Some(()));
        assert_eq!(
            (store.read(one).scope, store.read(other).scope),
            ("a/.default".to_owned(), "b/.default".to_owned())
        );
        let mut scopes: Vec<(TokenKey, String)> =
            store.read_all().into_iter().map(|(key, entry)| (key, entry.scope)).collect();
        scopes.sort();
        let mut expected = vec![(one, "a/.default".to_owned()), (other, "b/.default".to_owned())];
        expected.sort();
        assert_eq!(scopes, expected);
    }
}

#[test]
fn each_entry_of_some_tokens_is_read_once() {
    let specs: Vec<Arc<TokenSpec>> =
        (0..600).map(|number| spec_of("payments", &format!("{number}/.default"), &["entra"], None)).collect();
    let (wanted, others) = specs.split_at(400);
    for store in stores() {
        // The last hundred of the wanted ones have no entry.
        for spec in wanted[..300].iter().chain(others) {
            set_scope(&*store, spec.key(), spec.scope(), true);
        }
        let keys: Vec<TokenKey> = wanted.iter().map(|spec| spec.key()).collect();
        let mut read = Vec::new();
        store.read_each(&keys, &mut |entry| read.push(entry.scope.clone()));
        let mut expected: Vec<String> = wanted[..300].iter().map(|spec| spec.scope().to_owned()).collect();
        read.sort();
        expected.sort();
        assert_eq!(read, expected);
    }
}

#[test]
fn a_shelf_is_read_once_however_many_tokens_of_it_are_read() {
    let shared = Shared::default();
    let of_one_shelf = |spec: &Arc<TokenSpec>| spec.key().first_byte() == 7;
    let specs = (0..10_000).map(|number| spec_of("payments", &format!("{number}/.default"), &["entra"], None));
    let keys: Vec<TokenKey> = specs.filter(of_one_shelf).map(|spec| spec.key()).collect();
    assert!(keys.len() > 20);
    for key in &keys {
        set_scope(&shared, *key, "s", true);
    }
    let before = *shared.memory.gets.borrow();
    let mut read = 0;
    shared.read_each(&keys, &mut |_| read += 1);
    assert_eq!((read, *shared.memory.gets.borrow() - before), (keys.len(), 1));
}

#[test]
fn a_change_starts_from_the_current_entry_and_returns_its_result() {
    let key = spec().key();
    for store in stores() {
        set_scope(&*store, key, "a/.default", true);
        let before = store::update(&*store, key, START, |entry| Update::Abandon(entry.scope.clone()));
        assert_eq!(before.as_deref(), Some("a/.default"));
    }
}

#[test]
fn a_token_that_is_no_longer_usable_is_removed_with_the_next_change() {
    let key = spec().key();
    for store in stores() {
        store::update(&*store, key, START, |entry| {
            let token = crate::entra::AccessToken::parse("abc").unwrap();
            let cached = CachedToken::new(token, START, Duration::from_secs(100), None, 0);
            entry.replace_token(cached, QueueId(1));
            (entry.rejected, entry.forced_at) = (true, Some(START.plus(Duration::from_secs(99))));
            Update::Commit(())
        });
        assert!(store.read(key).token.is_some() && store.read(key).rejected);
        store::update(&*store, key, START.plus(Duration::from_secs(100)), |_| Update::Commit(()));
        let entry = store.read(key);
        assert!(entry.token.is_none() && !entry.rejected && entry.forced_at.is_some());
    }
}

#[test]
fn the_state_of_each_credential_is_separate_and_expires() {
    for store in stores() {
        let credential = spec().credential();
        let known = |store: &dyn Store| store.read_credential(credential).known.len();
        store::update_credential(&*store, credential, START, |state| state.record_known(spec().key()));
        assert_eq!(known(&*store), 1);
        store::update_credential(&*store, credential, START, |state| {
            state.known.clear();
            Update::Abandon(())
        });
        assert_eq!(known(&*store), 1, "the change was not kept");
        let limits = UnlistedLimits { scopes: 1, ..UnlistedLimits::default() };
        store::update_credential(&*store, credential, START, |state| {
            Update::Commit(state.budget.admit(spec().key(), limits, START))
        });
        assert_eq!(store.read_credential(credential).budget.scopes(), 1);
        let days_later = START.plus(Duration::from_secs(2 * 86_400));
        store::update_credential(&*store, credential, days_later, |_| Update::Commit(()));
        assert!(store.read_credential(credential).budget.is_empty(), "an unused scope is removed");
    }
}

#[test]
fn the_configuration_in_use_is_announced_once_and_again_after_another_one() {
    for store in stores() {
        let mut announce = |configuration| store.announce(configuration, Duration::from_secs(15), START);
        assert_eq!(["a", "a", "b", "a", "a"].map(&mut announce), [true, false, true, true, false]);
    }
}

#[test]
fn a_source_is_readable_after_its_last_read_was_usable() {
    let [one, other] = ["a", "b"].map(|cluster| Source::File { cluster: cluster.to_owned() });
    for store in stores() {
        let readable = |store: &dyn Store| [&one, &other].map(|source| store.read_source(source).readable);
        assert_eq!(readable(&*store), [false, false]);
        store::record_reading(&*store, &one, true, START);
        store::record_reading(&*store, &one, true, START);
        store::record_reading(&*store, &other, true, START);
        assert_eq!(readable(&*store), [true, true]);
        store::record_reading(&*store, &one, false, START);
        store::record_reading(&*store, &one, false, START);
        assert_eq!(readable(&*store), [false, true]);
    }
}

#[test]
fn concurrent_changes_in_memory_are_all_kept() {
    let store = MemoryStore::default();
    let key = spec().key();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    store::update(&store, key, START, |entry| {
                        entry.held_until = START.plus(Duration::from_secs(60));
                        entry.holders.push(QueueId(1));
                        Update::Commit(())
                    });
                }
            });
        }
    });
    assert_eq!(store.read(key).holders.len(), 400);
}

#[test]
fn a_store_in_memory_has_nothing_to_clean_up() {
    let store = MemoryStore::default();
    store.announce("a", Duration::from_secs(15), START);
    assert_eq!((store.next_cleanup(), store.clean_up(START.plus(Duration::from_secs(86_400)))), (None, None));
}

#[test]
fn the_shelves_of_a_previous_version_are_cleared_after_the_configuration_was_announced() {
    let shared = Shared::default();
    shared.memory.set("entra-exchange/shelves", b"entra-exchange/former/", None);
    shared.memory.set("entra-exchange/former/07", b"[secret]", None);
    assert_eq!((shared.next_cleanup(), shared.clean_up(START)), (None, None));
    shared.announce("a", Duration::from_secs(15), START);
    let due = shared.next_cleanup().unwrap();
    assert_eq!(shared.clean_up(START), None);
    assert!(shared.clean_up(due).is_some() && shared.next_cleanup().is_none());
    assert_eq!(shared.memory.get("entra-exchange/former/07").unwrap().0, b"");
}
