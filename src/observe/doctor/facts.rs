//! What is known of a machine beside what was tried on it. Nothing goes in; [`Facts`] come out. It judges nothing, and
//! tries nothing but to open a file.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use crate::lab::permission::Settings;
use crate::process;

/// Modules that a lab may need.
const MODULES: [&str; 8] =
    ["act_mirred", "esp4", "ifb", "ipip", "nf_tables", "nft_fwd_netdev", "sch_netem", "tun"];
/// Programs that a lab, or whoever works in one, may need.
const PROGRAMS: [&str; 5] = ["nft", "ping", "tcpdump", "traceroute", "vtysh"];
const TUN: &str = "/dev/net/tun";

/// How packages are installed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    Apt,
    Dnf,
    Pacman,
    Apk,
}

/// What became of opening `/dev/net/tun`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TunFile {
    #[default]
    Opens,
    /// There is no such file.
    Missing,
    /// It is something else than a device.
    NoDevice,
    /// EACCES: its mode is not for us.
    Closed { mode: u32 },
    /// EPERM: a control group does not allow the device.
    Refused,
    /// ENODEV, ENXIO: no driver is behind it.
    NoDriver,
}

/// What is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    pub settings: Settings,
    pub tun: TunFile,
    /// The running kernel has the driver of TUN devices, loaded or built in.
    pub tun_driver: bool,
    /// Those of `MODULES` that there are files of for the running kernel; `None` where its files are not here, as in a container.
    pub modules: Option<BTreeSet<&'static str>>,
    /// Those of `PROGRAMS` that are installed.
    pub programs: BTreeSet<&'static str>,
    pub manager: Option<Manager>,
    /// What FRR's zebra says of its version.
    pub frr: Option<String>,
}

impl Facts {
    /// Those of this machine, as far as this process can see.
    #[must_use]
    pub fn gather() -> Self {
        Self {
            settings: Settings::read(),
            tun: tun(),
            tun_driver: fs::read_to_string("/proc/misc")
                .is_ok_and(|list| list.lines().any(|l| l.split_whitespace().nth(1) == Some("tun"))),
            modules: modules(),
            programs: PROGRAMS.into_iter().filter(|name| process::installed(name)).collect(),
            manager: manager(),
            frr: frr(),
        }
    }
}

fn tun() -> TunFile {
    let Err(e) = fs::File::options().read(true).write(true).open(TUN) else {
        return match fs::metadata(TUN).is_ok_and(|m| m.file_type().is_char_device()) {
            true => TunFile::Opens,
            false => TunFile::NoDevice,
        };
    };
    let mode = || fs::metadata(TUN).map_or(0, |m| m.permissions().mode() & 0o777);
    match (e.kind(), e.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => TunFile::Missing,
        (_, Some(libc::EACCES)) => TunFile::Closed { mode: mode() },
        (_, Some(libc::EPERM)) => TunFile::Refused,
        (_, Some(libc::ENODEV | libc::ENXIO)) => TunFile::NoDriver,
        _ => TunFile::NoDevice,
    }
}

fn modules() -> Option<BTreeSet<&'static str>> {
    if !Path::new("/proc/modules").exists() {
        // A kernel that was built without modules.
        return Some(BTreeSet::new());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let list = fs::read_to_string(Path::new("/lib/modules").join(release.trim()).join("modules.dep")).ok()?;
    let files: BTreeSet<&str> =
        list.lines().filter_map(|l| l.split(':').next()?.rsplit('/').next()?.split(".ko").next()).collect();
    Some(MODULES.into_iter().filter(|name| files.contains(name)).collect())
}

fn manager() -> Option<Manager> {
    let programs = [
        ("apt-get", Manager::Apt),
        ("dnf", Manager::Dnf),
        ("pacman", Manager::Pacman),
        ("apk", Manager::Apk),
    ];
    programs.into_iter().find(|(program, _)| process::installed(program)).map(|(_, manager)| manager)
}

fn frr() -> Option<String> {
    let zebra = super::frr_dir()?.join("zebra");
    let said = process::feed(Command::new(zebra).arg("--version"), "").ok()?;
    said.lines().next().map(str::to_owned)
}
