//! What this machine can carry. Nothing goes in; what network namespaces can do here, and a command for each thing
//! that is missing, comes out. It tries things in a namespace of a thread that ends, and never in the host's.

mod facts;
mod findings;

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

pub use facts::{Facts, Manager, TunFile};
pub use findings::{Finding, carries_labs, findings, mended};

use crate::error::{Context, Kind, Result};
use crate::lab::machine::Trial;
use crate::lab::user;
use crate::model::{Impairment, Lab};
use crate::netlink::{Request, Socket};
use crate::packet::esp::{Association, FIRST_SPI, Key, Suite};
use crate::plan::{self, Machine, Netem, Plan};
use crate::process;
use crate::routing::Rib;

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

/// The plan of a lab for this machine; where there is none, how to get what the machine lacks.
///
/// # Errors
/// If no namespaces can be made, or the machine cannot carry the lab.
pub fn plan(lab: &Lab) -> Result<Plan> {
    // The machine is tried by a process of its own.
    let (rib, machine) = thread::scope(|scope| {
        let machine = scope.spawn(crate::lab::machine::machine);
        let rib = Rib::compute(lab);
        (rib, machine.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    build(lab, &rib, &machine?.0)
}

/// What a lab is before it is up.
#[derive(Debug)]
pub struct Outline {
    pub machine: Machine,
    /// With all but the routes of the nodes.
    pub plan: Plan,
    /// Kept until the lab is up, which it would hold up if it ended.
    _trial: Trial,
}

/// What this machine can do, and the plan of a lab for it without routes: in a fraction of the time, and refused for
/// the same reasons.
///
/// # Errors
/// As [`plan()`].
pub fn outline(lab: &Lab) -> Result<Outline> {
    let (machine, trial) = crate::lab::machine::machine()?;
    let plan = build(lab, &Rib::default(), &machine)?;
    Ok(Outline { machine, plan, _trial: trial })
}

fn build(lab: &Lab, rib: &Rib, machine: &Machine) -> Result<Plan> {
    plan::build(lab, rib, machine).map_err(|e| match e.kind() {
        Kind::Environment => {
            let refusal = |machine: &Machine| plan::build(lab, rib, machine).err();
            mended(e, machine, &Facts::gather(), refusal)
        }
        Kind::Failed | Kind::Usage | Kind::LabFile | Kind::Kernel | Kind::Bug => e,
    })
}

/// What planning needs to know, in milliseconds. The caller must be allowed to make network namespaces.
///
/// # Errors
/// If a network namespace cannot be made.
pub fn machine() -> Result<Machine> {
    machine_and_namespace().map(|(machine, _)| machine)
}

/// The same with the namespace in which it was tried.
///
/// # Errors
/// As [`machine`].
pub fn machine_and_namespace() -> Result<(Machine, File)> {
    thread::scope(|scope| {
        scope.spawn(try_here).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn try_here() -> Result<(Machine, File)> {
    let what = || "cannot make a network namespace".to_owned();
    unshare(CloneFlags::CLONE_NEWNET).doing(Kind::Environment, what)?;
    // Each node has a host name of its own, which filters of container engines refuse though they let namespaces be made.
    unshare(CloneFlags::CLONE_NEWUTS)
        .and_then(|()| nix::unistd::sethostname("try"))
        .doing(Kind::Environment, || "cannot name a host".to_owned())?;
    let here = File::open("/proc/thread-self/ns/net").doing(Kind::Environment, what)?;
    let nft = |text: &'static str| process::feed(Command::new("nft").args(["-f", "-"]), text).is_ok();
    let (nft, spread, machine) = thread::scope(|scope| {
        // Threads of this one's are in the same namespace.
        let tries = ["add table inet try", SPREAD].map(|text| scope.spawn(move || nft(text)));
        let machine = try_devices();
        let [nft, spread] = tries.map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (nft, spread, machine)
    });
    let machine = Machine { nft, spread: nft && spread, ..machine.doing(Kind::Environment, what)? };
    Ok((machine, here))
}

/// All but what is nftables'.
fn try_devices() -> io::Result<Machine> {
    let mut socket = Socket::open()?;
    let remote = [192, 0, 2, 1].into();
    let ipip = socket.execute([Request::add_ipip("try", INDEX, remote, remote)]).is_ok();
    let netem = socket.execute([Request::set_netem(LO, &Netem::new(&Impairment::default(), true))]).is_ok();
    let redirect = socket.execute([Request::add_clsact(LO), Request::set_redirect(LO, LO, 1)]).is_ok();
    let ifb = socket.execute([Request::add_ifb("tryifb", INDEX + 1)]).is_ok();
    let tun = crate::sys::tun::create_persistent("trytun").is_ok();
    let frr = frr_dir().map(|dir| dir.to_string_lossy().into_owned());
    let netem = netem && !without("netem");
    let one_user = user::is_only_one();
    Ok(Machine { ipip, tun, netem, redirect, ifb, esp: esp(), frr, one_user, ..Machine::default() })
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

/// The directory of FRR's daemons.
fn frr_dir() -> Option<&'static Path> {
    FRR.iter().map(Path::new).find(|dir| DAEMONS.iter().all(|daemon| dir.join(daemon).is_file()))
}
