//! The plan as text. An [`Op`] goes in; lines of `ip`, `tc`, `nft` and `sysctl` that a root shell takes come out.
//! It never abbreviates: device names always follow `dev` or `name`.

use std::fmt;

use super::{Direction, Hook, Hop, Instruction, Netem, Op, Plan};
use crate::model::impair;
use crate::packet::esp::{Association, ICV_LEN, WINDOW};

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddNetns { ns, owner } => {
                match owner {
                    None => writeln!(f, "ip netns add {ns}")?,
                    Some(user) => writeln!(f, "{}", owned_netns(ns, user))?,
                }
                write!(f, "ip -n {ns} link set dev lo up")
            }
            Self::SetSysctl { ns, key, value } => {
                write!(f, "ip netns exec {ns} sysctl -qw {key}={}", quoted(value))
            }
            Self::AddNeighbour { ns, dev, addr, mac } => {
                write!(f, "ip -n {ns} neighbour add {addr} lladdr {mac} dev {dev} nud permanent")
            }
            Self::AddVeth { a, b, macs: [mac_a, mac_b], mtu } => {
                let queues = "numtxqueues 1 numrxqueues 1";
                write!(
                    f,
                    "ip link add name {} netns {} address {mac_a} mtu {mtu} {queues} type veth ",
                    a.1, a.0
                )?;
                writeln!(f, "peer name {} netns {} address {mac_b} mtu {mtu} {queues}", b.1, b.0)?;
                writeln!(f, "ip -n {} link set dev {} up", a.0, a.1)?;
                write!(f, "ip -n {} link set dev {} up", b.0, b.1)
            }
            Self::AddAddr { ns, dev, addr, prefix_route } => {
                let flag = if *prefix_route { "" } else { " noprefixroute" };
                write!(f, "ip -n {ns} addr add {addr} dev {dev}{flag}")
            }
            Self::AddIpip { ns, dev, local, remote } => {
                write!(
                    f,
                    "ip -n {ns} link add name {dev} type ipip mode ipip local {local} remote {remote} ttl 64"
                )
            }
            Self::AddTun { ns, dev, info } => {
                let info = if *info { " pi" } else { "" };
                write!(f, "ip netns exec {ns} ip tuntap add dev {dev} mode tun{info}")
            }
            Self::MoveLink { ns, dev, to, name } => {
                write!(f, "ip -n {ns} link set dev {dev} name {name} netns {to}")
            }
            Self::SetUp { ns, dev, mtu } => {
                write!(f, "ip -n {ns} link set dev {dev} mtu {mtu} multicast on up")
            }
            Self::AddNetem { ns, dev, netem } => write!(f, "tc -n {ns} qdisc replace dev {dev} root {netem}"),
            Self::AddIfb { ns, dev } => write!(f, "ip -n {ns} link add name {dev} type ifb"),
            Self::AddHooks { ns, dev } => write!(f, "tc -n {ns} qdisc add dev {dev} clsact"),
            Self::AddRedirect { ns, dev, hook, takes, to, into } => {
                let protocol = takes.protocol();
                let program = takes.program();
                let line = |(operation, yes, no, operand): &Instruction| {
                    format!(",{operation} {yes} {no} {operand}")
                };
                let code: String = program.iter().map(line).collect();
                write!(
                    f,
                    "tc -n {ns} filter add dev {dev} {hook} prio {} protocol {protocol:#06x} ",
                    takes.priority()
                )?;
                write!(f, "bpf bytecode '{}{code}' action mirred {into} redirect dev {to}", program.len())
            }
            Self::AddRoute { ns, prefix, hops, src } => {
                write!(f, "ip -n {ns} route add {prefix} proto static")?;
                route_hops(f, hops, src.map(|s| format!(" src {s}")).unwrap_or_default())
            }
            Self::AddUnreachable { ns, prefix } => {
                write!(f, "ip -n {ns} route add unreachable {prefix} proto static")
            }
            Self::AddAssociation { ns, src, dst, association } => {
                write!(
                    f,
                    "ip -n {ns} xfrm state add src {src} dst {dst} proto esp spi 0x{:08x} ",
                    association.spi
                )?;
                write!(f, "mode transport replay-window {WINDOW} {}", algorithms(association))
            }
            Self::AddPolicy { ns, src, dst, direction } => {
                write!(f, "ip -n {ns} xfrm policy add src {src}/32 dst {dst}/32 proto 4 dir {direction} ")?;
                write!(f, "tmpl src {src} dst {dst} proto esp mode transport")
            }
            Self::AddRuleset { ns, text } => {
                write!(f, "ip netns exec {ns} nft -f - <<'NFT'\n{text}NFT")
            }
        }
    }
}

/// A process of the user's makes the namespace in a user namespace of its own, and shows it until it has its name.
fn owned_netns(ns: &str, user: &str) -> String {
    let group = format!("$(id -g {user} 2>/dev/null || echo {user})");
    format!(
        "setpriv --reuid {user} --regid {group} --clear-groups unshare --user --map-root-user --net \\\n  sh -c 'echo $$; \
         exec sleep 60' | {{ read -r pid; touch /run/netns/{ns}; mount --bind /proc/$pid/ns/net /run/netns/{ns}; kill -PIPE $pid; }}"
    )
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
        })
    }
}

