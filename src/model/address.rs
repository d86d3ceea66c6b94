//! Addresses by the rule of ships in the night (paper, II.2): two networks that share a base node never share an
//! address, two that share none may. What each network needs and where it stands go in; blocks and single
//! addresses come out. It never looks at names.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Default pools (all RFC 1918).
pub const BASE_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 9);
pub const NETWORK_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 9);
pub const LINK_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12);

/// The private address space of RFC 1918, section 3.
const PRIVATE: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// Whether all of `net` is private.
#[must_use]
pub fn is_private(net: Ipv4Net) -> bool {
    PRIVATE.iter().any(|p| p.contains(&net))
}

/// Whether two blocks have an address in common.
#[must_use]
pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// How many addresses of each sort a network takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Host addresses or loopbacks, one each.
    pub hosts: u32,
    /// Link addresses of links stacked on this network, one each.
    pub stacked: u32,
    /// Links, an aligned pair (/31) each.
    pub links: u32,
    /// Addresses of groups, which are in none of the above: a power of two, or none.
    pub grouped: u32,
}

impl Need {
    /// Addresses in all, the first of the block left unused.
    #[must_use]
    pub fn total(self) -> u64 {
        let single = u64::from(self.hosts) + u64::from(self.stacked) + u64::from(self.grouped);
        1 + single + 2 * u64::from(self.links)
    }

    /// Longest prefix in which the roomy layout has place.
    fn roomy_len(self) -> u8 {
        let links = u64::from(self.links) + u64::from(self.grouped.div_ceil(2));
        let quarter = u64::from(self.hosts + 1).max(u64::from(self.stacked)).max(links);
        prefix_len(4 * quarter)
    }
}

/// Whether `pool` has `count` addresses.
#[must_use]
pub fn holds(pool: Ipv4Net, count: usize) -> bool {
    pool.prefix_len() <= prefix_len(count as u64)
}

/// Longest prefix that holds `count` addresses.
fn prefix_len(count: u64) -> u8 {
    let bits = count.max(1).next_power_of_two().trailing_zeros();
    u8::try_from(32u32.saturating_sub(bits)).unwrap_or(0)
}

/// Where the parts of a block start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub hosts: u32,
    pub stacked: u32,
    pub links: u32,
    /// At the end of the block.
    pub grouped: u32,
}

/// Places the parts in `pool`: each in its own quarter or half where there is room, so that a later addition moves
/// nothing, else one after another. `None` if `pool` is too small.
#[must_use]
pub fn layout(pool: Ipv4Net, need: Need) -> Option<Layout> {
    let start = u32::from(pool.network());
    let size = 1u64 << (32 - pool.prefix_len());
    let grouped =
        u32::try_from(u64::from(start) + size.saturating_sub(u64::from(need.grouped))).unwrap_or(u32::MAX);
    if pool.prefix_len() <= need.roomy_len() {
        let quarter = u32::try_from(size / 4).ok()?;
        return Some(Layout {
            hosts: start + 1,
            stacked: start + quarter,
            links: start + 2 * quarter,
            grouped,
        });
    }
    let hosts = start + 1;
    let links = hosts.checked_add(need.hosts)?.next_multiple_of(2);
    let stacked = links.checked_add(2 * need.links)?;
    let end = u64::from(stacked - start) + u64::from(need.stacked) + u64::from(need.grouped);
    (end <= size).then_some(Layout { hosts, stacked, links, grouped })
}

/// A network that wants a block.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The base nodes it stands on.
    pub footprint: BTreeSet<usize>,
    /// The block the file gives it.
    pub fixed: Option<Ipv4Net>,
    /// The block it has in the running lab: kept unless that would bring two ships together.
    pub leased: Option<Ipv4Net>,
    /// Longest prefix that will do.
    pub longest: u8,
    /// Addresses that other networks on its base nodes have already, wherever these are.
    pub clear_of: Vec<Ipv4Addr>,
}

impl Claim {
    /// A claim on the network-layer pool.
    #[must_use]
    pub fn network(footprint: BTreeSet<usize>, fixed: Option<Ipv4Net>, need: Need) -> Self {
        Self { footprint, fixed, leased: None, longest: need.roomy_len(), clear_of: Vec::new() }
    }

