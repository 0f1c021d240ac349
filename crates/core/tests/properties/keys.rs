//! Two token specs have the same key only if they are for the same token.

use entra_exchange_core::assertion::Source;
use entra_exchange_core::authority::Authority;
use entra_exchange_core::entra::{TokenKey, TokenSpec, TokenSpecParts};
use proptest::prelude::*;

type Parts = (String, String, String, String, String);

/// Parts made of few letters, so that different parts often have the same concatenation.
fn parts() -> impl Strategy<Value = Parts> {
    ("[ab]{1,2}", "[ab/]{0,3}", "[ab/]{0,3}", "[ab/]{0,3}", "[ab/]{0,3}")
}

fn key((authority, tenant_id, client_id, scope, cluster): &Parts) -> TokenKey {
    let spec = TokenSpec::new(&TokenSpecParts {
        identity: "i",
        authority: &Authority::parse(&format!("https://{authority}"), true).unwrap(),
        tenant_id,
        client_id,
        scope,
        assertion: &Source::File { cluster: cluster.clone() },
        clusters: &[],
        discard_before: None,
    });
    spec.key()
}

proptest! {
    #[test]
    fn different_parts_give_different_keys(one in parts(), other in parts()) {
        prop_assert_eq!(one == other, key(&one) == key(&other));
    }

    #[test]
    fn different_parts_with_the_same_concatenation_give_different_keys(
        text in "[ab/]{4,12}", cuts in prop::collection::vec(0_usize..12, 6),
    ) {
        let cut = |cuts: &[usize]| {
            let mut cuts: Vec<usize> = cuts.iter().map(|at| at % (text.len() + 1)).collect();
            cuts.sort_unstable();
            let at = |from: usize, to: usize| text[from..to].to_owned();
            ("a".to_owned(), at(0, cuts[0]), at(cuts[0], cuts[1]), at(cuts[1], cuts[2]), at(cuts[2], text.len()))
        };
        let (one, other) = (cut(&cuts[..3]), cut(&cuts[3..]));
        prop_assert_eq!(one == other, key(&one) == key(&other));
    }

    #[test]
    fn a_key_is_restored_from_its_bytes_and_from_no_other_length(parts in parts(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let key = key(&parts);
        prop_assert_eq!(TokenKey::from_bytes(key.as_bytes()), Some(key));
        prop_assert_eq!(TokenKey::from_bytes(&bytes).is_some(), bytes.len() == 32);
    }
}
