//! What this machine can carry. Nothing goes in; what network namespaces can do here, and a command for each thing
//! that is missing, comes out. It tries things in a namespace of a thread that ends, and never in the host's.

use std::path::Path;
use std::process::Command;
use std::{fs, thread};

use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use super::nesting::Nesting;
use crate::error::{Context, Kind, Result};
use crate::lab::user;
use crate::model::Impairment;
use crate::netlink::{Request, Socket};
use crate::packet::esp::{Association, FIRST_SPI, Key, Suite};
use crate::plan::{Machine, Netem};
use crate::process;

const LO: u32 = 1;
/// Index that nothing has in a new namespace.
const INDEX: u32 = 10;
/// All that links over parallel underlays need of nftables.
const SPREAD: &str = "table netdev try {
  chain to { fwd to \"lo\"; }
  chain in {
    type filter hook ingress device \"lo\" priority filter; policy accept;
    dup to \"lo\"
    numgen inc mod 2 vmap { 0 : goto to }
    jhash @nh,96,64 mod 2 seed 0x1 vmap { 0 : goto to }
  }
}
";
/// Where FRR's daemons are, outside PATH.
const FRR: [&str; 3] = ["/usr/lib/frr", "/usr/libexec/frr", "/usr/sbin"];
const DAEMONS: [&str; 5] = ["zebra", "ospfd", "isisd", "ripd", "bgpd"];

