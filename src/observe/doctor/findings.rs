//! What a machine lacks, and what to do about it. What was tried and what is known of the machine go in; [`Finding`]s come
//! out, each with the commands that mend it. It looks at nothing itself.

use serde::Serialize;

use super::facts::{Facts, Manager, TunFile};
use crate::error::{Error, Result};
use crate::observe::nesting::Nesting;
use crate::plan::Machine;

/// One thing a lab may need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub ok: bool,
    /// What was found, or what its absence means.
    pub detail: String,
    /// The one command that mends it; none where there is nothing to mend or no command does.
    pub fix: Option<String>,
    /// Others that mend it too, and allow more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub or: Vec<String>,
}

impl Finding {
    fn new(name: &'static str, ok: bool, detail: impl Into<String>, fix: Option<String>) -> Self {
        Self { name, ok, detail: detail.into(), fix: fix.filter(|_| !ok), or: Vec::new() }
    }
}

/// Everything, in the order in which it matters. `machine` is an error where no lab can be made at all, and
/// `nesting` is there where it was measured.
#[must_use]
pub fn findings(machine: &Result<Machine>, facts: &Facts, nesting: Option<Nesting>) -> Vec<Finding> {
    let mut found = vec![namespaces(machine, facts)];
    match machine {
        Ok(machine) => {
            found.extend(dataplanes(machine, facts));
            found.extend(nested(machine, nesting));
        }
        // What needs no namespace to be seen.
        Err(_) if facts.tun != TunFile::Opens => found.push(tun(false, facts)),
        Err(_) => {}
    }
    found.extend(programs(facts));
    found.push(frr(facts));
    found
}

/// Whether the machine carries labs, by either dataplane.
#[must_use]
pub fn carries_labs(machine: &Result<Machine>) -> bool {
    machine.as_ref().is_ok_and(|m| m.tun || (m.ipip && m.nft))
}

/// Does something to what a machine is said to have.
type Mend = fn(&mut Machine);

/// What planning looks at, by the names of findings.
const FEATURES: [(&str, Mend); 8] = [
    ("TUN", |m| m.tun = true),
    ("ipip", |m| m.ipip = true),
    ("nftables", |m| m.nft = true),
    ("netem", |m| m.netem = true),
    ("redirect", |m| m.redirect = true),
    ("spread", |m| m.spread = true),
    ("ESP", |m| m.esp = true),
    ("FRR", |m| m.frr = Some(String::new())),
];

/// An error for which a plan was refused, with the command that mends it as its hint: that of the first thing with which
/// the plan would not be refused so. `refusal` says why a machine's plan is refused, if it is.
#[must_use]
pub fn mended(
    error: Error,
    machine: &Machine,
    facts: &Facts,
    refusal: impl Fn(&Machine) -> Option<Error>,
) -> Error {
    let all = findings(&Ok(machine.clone()), facts, None);
    let lacks = |(name, mend): &(&str, Mend)| {
        let finding = all.iter().find(|f| f.name == *name && !f.ok)?;
        let mut better = machine.clone();
        mend(&mut better);
        let other = refusal(&better).is_none_or(|e| e.causes() != error.causes() || e.what() != error.what());
        finding.fix.as_ref().filter(|_| other)
    };
    match FEATURES.iter().find_map(lacks) {
        Some(fix) => {
            let old = error.hint_text().map(|h| format!("; {h}")).unwrap_or_default();
            let hint = format!("{fix}{old}");
            error.hint(hint)
        }
        None => error,
    }
}

fn namespaces(machine: &Result<Machine>, facts: &Facts) -> Finding {
    let settings = &facts.settings;
    let privilege = if settings.privileged { "as root" } else { "in a user namespace, without privilege" };
    match machine {
        Ok(_) => Finding::new("namespaces", true, privilege, None),
        Err(e) => {
            let mut remedies = settings.obstacle(is_full(e)).remedies.into_iter();
            let as_root = || (!settings.privileged).then(|| "sudo vilab doctor".to_owned());
            let fix = remedies.next().or_else(as_root);
            let why = e.causes().last().map_or_else(|| e.what().to_owned(), Clone::clone);
            Finding { or: remedies.collect(), ..Finding::new("namespaces", false, why, fix) }
        }
    }
}

