//! Routes of equal next hops written as one. Disjoint prefixes, each with what tells its next hops, go in; fewer prefixes
//! that send every address the same way come out. It never covers an address that no prefix covered, nor lays one prefix
//! within another: so a next hop that is lost takes the same addresses with it.

use ipnet::Ipv4Net;

/// Merges the two halves of a prefix where their `T` is equal, again and again, up to prefixes longer than `bound`. The
/// prefixes are in order and disjoint.
pub(super) fn merged<T: PartialEq>(
    prefixes: impl IntoIterator<Item = (Ipv4Net, T)>,
    bound: u8,
) -> Vec<(Ipv4Net, T)> {
    let mut merged: Vec<(Ipv4Net, T)> = Vec::new();
    for (mut prefix, hops) in prefixes {
        while let Some((before, same)) = merged.last() {
            let whole = prefix.supernet().filter(|whole| whole.prefix_len() > bound);
            let half = whole.filter(|whole| before.supernet() == Some(*whole) && *before != prefix);
            let Some(whole) = half.filter(|_| *same == hops) else { break };
            merged.pop();
            prefix = whole;
        }
        merged.push((prefix, hops));
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn halves_with_the_same_hops_become_one_again_and_again() {
        let all = (0..8).map(|n| (Ipv4Net::new_assert([10, 0, 0, n].into(), 32), 'a'));
        assert_eq!(merged(all.clone(), 0), [(net("10.0.0.0/29"), 'a')]);
        assert_eq!(merged(all.clone(), 30), [0, 2, 4, 6].map(|n| (net(&format!("10.0.0.{n}/31")), 'a')));
        let one_differs =
            all.map(|(prefix, hops)| (prefix, if prefix == net("10.0.0.5/32") { 'b' } else { hops }));
        let expected =
            [("10.0.0.0/30", 'a'), ("10.0.0.4/32", 'a'), ("10.0.0.5/32", 'b'), ("10.0.0.6/31", 'a')];
        assert_eq!(merged(one_differs, 0), expected.map(|(text, hops)| (net(text), hops)));
        let neighbours = [(net("10.0.0.1/32"), 'a'), (net("10.0.0.2/32"), 'a')];
        assert_eq!(merged(neighbours, 0), neighbours, "no halves of one prefix");
    }

    proptest! {
        #[test]
        fn every_address_goes_the_same_way(
            drawn in prop::collection::btree_map(0u32..64, 0u8..3, 0..64),
            wide in prop::collection::btree_set(0u32..32, 0..16),
        ) {
            let base = 0x0a00_0000;
            // Some prefixes are /31, others /32.
            let prefix = |at: u32| match wide.contains(&(at / 2)) {
                true => Ipv4Net::new_assert((base + at).into(), 31).trunc(),
                false => Ipv4Net::new_assert((base + at).into(), 32),
            };
            let mut prefixes: Vec<(Ipv4Net, u8)> = drawn.iter().map(|(at, hops)| (prefix(*at), *hops)).collect();
            prefixes.dedup_by_key(|(prefix, _)| *prefix);
            let merged = merged(prefixes.iter().copied(), 0);
            for at in base..base + 64 {
                let to = std::net::Ipv4Addr::from(at);
                let of = |all: &[(Ipv4Net, u8)]| -> Vec<u8> {
                    all.iter().filter(|(prefix, _)| prefix.contains(&to)).map(|(_, hops)| *hops).collect()
                };
                prop_assert_eq!(of(&merged), of(&prefixes), "{}", to);
            }
            for pair in merged.windows(2) {
                let whole = pair[0].0.supernet();
                prop_assert!(pair[0].1 != pair[1].1 || whole != pair[1].0.supernet(), "{:?}", pair);
            }
        }
    }
}