    /// A claim on the link-layer pool, of so many addresses.
    #[must_use]
    pub fn links(footprint: BTreeSet<usize>, addresses: usize) -> Self {
        let longest = prefix_len(addresses as u64);
        Self { footprint, fixed: None, leased: None, longest, clear_of: Vec::new() }
    }

    /// The same claim, on a block that none of these addresses is in.
    #[must_use]
    pub fn clear_of(self, clear_of: Vec<Ipv4Addr>) -> Self {
        Self { clear_of, ..self }
    }

    /// The same claim, by a network that has `block` already.
    #[must_use]
    pub fn leased(self, block: Option<Ipv4Net>) -> Self {
        Self { leased: block, ..self }
    }
}

/// Gives each claim the block it has already, or in order the lowest free block of `pool`: free of `reserved` wherever it is, of the
/// blocks of claims that share a base node, and of the addresses it is to keep clear of. Blocks have one comfortable size where the
/// pool allows, so that networks can grow without moving others. The `taken` blocks belong to the claim of the same index in another
/// pool. `Err` holds the index of the first claim that found no room.
pub fn blocks(
    pool: Ipv4Net,
    comfortable: &[u8],
    claims: &[Claim],
    reserved: &[Ipv4Net],
    taken: &[Option<Ipv4Net>],
) -> Result<Vec<Ipv4Net>, usize> {
    let mut failed = 0;
    for at_most in comfortable.iter().copied().chain([32]) {
        match blocks_of(pool, at_most, claims, reserved, taken) {
            Ok(blocks) => return Ok(blocks),
            Err(index) => failed = index,
        }
    }
    Err(failed)
}

fn blocks_of(
    pool: Ipv4Net,
    at_most: u8,
    claims: &[Claim],
    reserved: &[Ipv4Net],
    taken: &[Option<Ipv4Net>],
) -> Result<Vec<Ipv4Net>, usize> {
    let mut given: Vec<Option<Ipv4Net>> = claims.iter().map(|c| c.fixed).collect();
    // What a claim must keep clear of, given what the others have so far.
    let used = |index: usize, given: &[Option<Ipv4Net>]| -> Vec<Ipv4Net> {
        let meets = |other: usize| !claims[other].footprint.is_disjoint(&claims[index].footprint);
        let near =
            given.iter().enumerate().chain(taken.iter().enumerate()).filter(|(other, _)| meets(*other));
        let single = claims[index].clear_of.iter().copied().map(Ipv4Net::from);
        near.filter_map(|(_, block)| *block).chain(reserved.iter().copied()).chain(single).collect()
    };
    for (index, claim) in claims.iter().enumerate().filter(|(_, c)| c.fixed.is_none()) {
        let clear = |block: &Ipv4Net| !used(index, &given).iter().any(|u| overlap(*u, *block));
        given[index] = claim.leased.filter(clear);
    }
    for (index, claim) in claims.iter().enumerate() {
        if given[index].is_none() {
            let used = used(index, &given);
            given[index] = Some(first_free(pool, claim.longest.min(at_most), &used).ok_or(index)?);
        }
    }
    Ok(given.into_iter().flatten().collect())
}

/// The lowest block of this length in `pool` that overlaps none of `used`.
fn first_free(pool: Ipv4Net, length: u8, used: &[Ipv4Net]) -> Option<Ipv4Net> {
    if length < pool.prefix_len() {
        return None;
    }
    let size = 1u64 << (32 - length);
    let (mut start, end) = (u64::from(u32::from(pool.network())), u64::from(u32::from(pool.broadcast())));
    while start + size - 1 <= end {
        let block = Ipv4Net::new(Ipv4Addr::from(u32::try_from(start).ok()?), length).ok()?;
        match used.iter().filter(|u| overlap(**u, block)).map(|u| u64::from(u32::from(u.broadcast()))).max() {
            None => return Some(block),
            Some(last) => start = (last + 1).next_multiple_of(size).max(start + size),
        }
    }
    None
}

/// Gives out the addresses of a block, each once.
#[derive(Debug)]
pub struct Allocator {
    first: u32,
    last: u32,
    taken: BTreeSet<u32>,
}