/// What planning needs to know, in milliseconds. The caller must be allowed to make network namespaces.
///
/// # Errors
/// If a network namespace cannot be made.
pub fn machine() -> Result<Machine> {
    thread::scope(|scope| {
        scope.spawn(try_here).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn try_here() -> Result<Machine> {
    let what = || "cannot make a network namespace".to_owned();
    unshare(CloneFlags::CLONE_NEWNET).doing(Kind::Environment, what)?;
    let mut socket = Socket::open().doing(Kind::Environment, what)?;
    let remote = [192, 0, 2, 1].into();
    let ipip = socket.execute([Request::add_ipip("try", INDEX, remote, remote)]).is_ok();
    let netem = socket.execute([Request::set_netem(LO, &Netem::new(&Impairment::default(), true))]).is_ok();
    let redirect = socket.execute([Request::add_clsact(LO), Request::set_redirect(LO, LO, 1)]).is_ok();
    let ifb = socket.execute([Request::add_ifb("tryifb", INDEX + 1)]).is_ok();
    let tun = crate::sys::tun::create_persistent("trytun").is_ok();
    let nft = process::feed(Command::new("nft").args(["-f", "-"]), "add table inet try").is_ok();
    let frr = frr_dir().map(|dir| dir.to_string_lossy().into_owned());
    let netem = netem && !without("netem");
    let spread = nft && process::feed(Command::new("nft").args(["-f", "-"]), SPREAD).is_ok();
    let one_user = user::is_only_one();
    Ok(Machine { ipip, nft, tun, netem, redirect, ifb, spread, esp: esp(), frr, one_user })
}

/// Whether the kernel takes an association of each suite.
fn esp() -> bool {
    let (src, dst) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let key = Key::new([7; Key::LEN]);
    let requests = Suite::ALL.into_iter().zip(FIRST_SPI..).map(|(suite, spi)| {
        Request::add_association(src, dst, &Association { spi, suite, key: key.clone() })
    });
    Socket::open_xfrm().is_ok_and(|mut socket| socket.execute(requests).is_ok())
}

/// Features named in the environment variable `VILAB_WITHOUT`, with commas between them, are taken for missing: to try
/// what a kernel without them would do.
fn without(feature: &str) -> bool {
    std::env::var("VILAB_WITHOUT").is_ok_and(|v| v.split(',').any(|f| f == feature))
}

/// One thing a lab may need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub ok: bool,
    /// What was found, or what its absence means.
    pub detail: String,
    /// The one command that mends it; none where there is nothing to mend or no command does.
    pub fix: Option<String>,
}

impl Finding {
    fn new(name: &'static str, ok: bool, detail: impl Into<String>, fix: Option<String>) -> Self {
        Self { name, ok, detail: detail.into(), fix: fix.filter(|_| !ok) }
    }
}

/// Everything, in the order in which it matters. `machine` is an error where no lab can be made at all, and
/// `nesting` is there where it was measured.
#[must_use]
pub fn findings(machine: &Result<Machine>, nesting: Option<Nesting>) -> Vec<Finding> {
    let mut found = vec![namespaces(machine)];
    if let Ok(machine) = machine {
        found.extend(dataplanes(machine));
        found.extend(nested(machine, nesting));
    }
    found.extend(programs());
    found.push(frr());
    found
}

/// Whether the machine carries labs, by either dataplane.
#[must_use]
pub fn carries_labs(machine: &Result<Machine>) -> bool {
    machine.as_ref().is_ok_and(|m| m.tun || (m.ipip && m.nft))
}

fn namespaces(machine: &Result<Machine>) -> Finding {
    let privilege = if user::needed() { "in a user namespace, without privilege" } else { "as root" };
    match machine {
        Ok(_) => Finding::new("namespaces", true, privilege, None),
        Err(e) => {
            let fix = user::restriction().map_or("sudo vilab doctor", |(_, fix)| fix);
            let why = e.causes().last().map_or_else(|| e.what().to_owned(), Clone::clone);
            Finding::new("namespaces", false, why, Some(fix.to_owned()))
        }
    }
}

fn dataplanes(machine: &Machine) -> [Finding; 8] {
    [
        of_kernel("TUN", machine.tun, "the fastpath dataplane", module("tun")),
        of_kernel("ipip", machine.ipip, "the kernel dataplane", module("ipip")),
        of_kernel("nftables", machine.nft, "the kernel dataplane's strong host rules", nft_fix()),
        of_kernel(
            "netem",
            machine.netem,
            "deep nesting of the kernel dataplane, impairments",
            module("sch_netem"),
        ),
        of_kernel(
            "redirect",
            machine.redirect,
            "impairments without netem, and IS-IS on virtual links",
            module("act_mirred"),
        ),
        of_kernel("ifb", machine.ifb, "stacks of more than eight VIs on the kernel dataplane", module("ifb")),
        of_kernel(
            "spread",
            machine.spread,
            "the kernel dataplane's links over parallel underlays",
            module("nft_fwd_netdev"),
        ),
        of_kernel("ESP", machine.esp, "the kernel dataplane's security of links", module("esp4")),
    ]
}

/// Something of the kernel, for which no command helps where the kernel has no module for it.
fn of_kernel(name: &'static str, ok: bool, purpose: &str, fix: Option<String>) -> Finding {
    let lacking = if ok || fix.is_some() { "" } else { "; this kernel was built without it" };
    Finding::new(name, ok, format!("{purpose}{lacking}"), fix)
}

fn nft_fix() -> Option<String> {
    if process::installed("nft") { module("nf_tables") } else { install("nftables") }
}

/// The command that loads a module, if this kernel has it.
fn module(name: &str) -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let list = fs::read_to_string(Path::new("/lib/modules").join(release.trim()).join("modules.dep")).ok()?;
    let file = format!("/{name}.ko");
    list.lines()
        .any(|l| l.split(':').next().is_some_and(|p| p.contains(&file)))
        .then(|| format!("sudo modprobe {name}"))
}

/// How deep VIs stack. The kernel's limit is what was measured; the fast path has none, so that without ipip there is
/// nothing to measure.
fn nested(machine: &Machine, nesting: Option<Nesting>) -> Option<Finding> {
    let detail = match nesting {
        Some(Nesting { passed, limited: true }) => {
            let breaks = if machine.netem { "breaks of netem carry more" } else { "more needs netem" };
            // The tunnel of the base, and one for each VI.
            let vis = passed.saturating_sub(1);
            format!("measured: {passed} tunnels in one another carry a packet, so {vis} VIs; {breaks}")
        }
        Some(Nesting { passed, limited: false }) => {
            format!("measured: no limit met up to {passed} tunnels in one another")
        }
        None if !machine.ipip && machine.tun => "the fastpath dataplane has no limit but the MTU".to_owned(),
        None => return None,
    };
    Some(Finding::new("nesting", true, detail, None))
}

/// Programs that people run in nodes, and their packages where these differ in name.
fn programs() -> [Finding; 3] {
    let program =
        |name, package| Finding::new(name, process::installed(name), "for use in nodes", install(package));
    [program("ping", "iputils-ping"), program("traceroute", "traceroute"), program("tcpdump", "tcpdump")]
}

/// The directory of FRR's daemons.
fn frr_dir() -> Option<&'static Path> {
    FRR.iter().map(Path::new).find(|dir| DAEMONS.iter().all(|daemon| dir.join(daemon).is_file()))
}

