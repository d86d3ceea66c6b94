//! What keeps a process from making namespaces. Settings of the kernel, and what is known of the process, go in; the
//! obstacle and what removes it come out. It never tries to make a namespace.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Namespaces that a lab is made of, as `user.max_…_namespaces` names them.
const KINDS: [&str; 6] = ["user", "net", "mnt", "pid", "uts", "ipc"];
/// Where the profile of this program belongs.
const PROFILE: &str = "/etc/apparmor.d/vilab";
/// What engines of containers leave in the root of one.
const CONTAINER: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
/// As errno(3) words ENOSPC.
pub(crate) const NO_SPACE: &str = "No space left on device";

/// What decides whether this process may make namespaces. In a user namespace, `user.…` are that namespace's own: this is
/// of use where it is read by the process that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// It needs no user namespace.
    pub privileged: bool,
    /// `kernel.unprivileged_userns_clone`, which only some distributions have.
    pub clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, likewise.
    pub apparmor: Option<u64>,
    /// `user.max_…_namespaces`, in the order of `KINDS`.
    pub limits: [Option<u64>; KINDS.len()],
    /// Its system calls are filtered: seccomp(2).
    pub filtered: bool,
    pub container: bool,
    /// The file of this program.
    pub program: PathBuf,
}

/// Why namespaces cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub what: String,
    /// Each removes it by itself; the one that allows the least comes first.
    pub remedies: Vec<String>,
}

impl Settings {
    /// Those of this process and the running kernel.
    #[must_use]
    pub fn read() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mode = status.lines().find_map(|l| l.strip_prefix("Seccomp:")).map(str::trim);
        Self {
            privileged: !super::user::needed(),
            clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            limits: KINDS.map(|kind| number(&format!("/proc/sys/user/max_{kind}_namespaces"))),
            filtered: mode.is_some_and(|mode| mode != "0"),
            container: CONTAINER.iter().any(|file| Path::new(file).exists())
                || std::env::var_os("container").is_some(),
            program: fs::read_link("/proc/self/exe").unwrap_or_else(|_| "vilab".into()),
        }
    }

    /// Why the kernel refuses namespaces; `full` if it said that there is no room for more.
    #[must_use]
    pub fn obstacle(&self, full: bool) -> Obstacle {
        let unprivileged = !self.privileged;
        if unprivileged && self.clone == Some(0) {
            return sysctl("kernel.unprivileged_userns_clone", 0, 1);
        }
        let needed = |kind: &str| unprivileged || kind != "user";
        let mut limits = KINDS.into_iter().zip(self.limits).filter(|(kind, _)| needed(kind));
        if let Some((kind, _)) = limits.clone().find(|(_, limit)| *limit == Some(0)) {
            return sysctl(&format!("user.max_{kind}_namespaces"), 0, 10_000);
        }
        if full {
            let reached = limits.by_ref().filter_map(|(kind, limit)| Some(format!("{kind} {}", limit?)));
            let reached: Vec<String> = reached.collect();
            return Obstacle {
                what: format!("one of the limits user.max_…_namespaces is reached: {}", reached.join(", ")),
                remedies: vec!["sudo sysctl user.max_net_namespaces=100000".to_owned()],
            };
        }
        match self.apparmor {
            Some(1..) if unprivileged => self.apparmor(),
            _ if self.filtered || self.container => self.contained(),
            _ => Obstacle {
                what: "no setting that vilab knows forbids it: a security module does, or this is a chroot"
                    .to_owned(),
                remedies: Vec::new(),
            },
        }
    }

    /// Ubuntu from 23.10 on: the profile allows this program alone.
    fn apparmor(&self) -> Obstacle {
        let program = self.program.display();
        let lines = [
            "abi <abi/4.0>,".to_owned(),
            "include <tunables/global>".to_owned(),
            format!("profile vilab \"{program}\" flags=(unconfined) {{"),
            "  userns,".to_owned(),
            "}".to_owned(),
        ];
        let quoted: Vec<String> = lines.iter().map(|line| quoted(line)).collect();
        Obstacle {
            what: "kernel.apparmor_restrict_unprivileged_userns is 1, and no profile of AppArmor allows it to this program"
                .to_owned(),
            remedies: vec![
                format!(
                    "printf '%s\\n' {} | sudo tee {PROFILE} && sudo apparmor_parser -r {PROFILE}",
                    quoted.join(" ")
                ),
                "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0".to_owned(),
            ],
        }
    }

    fn contained(&self) -> Obstacle {
        let what = match self.filtered {
            true => "a filter of system calls (seccomp), as containers have it, refuses it",
            false => "this is a container, and its engine refuses it",
        };
        Obstacle { what: what.to_owned(), remedies: vec!["start the container with --privileged".to_owned()] }
    }
}

impl Obstacle {
    /// All remedies in one sentence.
    #[must_use]
    pub fn hint(&self, privileged: bool) -> String {
        let mut hint = if privileged { String::new() } else { "run vilab as root".to_owned() };
        for (index, remedy) in self.remedies.iter().enumerate() {
            let between = match (index, privileged) {
                (0, true) => "allow it: ",
                (0, false) => ", or allow it: ",
                _ => "; or: ",
            };
            let _ = write!(hint, "{between}{remedy}");
        }
        hint
    }
}