impl Allocator {
    /// Of the addresses from `first` to the end of `block`, but those that are `taken`.
    #[must_use]
    pub fn new(block: Ipv4Net, first: u32, taken: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let taken = taken.into_iter().map(u32::from).collect();
        Self { first, last: u32::from(block.broadcast()), taken }
    }

    /// Takes these, if all are of the block and free.
    pub fn take(&mut self, addrs: &[Ipv4Addr]) -> bool {
        let free = |a: &Ipv4Addr| {
            (self.first..=self.last).contains(&u32::from(*a)) && !self.taken.contains(&u32::from(*a))
        };
        let all = addrs.iter().all(free);
        if all {
            self.taken.extend(addrs.iter().map(|a| u32::from(*a)));
        }
        all
    }

    /// Gives these to nobody.
    pub fn avoid(&mut self, addrs: impl IntoIterator<Item = Ipv4Addr>) {
        self.taken.extend(addrs.into_iter().map(u32::from));
    }

    /// The first free address from `next` upwards, then from the start of the block; `next` moves behind it.
    /// `None` if there is none.
    pub fn one(&mut self, next: &mut u32) -> Option<Ipv4Addr> {
        let rest = (*next).max(self.first)..=self.last;
        let found = rest.chain(self.first..=self.last).find(|a| !self.taken.contains(a))?;
        self.taken.insert(found);
        *next = found.saturating_add(1);
        Some(found.into())
    }