fn frr() -> Finding {
    let zebra = frr_dir().map(|dir| dir.join("zebra"));
    let version = zebra.and_then(|zebra| process::feed(Command::new(zebra).arg("--version"), "").ok());
    let version = version.as_deref().and_then(|v| v.lines().next()).map(str::to_owned);
    let ok = version.is_some() && process::installed("vtysh");
    Finding::new("FRR", ok, version.unwrap_or_else(|| "dynamic routing in nodes".into()), install("frr"))
}

/// The command of this system's package manager. Package names are Debian's.
fn install(package: &str) -> Option<String> {
    let alias = |debian: &str, other: &'static str| {
        if package == debian { other.to_owned() } else { package.to_owned() }
    };
    if process::installed("apt-get") {
        Some(format!("sudo apt-get install {package}"))
    } else if process::installed("dnf") {
        Some(format!("sudo dnf install {}", alias("iputils-ping", "iputils")))
    } else if process::installed("pacman") {
        Some(format!("sudo pacman -S {}", alias("iputils-ping", "iputils")))
    } else if process::installed("apk") {
        Some(format!("sudo apk add {}", alias("iputils-ping", "iputils")))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn machine(tun: bool, ipip: bool, nft: bool) -> Result<Machine> {
        Ok(Machine { tun, ipip, nft, ..Machine::default() })
    }

    #[test]
    fn either_dataplane_carries_labs() {
        assert!(carries_labs(&machine(true, false, false)));
        assert!(carries_labs(&machine(false, true, true)));
        assert!(!carries_labs(&machine(false, true, false)));
        assert!(!carries_labs(&Err(Error::environment("no"))));
    }

    #[test]
    fn the_limit_of_nesting_is_told_as_measured() {
        let told = |ipip, netem, nesting| {
            nested(&Machine { ipip, netem, tun: true, ..Machine::default() }, nesting).map(|f| f.detail)
        };
        let of = |passed, limited| Some(Nesting { passed, limited });
        let limit = "measured: 3 tunnels in one another carry a packet, so 2 VIs; ";
        assert_eq!(told(true, true, of(3, true)), Some(format!("{limit}breaks of netem carry more")));
        assert_eq!(told(true, false, of(3, true)), Some(format!("{limit}more needs netem")));
        let unmet = "measured: no limit met up to 12 tunnels in one another";
        assert_eq!(told(true, true, of(12, false)).as_deref(), Some(unmet));
        assert_eq!(
            told(false, true, None).as_deref(),
            Some("the fastpath dataplane has no limit but the MTU")
        );
        assert_eq!(told(true, true, None), None, "it could not be measured, which has been told");
    }

    #[test]
    fn what_is_there_needs_no_mending() {
        let finding = Finding::new("ipip", true, "", Some("sudo modprobe ipip".into()));
        assert_eq!(finding.fix, None);
    }

    #[test]
    fn without_namespaces_the_cause_is_shown() {
        let refused = Err(Error::environment("cannot make a user namespace").because("EPERM"));
        let found = findings(&refused, None);
        assert_eq!((found[0].ok, found[0].detail.as_str()), (false, "EPERM"));
        assert!(found.iter().all(|f| f.name != "ipip"));
    }
}