/// A refusal of the kernel's to make a namespace, with its cause and what removes it, unless it has a hint.
#[must_use]
pub fn explained(error: Error, settings: &Settings) -> Error {
    if error.hint_text().is_some() {
        return error;
    }
    let full = error.causes().iter().any(|cause| cause.contains(NO_SPACE));
    let obstacle = settings.obstacle(full);
    let hint = obstacle.hint(settings.privileged);
    let error = error.because(obstacle.what);
    if hint.is_empty() { error } else { error.hint(hint) }
}

/// The same for an error that may have another cause: only where the kernel said that there is no room, and a limit is 0.
#[must_use]
pub fn explained_by_limit(error: Error) -> Error {
    if !error.causes().iter().any(|cause| cause.contains(NO_SPACE)) {
        return error;
    }
    let settings = Settings::read();
    if settings.limits.contains(&Some(0)) { explained(error, &settings) } else { error }
}

fn sysctl(name: &str, is: u64, mends: u64) -> Obstacle {
    Obstacle { what: format!("{name} is {is}"), remedies: vec![format!("sudo sysctl {name}={mends}")] }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nothing forbids anything.
    fn open() -> Settings {
        Settings {
            limits: [Some(1000); KINDS.len()],
            program: "/usr/bin/vilab".into(),
            ..Settings::default()
        }
    }

    fn limited(kind: &str) -> [Option<u64>; KINDS.len()] {
        KINDS.map(|k| Some(if k == kind { 0 } else { 1000 }))
    }

    #[test]
    fn each_obstacle_is_named_with_what_removes_it() {
        let (user, net) = (limited("user"), limited("net"));
        let profile = "printf '%s\\n' 'abi <abi/4.0>,' 'include <tunables/global>' \
                       'profile vilab \"/usr/bin/vilab\" flags=(unconfined) {' '  userns,' '}' \
                       | sudo tee /etc/apparmor.d/vilab && sudo apparmor_parser -r /etc/apparmor.d/vilab";
        let apparmor = [profile, "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"];
        let table: [(Settings, bool, &str, &[&str]); 11] = [
            (
                Settings { clone: Some(0), ..open() },
                false,
                "kernel.unprivileged_userns_clone is 0",
                &["sudo sysctl kernel.unprivileged_userns_clone=1"],
            ),
            (
                Settings { limits: user, clone: Some(1), ..open() },
                true,
                "user.max_user_namespaces is 0",
                &["sudo sysctl user.max_user_namespaces=10000"],
            ),
            (
                Settings { limits: net, ..open() },
                true,
                "user.max_net_namespaces is 0",
                &["sudo sysctl user.max_net_namespaces=10000"],
            ),
            (
                Settings { limits: net, privileged: true, ..open() },
                true,
                "user.max_net_namespaces is 0",
                &["sudo sysctl user.max_net_namespaces=10000"],
            ),
            (
                open(),
                true,
                "user.max_…_namespaces is reached: user 1000, net 1000",
                &["sudo sysctl user.max_net_namespaces=100000"],
            ),
            (
                Settings { apparmor: Some(1), filtered: true, ..open() },
                false,
                "kernel.apparmor_restrict_unprivileged_userns is 1",
                &apparmor,
            ),
            (
                Settings { apparmor: Some(0), filtered: true, ..open() },
                false,
                "(seccomp)",
                &["start the container with --privileged"],
            ),
            (
                Settings { container: true, ..open() },
                false,
                "this is a container",
                &["start the container with --privileged"],
            ),
            // What binds only the unprivileged explains nothing to root.
            (
                Settings {
                    privileged: true,
                    clone: Some(0),
                    apparmor: Some(1),
                    limits: user,
                    container: true,
                    ..open()
                },
                false,
                "this is a container",
                &["start the container with --privileged"],
            ),
            (Settings { clone: Some(1), ..open() }, false, "no setting that vilab knows", &[]),
            (Settings::default(), false, "no setting that vilab knows", &[]),
        ];
        for (settings, full, what, remedies) in table {
            let obstacle = settings.obstacle(full);
            assert!(obstacle.what.contains(what), "{settings:?}: {obstacle:?}");
            assert_eq!(obstacle.remedies, remedies, "{settings:?}");
        }
    }

    #[test]
    fn an_error_says_the_cause_and_all_that_helps() {
        let refused = || Error::environment("cannot make a user namespace").because("EPERM");
        let ubuntu = Settings { apparmor: Some(1), ..open() };
        let error = explained(refused(), &ubuntu);
        let hint = error.hint_text().expect("a hint");
        assert!(
            hint.starts_with("run vilab as root, or allow it: printf '%s\\n' 'abi <abi/4.0>,'"),
            "{hint}"
        );
        assert!(hint.ends_with("; or: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"), "{hint}");
        assert_eq!(error.causes().len(), 2);
        assert_eq!(explained(refused().hint("this"), &ubuntu).hint_text(), Some("this"));
        assert_eq!(explained(refused(), &open()).hint_text(), Some("run vilab as root"));
        let root = Settings { privileged: true, ..open() };
        assert_eq!(explained(refused(), &root).hint_text(), None);
        let full = refused().because("ENOSPC: No space left on device");
        assert!(explained(full, &open()).to_string().contains("is reached"));
    }

    #[test]
    fn a_program_in_an_odd_place_is_quoted() {
        let odd = Settings { apparmor: Some(1), program: "/home/o'hara/my labs/vilab".into(), ..open() };
        let remedy = odd.obstacle(false).remedies.remove(0);
        assert!(remedy.contains(r#"'profile vilab "/home/o'\''hara/my labs/vilab" flags"#), "{remedy}");
    }
}