    /// An even address and the next, both free, found in the same way.
    pub fn pair(&mut self, next: &mut u32) -> Option<[Ipv4Addr; 2]> {
        let even = |from: u32| (from.max(self.first).next_multiple_of(2)..self.last).step_by(2);
        let free = |a: &u32| !self.taken.contains(a) && !self.taken.contains(&(a + 1));
        let found = even(*next).chain(even(self.first)).find(free)?;
        self.taken.extend([found, found + 1]);
        *next = found.saturating_add(2);
        Some([found.into(), (found + 1).into()])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn claim(nodes: &[usize], longest: u8) -> Claim {
        Claim::links(nodes.iter().copied().collect(), 1 << (32 - longest))
    }

    #[test]
    fn networks_that_share_no_node_get_the_same_block() {
        let claims = [claim(&[1, 2], 24), claim(&[3], 24), claim(&[2, 3], 24)];
        let given = blocks(NETWORK_POOL, &[16], &claims, &[], &[]).unwrap();
        assert_eq!(given, [net("10.128.0.0/16"), net("10.128.0.0/16"), net("10.129.0.0/16")]);
    }

    #[test]
    fn blocks_shrink_when_there_are_many_networks() {
        let claims = vec![claim(&[1], 28); 200];
        let given = blocks(NETWORK_POOL, &[16, 20], &claims, &[], &[]).unwrap();
        assert!(given.iter().all(|b| b.prefix_len() == 20));
    }

    #[test]
    fn a_full_pool_names_the_claim_that_found_no_room() {
        let claims = vec![claim(&[1], 9); 2];
        assert_eq!(blocks(NETWORK_POOL, &[16], &claims, &[], &[]), Err(1));
    }

    #[test]
    fn a_lease_is_kept_until_it_would_meet_another() {
        let lease = |nodes: &[usize], block| claim(nodes, 24).leased(Some(net(block)));
        let apart = [claim(&[1], 24), lease(&[1, 2], "10.135.0.0/16"), lease(&[3], "10.135.0.0/16")];
        let given = blocks(NETWORK_POOL, &[16], &apart, &[], &[]).unwrap();
        assert_eq!(given, [net("10.128.0.0/16"), net("10.135.0.0/16"), net("10.135.0.0/16")]);
        let meeting = [lease(&[1, 2], "10.135.0.0/16"), lease(&[2], "10.135.0.0/16")];
        let given = blocks(NETWORK_POOL, &[16], &meeting, &[], &[]).unwrap();
        assert_eq!(given, [net("10.135.0.0/16"), net("10.128.0.0/16")]);
    }

    #[test]
    fn a_block_is_clear_of_the_addresses_of_others() {
        let clear = |nodes, addr: [u8; 4]| claim(nodes, 24).clear_of(vec![addr.into()]);
        let claims = [clear(&[1], [10, 128, 7, 7]), claim(&[2], 24), clear(&[1, 2], [10, 131, 0, 0])];
        let given = blocks(NETWORK_POOL, &[16], &claims, &[], &[]).unwrap();
        assert_eq!(given, [net("10.129.0.0/16"), net("10.128.0.0/16"), net("10.130.0.0/16")]);
        let lease = clear(&[1], [10, 135, 0, 9]).leased(Some(net("10.135.0.0/16")));
        assert_eq!(blocks(NETWORK_POOL, &[16], &[lease], &[], &[]).unwrap(), [net("10.128.0.0/16")]);
    }

    #[test]
    fn an_allocator_gives_each_address_once_and_starts_over_at_the_end() {
        let block = net("10.0.0.0/29");
        let start = u32::from(block.network());
        let mut free = Allocator::new(block, start + 1, [Ipv4Addr::new(10, 0, 0, 6)]);
        assert!(free.take(&[[10, 0, 0, 4].into()]));
        assert!(!free.take(&[[10, 0, 0, 1].into(), [10, 0, 0, 4].into()]));
        let mut next = start + 5;
        assert_eq!(free.one(&mut next), Some([10, 0, 0, 5].into()));
        assert_eq!(free.one(&mut next), Some([10, 0, 0, 7].into()));
        assert_eq!(free.pair(&mut next), Some([[10, 0, 0, 2].into(), [10, 0, 0, 3].into()]));
        assert_eq!(free.pair(&mut next), None);
        assert_eq!(free.one(&mut next), Some([10, 0, 0, 1].into()));
        assert_eq!(free.one(&mut next), None);
    }

    #[test]
    fn small_pools_are_packed() {
        let need = Need { hosts: 3, stacked: 0, links: 2, grouped: 0 };
        let layout = layout(net("192.168.0.0/29"), need).unwrap();
        assert_eq!(layout.hosts, u32::from(Ipv4Addr::new(192, 168, 0, 1)));
        assert_eq!(layout.links, u32::from(Ipv4Addr::new(192, 168, 0, 4)));
        assert_eq!(super::layout(net("192.168.0.0/30"), need), None);
    }

    proptest! {
        #[test]
        fn blocks_keep_ships_apart(
            wanted in proptest::collection::vec((proptest::collection::btree_set(0usize..12, 1..5), 12u8..31), 1..24),
            reserved in 9u8..16,
        ) {
            let claims: Vec<Claim> =
                wanted.iter().map(|(f, l)| Claim::links(f.clone(), 1 << (32 - *l))).collect();
            let reserved = [Ipv4Net::new_assert(NETWORK_POOL.network(), reserved)];
            let Ok(given) = blocks(NETWORK_POOL, &[16, 20, 24], &claims, &reserved, &[]) else { return Ok(()) };
            for (i, a) in given.iter().enumerate() {
                prop_assert!(NETWORK_POOL.contains(a) && a.prefix_len() <= claims[i].longest);
                prop_assert!(!overlap(*a, reserved[0]));
                for (j, b) in given.iter().enumerate().skip(i + 1) {
                    let meet = !claims[i].footprint.is_disjoint(&claims[j].footprint);
                    prop_assert!(!meet || !overlap(*a, *b), "{a} and {b}");
                }
            }
        }

        #[test]
        fn layouts_have_no_overlap_and_stay_inside(
            len in 8u8..31, hosts in 0u32..5000, stacked in 0u32..5000, links in 0u32..5000,
            grouped in prop_oneof![Just(0u32), (1u32..13).prop_map(|bits| 1 << bits)],
        ) {
            let pool = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), len);
            let need = Need { hosts, stacked, links, grouped };
            let Some(at) = layout(pool, need) else {
                prop_assert!(need.total() + 1 > (1 << (32 - len)));
                return Ok(());
            };
            let mut parts =
                [(at.hosts, hosts), (at.stacked, stacked), (at.links, 2 * links), (at.grouped, grouped)];
            prop_assert!(at.links % 2 == 0 && (grouped == 0 || at.grouped % grouped == 0));
            parts.sort_unstable();
            let end = u32::from(pool.broadcast());
            prop_assert!(parts.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
            prop_assert!(parts.iter().all(|(start, count)| *count == 0 || start + count - 1 <= end));
        }
    }
}
