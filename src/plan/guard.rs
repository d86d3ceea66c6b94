//! What tunnels of the kernel dataplane do not take, counted by name as the fast path counts it. Pairs of addresses go
//! in; nftables rulesets come out. It never decides by arrival: that is the strong-host rule's part.
//!
//! The kernel answers a tunnel packet that no tunnel takes with port unreachable, and counts it nowhere; it keeps
//! fragments of tunnel packets for reassembly, which no tunnel of a lab sends; and its link layers would answer echo
//! requests. None of it is in the plan of a lab, so none of it gets in.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Source and destination of an arriving header.
pub(super) type Pair = (Ipv4Addr, Ipv4Addr);

/// For a base node: packets of protocol 4 to it must come from the far end of one of its base tunnels.
pub(super) fn base(tunnels: &BTreeSet<Pair>) -> String {
    format!(
        "table inet vi_base {{
  counter no-tunnel {{ }}
  counter truncated {{ }}
  set pairs {{ type ipv4_addr . ipv4_addr;{} }}
  chain in {{
    type filter hook input priority raw; policy accept;
    ip protocol != 4 accept
    ip saddr . ip daddr != @pairs counter name \"no-tunnel\" drop
    {}
  }}
}}
",
        elements(tunnels),
        TRUNCATED
    )
}

/// For a link layer: packets of protocol 4 must have the pair of a virtual link, and of ICMP only errors come in.
pub(super) fn link_layer(links: &BTreeSet<Pair>) -> String {
    format!(
        "table inet vi_links {{
  counter not-ipip {{ }}
  counter no-link {{ }}
  counter fragment {{ }}
  counter truncated {{ }}
  set pairs {{ type ipv4_addr . ipv4_addr;{} }}
  chain pre {{
    type filter hook prerouting priority raw + 10; policy accept;
    ip frag-off & 0x3fff != 0 counter name \"fragment\" drop
    icmp type != {{ destination-unreachable, time-exceeded, parameter-problem }} counter name \"not-ipip\" drop
    ip protocol != 4 accept
    ip saddr . ip daddr != @pairs counter name \"no-link\" drop
    {}
  }}
}}
",
        elements(links),
        TRUNCATED
    )
}

/// For a partition that other VIs ride on: packets of protocol 4 to one of its link addresses must have the pair of the
/// link.
pub(super) fn partition(links: &BTreeSet<Pair>) -> String {
    let local: BTreeSet<String> = links.iter().map(|(_, dst)| dst.to_string()).collect();
    let local: Vec<String> = local.into_iter().collect();
    format!(
        "table inet vi_links {{
  counter no-link {{ }}
  counter truncated {{ }}
  set pairs {{ type ipv4_addr . ipv4_addr;{} }}
  chain in {{
    type filter hook input priority raw; policy accept;
    ip protocol != 4 accept
    ip daddr != {{ {} }} accept
    ip saddr . ip daddr != @pairs counter name \"no-link\" drop
    {}
  }}
}}
",
        elements(links),
        local.join(", "),
        TRUNCATED
    )
}

/// Two headers of 20 bytes: less cannot hold a tunnelled packet.
const TRUNCATED: &str = "meta length < 40 counter name \"truncated\" drop";

fn elements(pairs: &BTreeSet<Pair>) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = pairs.iter().map(|(src, dst)| format!("{src} . {dst}")).collect();
    format!(" elements = {{ {} }};", pairs.join(", "))
}
