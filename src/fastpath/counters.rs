//! Counters of a base node, each with a name. Events go in, numbers by name come out. A packet that stands for several counts as
//! these. It never loses one: every packet read or made ends, when nothing holds it back any more, as exactly one of `sent`, `delivered`, `punted`,
//! `answers` or one [`Reason`].

use std::collections::BTreeMap;

/// Declares an enum whose variants have names and indices.
macro_rules! named {
    ($(#[$doc:meta])* $kind:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $kind { $($(#[$variant_doc])* $variant,)+ }

        impl $kind {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The counter's name, as users see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

named! {
    /// Why a packet was dropped.
    Reason {
        /// A link packet for an interface of this node, but not through that interface's base tunnel: the strong
        /// host model at the link layer (paper, II.2.1).
        StrongHost = "strong-host",
        /// From the base: no base tunnel here has these ends.
        NoTunnel = "no-tunnel",
        /// No virtual link here has this pair of link addresses.
        NoLink = "no-link",
        /// What the base or link header carries is not protocol 4.
        NotIpip = "not-ipip",
        /// Not an IPv4 packet.
        NotIpv4 = "not-ipv4",
        /// Shorter than its header says.
        Truncated = "truncated",
        /// A header length or total length that cannot be.
        BadLength = "bad-length",
        BadChecksum = "bad-checksum",
        /// A base or link header of a fragment, where the lab sends none: none is reassembled.
        Fragment = "fragment",
        /// A link packet of which some fragment did not come, or came twice with other bounds.
        Reassembly = "reassembly",
        /// The outer header says congestion experienced and the inner one does not know ECN (RFC 6040).
        EcnCe = "ecn-ce",
        /// ESP with a wrong integrity check value: changed on the way, or sealed with another key.
        EspAuth = "esp-auth",
        /// ESP with a sequence number seen before, or older than the anti-replay window.
        EspReplay = "esp-replay",
        /// ESP shorter than its parts, or with a padding that cannot be.
        EspMalformed = "esp-malformed",
        /// In clear, for a protected link.
        EspRequired = "esp-required",
        /// ESP for which there is no security association: the link is not protected, or the SPI is another.
        EspUnexpected = "esp-unexpected",
        /// All sequence numbers of a protected link are used, so nothing more can be sent.
        EspSequence = "esp-sequence",
        /// The device of the virtual link's end is down or gone.
        LinkDown = "link-down",
        /// The VI below has no route to the other end of the link.
        NoRoute = "no-route",
        /// Larger than the MTU of the virtual link or base link it must take.
        TooBig = "too-big",
        /// Layers in a circle, or loops in several layers at once.
        TooDeep = "too-deep",
        /// A tunnel packet of the VI that plays a router would pass that router.
        SelfTransit = "self-transit",
        /// Refused by the kernel of the base node: it has no route or the link is down.
        BaseUnreachable = "base-unreachable",
        /// Packets the kernel dropped because the engine was late to read them; these were never read.
        RxOverrun = "rx-overrun",
        /// No room in the send queue of the base node.
        TxOverrun = "tx-overrun",
        /// Refused by the kernel of the base node for any other cause.
        TxError = "tx-error",
        /// Refused by a TUN device.
        TunError = "tun-error",
        /// Lost by an impairment, as asked.
        ImpairedLoss = "impaired-loss",
        /// More packets than an impaired link holds.
        ShapedOverflow = "shaped-overflow",
    }
}

named! {
    /// What happened otherwise.
    Count {
        /// Read from the base node.
        RxBase = "rx-base",
        /// Read from the TUN devices.
        RxTun = "rx-tun",
        /// Given to the base node.
        Sent = "sent",
        /// Given to the partition it is for.
        Delivered = "delivered",
        /// Given to the partition because its kernel must decide.
        Punted = "punted",
        /// Passed from one interface of a partition to another, TTL decremented.
        Forwarded = "forwarded",
        /// Link headers and base headers put on.
        Encapsulated = "encapsulated",
        /// Link headers and base headers taken off.
        Decapsulated = "decapsulated",
        /// Fragments that link packets were cut into.
        Fragmented = "fragmented",
        /// Link packets put together again.
        Reassembled = "reassembled",
        /// Made of a packet, one for each further strand that it takes.
        Copied = "copied",
        /// Sent by the engine itself, to ask how a strand is.
        Probes = "probes",
        /// Answers to these.
        Answers = "answers",
        /// Held back by an impairment, once for each impaired link passed.
        Shaped = "shaped",
    }
}

/// All counters of one base node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    drops: Box<[u64]>,
    counts: Box<[u64]>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            drops: vec![0; Reason::ALL.len()].into_boxed_slice(),
            counts: vec![0; Count::ALL.len()].into_boxed_slice(),
        }
    }
}

impl Counters {
    pub fn drop(&mut self, reason: Reason) {
        self.drop_many(reason, 1);
    }

    pub fn drop_many(&mut self, reason: Reason, packets: u64) {
        self.drops[reason as usize] += packets;
    }

    pub fn count(&mut self, event: Count) {
        self.count_many(event, 1);
    }

    pub fn count_many(&mut self, event: Count, packets: u64) {
        self.counts[event as usize] += packets;
    }

    #[must_use]
    pub fn drops(&self, reason: Reason) -> u64 {
        self.drops[reason as usize]
    }

    #[must_use]
    pub fn counts(&self, event: Count) -> u64 {
        self.counts[event as usize]
    }

    /// Packets read or made.
    #[must_use]
    pub fn read(&self) -> u64 {
        [Count::RxBase, Count::RxTun, Count::Copied, Count::Probes].iter().map(|c| self.counts(*c)).sum()
    }

    /// Packets read whose end is known: equals [`Self::read`] between batches, but for packets that are held back.
    #[must_use]
    pub fn ended(&self) -> u64 {
        let passed = [Count::Sent, Count::Delivered, Count::Punted, Count::Answers].map(|c| self.counts(c));
        let dropped = Reason::ALL.iter().filter(|r| **r != Reason::RxOverrun).map(|r| self.drops(*r));
        passed.into_iter().chain(dropped).sum()
    }

    /// All of them by name, zeros too.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let counts = Count::ALL.iter().map(|c| (c.as_str().to_owned(), self.counts(*c)));
        let drops = Reason::ALL.iter().map(|r| (r.as_str().to_owned(), self.drops(*r)));
        counts.chain(drops).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        assert_eq!(Counters::default().by_name().len(), Reason::ALL.len() + Count::ALL.len());
    }

    #[test]
    fn each_is_counted_under_its_name() {
        let mut counters = Counters::default();
        for reason in Reason::ALL {
            counters.drop(*reason);
        }
        counters.count(Count::Sent);
        counters.count(Count::RxTun);
        let by_name = counters.by_name();
        assert_eq!(by_name["strong-host"], 1);
        assert_eq!(by_name["sent"], 1);
        assert_eq!(by_name["rx-base"], 0);
        assert_eq!(counters.ended(), Reason::ALL.len() as u64);
        assert_eq!(counters.read(), 1);
    }
}
