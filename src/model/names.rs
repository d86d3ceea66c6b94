//! Names: which are allowed, and which devices get. Names of the lab go in; verdicts and device names of at most
//! 15 bytes come out. It never depends on anything but its arguments.

use std::collections::BTreeSet;

/// Longest device name, without the terminating zero (IFNAMSIZ is 16).
pub const MAX_DEVICE: usize = 15;
/// Longest part of a node name between dots: a DNS label (RFC 1035, 2.3.4).
pub const MAX_LABEL: usize = 63;
/// Longest node name. The file of its namespace is named after it, its VI, and in an edge of an emulated router the port:
/// 255 bytes in all. It is enough for 64 levels of instances with short names.
pub const MAX_NODE: usize = 180;
/// Longest name of a port of an emulated router.
pub const MAX_PORT: usize = 31;
/// Longest name of a VI.
pub const MAX_NETWORK: usize = 31;

/// Why `name` cannot be the name of a node, in words.
pub(super) fn node_fault(name: &str) -> Option<String> {
    match name.split('.').map(str::len).max() {
        Some(longest) if longest > MAX_LABEL => {
            Some(format!("{longest} characters without a dot; {MAX_LABEL} is the most"))
        }
        _ => fault(name, MAX_NODE, "_.-"),
    }
}

/// Why a node of this name could never be linked.
pub(super) fn end_fault(name: &str) -> Option<String> {
    name.contains("--").then(|| "`--` stands between the ends of a link".to_owned())
}

/// Why `name` cannot be the name of a port.
pub(super) fn port_fault(name: &str) -> Option<String> {
    fault(name, MAX_PORT, "_-")
}

/// The host name of a node: its name, or as many of the last parts of it as the kernel takes (`HOST_NAME_MAX` is 64).
#[must_use]
pub fn host_name(name: &str) -> &str {
    let mut rest = name;
    while rest.len() > MAX_LABEL {
        let Some((_, tail)) = rest.split_once('.') else { return &rest[..MAX_LABEL] };
        rest = tail;
    }
    rest
}

/// Why `name` cannot be the name of a VI.
pub(super) fn network_fault(name: &str) -> Option<String> {
    if name == "base" {
        Some("`base` is the base network".to_owned())
    } else {
        fault(name, MAX_NETWORK, "_-")
    }
}

/// Why `name` cannot be the name of a link.
pub(super) fn link_fault(name: &str) -> Option<String> {
    fault(name, 2 * MAX_NODE + 8, "_.-")
}

fn fault(name: &str, longest: usize, marks: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    if name.len() > longest {
        return Some(format!("{} characters; {longest} is the most", name.len()));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return Some("it must start with a letter, a digit or `_`".to_owned());
    }
    let bad = name.chars().find(|c| !good(*c))?;
    Some(format!("`{bad}` is not a letter, a digit or one of `{marks}`"))
}

/// A device name that tells the peer: `prefix` and the peer's name, with `.2` and so on for the second device to
/// the same peer; a name that would be too long is cut and told apart by a hash of the whole. `taken` holds the
/// names of the namespace and gains this one.
pub fn device(prefix: &str, peer: &str, taken: &mut BTreeSet<String>) -> String {
    for count in 1.. {
        let suffix = if count == 1 { String::new() } else { format!(".{count}") };
        let name = fit(&format!("{prefix}{peer}{suffix}"));
        if taken.insert(name.clone()) {
            return name;
        }
    }
    unreachable!("an unbounded count ends only by returning")
}

/// `name`, or a prefix of it and a hash of all of it, in at most 15 bytes.
fn fit(name: &str) -> String {
    if name.len() <= MAX_DEVICE {
        return name.to_owned();
    }
    let kept = MAX_DEVICE - 6;
    format!("{}~{:05x}", &name[..kept], fnv1a(name.as_bytes()) & 0xf_ffff)
}

/// FNV-1a, 64 bits: a stable hash, so that names do not change between builds.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn devices_tell_the_peer() {
        let mut taken = BTreeSet::new();
        assert_eq!(device("v-", "B", &mut taken), "v-B");
        assert_eq!(device("v-", "B", &mut taken), "v-B.2");
        assert_eq!(device("v-", "a-rather-long-name", &mut taken).len(), MAX_DEVICE);
    }

    #[test]
    fn names() {
        for good in ["a", "1", "y", "no", "R-1", "t.l.r.top", "_x"] {
            assert_eq!(node_fault(good), None, "{good}");
        }
        let deep = vec!["lr"; 60].join(".");
        assert_eq!((deep.len(), node_fault(&deep)), (179, None));
        for bad in ["", "-a", ".a", "a b", "a/b", "a:b", "é", &"x".repeat(64), &format!("{deep}.x")] {
            assert!(node_fault(bad).is_some(), "{bad}");
        }
        assert_eq!((end_fault("a-b"), end_fault("a-")), (None, None));
        for bad in ["a--b", "a--", "t.a--.n"] {
            assert!(end_fault(bad).is_some(), "{bad}");
        }
        assert_eq!(host_name("t.l.r.top"), "t.l.r.top");
        assert_eq!(host_name(&deep), vec!["lr"; 21].join("."));
        assert!(network_fault("base").is_some());
        assert!(network_fault("a.b").is_some());
    }

    proptest! {
        #[test]
        fn device_names_are_distinct_and_short(peers in proptest::collection::vec("[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", 1..40)) {
            let mut taken = BTreeSet::new();
            let names: Vec<String> = peers.iter().map(|p| device("v-", p, &mut taken)).collect();
            prop_assert_eq!(taken.len(), names.len());
            prop_assert!(names.iter().all(|n| n.len() <= MAX_DEVICE && !n.is_empty()));
        }
    }
}