fn is_full(e: &Error) -> bool {
    e.causes().iter().any(|cause| cause.contains(crate::lab::permission::NO_SPACE))
}

fn dataplanes(machine: &Machine, facts: &Facts) -> [Finding; 8] {
    let module = |name| module(name, facts);
    let of_kernel = |name, ok, purpose, fix| of_kernel(name, ok, purpose, fix, facts);
    [
        tun(machine.tun, facts),
        of_kernel("ipip", machine.ipip, "the kernel dataplane", module("ipip")),
        of_kernel("nftables", machine.nft, "the kernel dataplane's strong host rules", nft_fix(facts)),
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
fn of_kernel(name: &'static str, ok: bool, purpose: &str, fix: Option<String>, facts: &Facts) -> Finding {
    let lacking = match facts.modules {
        _ if ok => "",
        None => "; whether this kernel has a module for it cannot be seen here",
        Some(_) if fix.is_some() => "",
        Some(_) => "; this kernel was built without it",
    };
    Finding::new(name, ok, format!("{purpose}{lacking}"), fix)
}

/// The fast path's devices: who opens their file needs no other right, so a user may have them.
fn tun(ok: bool, facts: &Facts) -> Finding {
    const PURPOSE: &str = "the fastpath dataplane";
    const MAKE: &str = "sudo mkdir -p /dev/net && sudo mknod -m 666 /dev/net/tun c 10 200";
    let load = module("tun", facts).filter(|_| !facts.tun_driver);
    let container = facts.settings.container;
    let given = "start the container with --device /dev/net/tun".to_owned();
    let (what, fix) = match facts.tun {
        _ if ok => return Finding::new("TUN", true, PURPOSE, None),
        TunFile::Missing if container => ("there is no /dev/net/tun", Some(given)),
        TunFile::Missing => match (load, facts.tun_driver) {
            (Some(load), _) => ("there is no /dev/net/tun, and its driver is not loaded", Some(load)),
            (None, true) => ("there is no /dev/net/tun", Some(MAKE.to_owned())),
            (None, false) if facts.modules.is_none() => {
                ("there is no /dev/net/tun, and the driver's module is not here", None)
            }
            (None, false) => ("this kernel was built without it", None),
        },
        TunFile::NoDevice => {
            ("/dev/net/tun is no device", Some(format!("sudo rm -r /dev/net/tun && {MAKE}")))
        }
        TunFile::Closed { mode } => {
            let detail = format!("{PURPOSE}: the mode of /dev/net/tun, {mode:04o}, does not let you open it");
            return Finding::new("TUN", false, detail, Some("sudo chmod 666 /dev/net/tun".to_owned()));
        }
        TunFile::Refused if container => ("the container may not use /dev/net/tun", Some(given)),
        TunFile::Refused => ("a control group does not allow /dev/net/tun", None),
        TunFile::NoDriver | TunFile::Opens => match load {
            Some(load) => ("its driver is not loaded", Some(load)),
            None if facts.tun_driver => ("the kernel refuses a device", None),
            None if facts.modules.is_none() => ("its driver is not loaded, and its module not here", None),
            None => ("this kernel was built without it", None),
        },
    };
    Finding::new("TUN", false, format!("{PURPOSE}: {what}"), fix)
}

fn nft_fix(facts: &Facts) -> Option<String> {
    if facts.programs.contains("nft") { module("nf_tables", facts) } else { install("nftables", facts) }
}

/// The command that loads a module, if this kernel has it, as far as can be seen.
fn module(name: &str, facts: &Facts) -> Option<String> {
    match &facts.modules {
        Some(modules) => modules.contains(name).then(|| format!("sudo modprobe {name}")),
        None => facts.settings.container.then(|| format!("on the host: sudo modprobe {name}")),
    }
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
fn programs(facts: &Facts) -> [Finding; 3] {
    let program = |name, package| {
        Finding::new(name, facts.programs.contains(name), "for use in nodes", install(package, facts))
    };
    [program("ping", "iputils-ping"), program("traceroute", "traceroute"), program("tcpdump", "tcpdump")]
}

fn frr(facts: &Facts) -> Finding {
    let ok = facts.frr.is_some() && facts.programs.contains("vtysh");
    let detail = facts.frr.clone().unwrap_or_else(|| "dynamic routing in nodes".into());
    Finding::new("FRR", ok, detail, install("frr", facts))
}

/// The command of this system's package manager. Package names are Debian's.
fn install(package: &str, facts: &Facts) -> Option<String> {
    let ping = if package == "iputils-ping" { "iputils" } else { package };
    Some(match facts.manager? {
        Manager::Apt => format!("sudo apt-get install {package}"),
        Manager::Dnf => format!("sudo dnf install {ping}"),
        Manager::Pacman => format!("sudo pacman -S {ping}"),
        Manager::Apk => format!("sudo apk add {ping}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::permission::Settings;

    fn machine(tun: bool, ipip: bool, nft: bool) -> Result<Machine> {
        Ok(Machine { tun, ipip, nft, ..Machine::default() })
    }

    fn facts(tun: TunFile, tun_driver: bool, modules: &[&'static str]) -> Facts {
        Facts {
            tun,
            tun_driver,
            modules: Some(modules.iter().copied().collect()),
            manager: Some(Manager::Apt),
            ..Facts::default()
        }
    }

    fn of<'a>(found: &'a [Finding], name: &str) -> &'a Finding {
        found.iter().find(|f| f.name == name).expect("a finding of this name")
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
        let found = findings(&refused, &Facts::default(), None);
        assert_eq!((found[0].ok, found[0].detail.as_str()), (false, "EPERM"));
        assert!(found.iter().all(|f| f.name != "ipip"));
        assert_eq!(of(&found, "namespaces").fix.as_deref(), Some("sudo vilab doctor"));
        let facts =
            Facts { settings: Settings { apparmor: Some(1), ..Settings::default() }, ..Facts::default() };
        let found = findings(&refused, &facts, None);
        let namespaces = of(&found, "namespaces");
        assert!(namespaces.fix.as_ref().is_some_and(|fix| fix.contains("apparmor_parser -r")));
        assert_eq!(namespaces.or, ["sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"]);
    }

    /// The file, whether there is a driver, modules, whether it is a container; what is told, and what helps.
    type Row = (TunFile, bool, &'static [&'static str], bool, &'static str, Option<&'static str>);

    #[test]
    fn a_tun_device_that_cannot_be_had_is_told_with_what_gives_it() {
        let make = "sudo mkdir -p /dev/net && sudo mknod -m 666 /dev/net/tun c 10 200";
        let (load, device) = ("sudo modprobe tun", "start the container with --device /dev/net/tun");
        let table: [Row; 12] = [
            (TunFile::Missing, false, &["tun"], false, "its driver is not loaded", Some(load)),
            (TunFile::Missing, true, &["tun"], false, "there is no /dev/net/tun", Some(make)),
            (TunFile::Missing, true, &[], false, "there is no /dev/net/tun", Some(make)),
            (TunFile::Missing, false, &[], false, "this kernel was built without it", None),
            (TunFile::Missing, true, &[], true, "there is no /dev/net/tun", Some(device)),
            (
                TunFile::NoDevice,
                true,
                &[],
                false,
                "/dev/net/tun is no device",
                Some("sudo rm -r /dev/net/tun"),
            ),
            (TunFile::Closed { mode: 0o600 }, true, &[], false, "0600", Some("sudo chmod 666 /dev/net/tun")),
            (TunFile::Refused, true, &[], true, "the container may not use", Some(device)),
            (TunFile::Refused, true, &[], false, "a control group", None),
            (TunFile::NoDriver, false, &["tun"], false, "its driver is not loaded", Some(load)),
            (TunFile::NoDriver, false, &[], false, "this kernel was built without it", None),
            (TunFile::Opens, true, &[], false, "the kernel refuses a device", None),
        ];
        for (file, driver, modules, container, what, fix) in table {
            let mut facts = facts(file, driver, modules);
            facts.settings.container = container;
            let found = findings(&machine(false, false, false), &facts, None);
            let finding = of(&found, "TUN");
            assert!(!finding.ok && finding.detail.contains(what), "{file:?}: {finding:?}");
            match fix {
                Some(fix) => assert!(finding.fix.as_ref().is_some_and(|f| f.starts_with(fix)), "{finding:?}"),
                None => assert_eq!(finding.fix, None, "{file:?}"),
            }
        }
        let found = findings(&machine(true, false, false), &facts(TunFile::Opens, true, &[]), None);
        assert_eq!((of(&found, "TUN").ok, of(&found, "TUN").fix.as_ref()), (true, None));
    }

    #[test]
    fn a_kernel_whose_modules_are_not_here_is_not_said_to_lack_them() {
        let mut facts = Facts { modules: None, ..facts(TunFile::NoDriver, false, &[]) };
        for (container, fix) in [(true, Some("on the host: sudo modprobe ipip")), (false, None)] {
            facts.settings.container = container;
            let found = findings(&machine(false, false, false), &facts, None);
            let ipip = of(&found, "ipip");
            assert_eq!(ipip.fix.as_deref(), fix);
            assert!(ipip.detail.ends_with("cannot be seen here"), "{ipip:?}");
            assert!(!of(&found, "TUN").detail.contains("built without"), "{found:?}");
        }
    }

    #[test]
    fn programs_come_by_the_machines_own_package_manager() {
        let table = [
            (Manager::Apt, "sudo apt-get install iputils-ping", "sudo apt-get install nftables"),
            (Manager::Dnf, "sudo dnf install iputils", "sudo dnf install nftables"),
            (Manager::Pacman, "sudo pacman -S iputils", "sudo pacman -S nftables"),
            (Manager::Apk, "sudo apk add iputils", "sudo apk add nftables"),
        ];
        for (manager, ping, nft) in table {
            let facts = Facts { manager: Some(manager), ..Facts::default() };
            let found = findings(&machine(true, false, false), &facts, None);
            assert_eq!(of(&found, "ping").fix.as_deref(), Some(ping));
            assert_eq!(of(&found, "nftables").fix.as_deref(), Some(nft));
            assert!(of(&found, "FRR").fix.as_ref().is_some_and(|fix| fix.ends_with(" frr")));
        }
        let mut facts = facts(TunFile::Opens, true, &["nf_tables"]);
        facts.programs.insert("nft");
        let found = findings(&machine(true, false, false), &facts, None);
        assert_eq!(of(&found, "nftables").fix.as_deref(), Some("sudo modprobe nf_tables"));
    }

    /// What is refused for want of something says how to get just that.
    #[test]
    fn a_refused_plan_says_how_to_get_what_it_lacks() {
        let refusal = |m: &Machine| {
            let lacks = match m {
                Machine { tun: false, .. } => "it lacks TUN devices",
                Machine { frr: None, .. } => "no directory has FRR's daemons",
                _ => return None,
            };
            Some(Error::environment("this machine cannot").because(lacks).hint("see"))
        };
        let facts = facts(TunFile::Missing, true, &[]);
        let hint = |machine: &Machine| {
            let error = mended(refusal(machine).expect("an error"), machine, &facts, refusal);
            error.hint_text().expect("a hint").to_owned()
        };
        let none = Machine::default();
        assert!(hint(&none).starts_with("sudo mkdir -p /dev/net"), "{}", hint(&none));
        let frr = Machine { tun: true, ..Machine::default() };
        assert_eq!(hint(&frr), "sudo apt-get install frr; see");
        let helpless = Facts::default();
        let error = mended(refusal(&frr).expect("an error"), &frr, &helpless, refusal);
        assert_eq!(error.hint_text(), Some("see"), "no command of a machine without packages");
    }
}