/// As tc(8) takes it.
impl fmt::Display for Netem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netem limit {}", self.limit)?;
        if self.delay_us > 0 {
            write!(f, " delay {}", impair::duration(self.delay_us))?;
        }
        if self.jitter_us > 0 {
            write!(f, " {}", impair::duration(self.jitter_us))?;
        }
        if self.loss_ppm > 0 {
            write!(f, " loss {}", impair::share(self.loss_ppm))?;
        }
        match self.rate_bps {
            Some(bps) if self.overhead != 0 => write!(f, " rate {bps}bit {}", self.overhead),
            Some(bps) => write!(f, " rate {bps}bit"),
            None => Ok(()),
        }
    }
}

/// Algorithms and keys as ip-xfrm(8) takes them.
fn algorithms(association: &Association) -> String {
    let Association { suite, key, .. } = association;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (cipher, icv_bits) = (hex(key.cipher(*suite)), 8 * ICV_LEN);
    match key.hmac(*suite) {
        None => format!("aead 'rfc4106(gcm(aes))' 0x{cipher} {icv_bits}"),
        Some(hmac) => {
            format!("auth-trunc 'hmac(sha256)' 0x{} {icv_bits} enc 'cbc(aes)' 0x{cipher}", hex(hmac))
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// One hop stands in the route itself; several are `nexthop`s, after the source.
fn route_hops(f: &mut fmt::Formatter<'_>, hops: &[Hop], src: String) -> fmt::Result {
    if let [hop] = hops {
        return write!(f, "{}{src}", via(hop));
    }
    f.write_str(&src)?;
    hops.iter().try_for_each(|hop| write!(f, " nexthop{}", via(hop)))
}

fn via(hop: &Hop) -> String {
    let via = hop.via.map(|v| format!(" via {v}")).unwrap_or_default();
    format!("{via} dev {}", hop.dev)
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in self.stages.iter().filter(|s| !s.ops.is_empty()) {
            writeln!(f, "# {}", stage.name)?;
            stage.ops.iter().try_for_each(|op| writeln!(f, "{op}"))?;
        }
        self.beside().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Plan {
    /// What runs beside the kernel, a comment line each, whatever its words hold.
    #[must_use]
    pub fn beside(&self) -> Vec<String> {
        let engine = self.fastpath.iter().filter(|c| !c.interfaces.is_empty()).map(|c| {
            let count = c.interfaces.len();
            format!("# The fast path carries the {count} TUN devices above; `vilab up` runs it.")
        });
        let shaped = self.fastpath.iter().flat_map(|c| &c.devices).map(|device| {
            let (dev, ns, impair) = (&device.dev, &device.netns, device.impair);
            format!("# `vilab up` impairs {dev} in {ns} without netem: {impair}.")
        });
        let strands = self.strands.iter().flat_map(|s| &s.ends).map(|end| {
            let (netns, count) = (&end.netns, end.strands.len());
            format!("# `vilab up` probes the {count} strands of {} in {netns}, and leaves out those that lose packets.", end.dev)
        });
        let services = self.services.iter().chain(&self.apps).map(|service| {
            let words: Vec<String> = service.argv.iter().map(|word| quoted(word)).collect();
            let words = words.join(" ").replace('\n', "\\n");
            format!("# {} in {}, which `vilab up` runs: {words}", service.name, service.netns)
        });
        engine.chain(shaped).chain(strands).chain(services).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_safe_in_a_shell() {
        assert_eq!(quoted("1"), "1");
        assert_eq!(quoted("4096 131072"), "'4096 131072'");
        assert_eq!(quoted("a'b; rm"), r"'a'\''b; rm'");
    }

    #[test]
    fn what_runs_beside_the_kernel_is_a_comment() {
        let service = crate::plan::Service {
            name: "web".to_owned(),
            netns: "v.blue.a".to_owned(),
            argv: vec!["sh".to_owned(), "-c".to_owned(), "one\nrm two".to_owned()],
            restart: crate::model::Restart::Never,
            ready: None,
            behind: None,
            log: "web".to_owned(),
        };
        let plan = Plan { apps: vec![service], ..Plan::default() };
        assert_eq!(plan.beside(), ["# web in v.blue.a, which `vilab up` runs: sh -c 'one\\nrm two'"]);
    }

    #[test]
    fn several_hops_come_after_the_source() {
        let hop = |dev: &str| Hop { via: Some([10, 0, 0, 1].into()), dev: dev.to_owned() };
        let op = Op::AddRoute {
            ns: "b.X".to_owned(),
            prefix: "10.0.0.9/32".parse().unwrap(),
            hops: vec![hop("e-Y"), hop("e-Z")],
            src: Some([10, 0, 0, 2].into()),
        };
        assert_eq!(
            op.to_string(),
            "ip -n b.X route add 10.0.0.9/32 proto static src 10.0.0.2 nexthop via 10.0.0.1 dev e-Y nexthop via 10.0.0.1 dev e-Z"
        );
    }
}
