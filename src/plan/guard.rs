//! What tunnels of the kernel dataplane do not take, counted by name as the fast path counts it. Pairs of addresses go
//! in; nftables rulesets come out. It never decides by arrival: that is the strong-host rule's part.
//!
//! The kernel answers a tunnel packet that no tunnel takes with port unreachable, and counts it nowhere; it keeps
//! fragments of tunnel packets for reassembly, which few links of a lab send; and its link layers would answer echo
//! requests. None of it is in the plan of a lab, so none of it gets in.
//!
//! A tunnel with a fixed TTL sets DF on what it sends. Links whose packets may be sent in fragments have it cleared here,
//! before their packets are cut.

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

/// For a link layer: packets of protocol 4 must have the pair of a virtual link, and of ICMP only errors come in. Those of
/// `fragmented` links may come in fragments.
pub(super) fn link_layer(links: &BTreeSet<Pair>, fragmented: &BTreeSet<Pair>) -> String {
    let pieces = match fragmented.is_empty() {
        true => String::new(),
        false => "ip frag-off & 0x3fff != 0 ip saddr . ip daddr @fragmented accept\n    ".to_owned(),
    };
    format!(
        "table inet vi_links {{
  counter not-ipip {{ }}
  counter no-link {{ }}
  counter fragment {{ }}
  counter truncated {{ }}
  set pairs {{ type ipv4_addr . ipv4_addr;{} }}
{}  chain pre {{
    type filter hook prerouting priority raw + 10; policy accept;
    {pieces}ip frag-off & 0x3fff != 0 counter name \"fragment\" drop
    icmp type != {{ destination-unreachable, time-exceeded, parameter-problem }} counter name \"not-ipip\" drop
    ip protocol != 4 accept
    ip saddr . ip daddr != @pairs counter name \"no-link\" drop
    {}
  }}
}}
",
        elements(links),
        clear_df(fragmented),
        TRUNCATED
    )
}

/// For a partition that other VIs ride on: packets of protocol 4 to one of its link addresses must have the pair of the
/// link. The partition may send those of `fragmented` links in fragments.
pub(super) fn partition(links: &BTreeSet<Pair>, fragmented: &BTreeSet<Pair>) -> String {
    let local: BTreeSet<String> = links.iter().map(|(_, dst)| dst.to_string()).collect();
    let local: Vec<String> = local.into_iter().collect();
    format!(
        "table inet vi_links {{
  counter no-link {{ }}
  counter truncated {{ }}
  set pairs {{ type ipv4_addr . ipv4_addr;{} }}
{}  chain in {{
    type filter hook input priority raw; policy accept;
    ip protocol != 4 accept
    ip daddr != {{ {} }} accept
    ip saddr . ip daddr != @pairs counter name \"no-link\" drop
    {}
  }}
}}
",
        elements(links),
        clear_df(fragmented),
        local.join(", "),
        TRUNCATED
    )
}

/// The pairs under which packets of such links arrive, and the chain that clears DF where they are sent, the other way.
fn clear_df(fragmented: &BTreeSet<Pair>) -> String {
    if fragmented.is_empty() {
        return String::new();
    }
    format!(
        "  set fragmented {{ type ipv4_addr . ipv4_addr;{} }}
  chain out {{
    type filter hook output priority raw; policy accept;
    ip protocol 4 ip daddr . ip saddr @fragmented ip frag-off set 0
  }}
",
        elements(fragmented)
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
