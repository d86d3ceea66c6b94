//! What a node shows that is its own: files, and directories that everybody in it may write to. Views go in; they lie
//! in memory, in the lab's mount namespace, and a process that enters a node gets them bound over the machine's files.
//! It never makes anything on the host: a directory of the host that lacks the place for a mount is mirrored in the
//! lab's mount namespace first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mounts;
use crate::plan::View;
use crate::sys::mount;

/// Everybody may write: daemons that give up root do. Without the sticky bit of /tmp, for with it not even root may
/// write again into what a daemon that gave root up has left there (`fs.protected_regular` of sysctl(8)).
const PUBLIC: u32 = 0o777;
/// Files of a view belong to root and can be read by all.
const READABLE: u32 = 0o644;

/// Directories of the machine that stay in sight where they are: the sockets of its users' sessions.
const KEPT: [&str; 1] = ["/run/user"];

/// What a process that enters a node needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Manifest {
    hostname: String,
    /// Absolute paths, each also below the view's `root`.
    binds: BTreeSet<String>,
}

/// The views of a lab, in the directory where they lie.
#[derive(Debug, Clone)]
pub(super) struct Views {
    dir: PathBuf,
}

impl Views {
    /// The views of the lab whose state directory is `lab`; they can be seen in its mount namespace only.
    pub(super) fn of(lab: &Path) -> Self {
        Self { dir: lab.join(super::dir::VIEWS) }
    }

    /// Makes the place where views lie, and what their mounts need. The caller is in the lab's mount namespace and has
    /// mounted nothing else of the lab's yet.
    pub(super) fn prepare<'a>(&self, views: impl IntoIterator<Item = &'a View>) -> io::Result<()> {
        fs::create_dir(&self.dir)?;
        let mut mirrors = Mirrors::default();
        for view in views {
            let paths: BTreeSet<&String> = view.dirs.iter().chain(view.files.keys()).collect();
            for path in paths.into_iter().filter(|p| !inside(p, &view.dirs)) {
                mirrors.make_place(Path::new(path), view.dirs.contains(path)).map_err(|e| about(&e, path))?;
            }
        }
        mounts::tmpfs(&self.dir)?;
        Ok(())
    }

    /// Writes the view of `netns`. Files that were there get the new text in place, so that whoever has them bound
    /// sees it; what its directories hold stays.
    pub(super) fn put(&self, netns: &str, hostname: &str, view: &View) -> io::Result<()> {
        let root = self.dir.join(netns).join("root");
        fs::create_dir_all(&root)?;
        let mut binds = BTreeSet::new();
        for dir in &view.dirs {
            let place = below(&root, dir);
            fs::create_dir_all(&place)?;
            fs::set_permissions(&place, Permissions::from_mode(PUBLIC))?;
            binds.insert(dir.clone());
        }
        for (path, text) in &view.files {
            // A link of the machine's that leads into one of the directories leads to the file there.
            let real = fs::canonicalize(path).ok().and_then(|p| p.to_str().map(str::to_owned));
            let path = real.filter(|p| inside(p, &view.dirs)).unwrap_or_else(|| path.clone());
            let place = below(&root, &path);
            place.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&place, text)?;
            fs::set_permissions(&place, Permissions::from_mode(READABLE))?;
            binds.insert(path);
        }
        binds.retain(|path| !inside(path, &view.dirs));
        let manifest = Manifest { hostname: hostname.to_owned(), binds };
        fs::write(self.manifest(netns), serde_json::to_vec(&manifest)?)
    }

    /// Forgets the view of a node that has gone.
    pub(super) fn remove(&self, netns: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.dir.join(netns)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Gives the caller, which has mount and UTS namespaces of its own, the host name and the view of `netns`.
    pub(super) fn enter(&self, netns: &str) -> io::Result<()> {
        self.sight(netns)?.put()
    }

    /// The view of `netns`, to be put in its place anywhere. The caller is in the lab's mount namespace.
    pub(super) fn sight(&self, netns: &str) -> io::Result<Sight> {
        let manifest: Manifest = serde_json::from_slice(&fs::read(self.manifest(netns))?)?;
        let root = self.dir.join(netns).join("root");
        let copy = |path: String| mount::copy(None, &below(&root, &path)).map(|copied| (path, copied));
        let files = manifest.binds.into_iter().map(copy).collect::<io::Result<_>>()?;
        Ok(Sight { hostname: manifest.hostname, files })
    }

    #[cfg(test)]
    /// The file that a process in `netns` finds at `path`, as a process in the lab's mount namespace does.
    pub(super) fn backing(&self, netns: &str, path: &str) -> PathBuf {
        below(&self.dir.join(netns).join("root"), path)
    }

    fn manifest(&self, netns: &str) -> PathBuf {
        self.dir.join(netns).join("manifest.json")
    }
}

/// What a node shows that is its own, not yet in its place: copies of mounts, by absolute path.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) hostname: String,
    pub(super) files: Vec<(String, OwnedFd)>,
}

impl Sight {
    /// Gives the caller, which has mount and UTS namespaces of its own, the host name and the files.
    pub(super) fn put(&self) -> io::Result<()> {
        nix::unistd::sethostname(&self.hostname)?;
        // Copied before the first is put in its place, for that may hide them.
        let copy = |path: &str| mount::copy(None, Path::new(path));
        let kept: Vec<_> = KEPT.iter().filter_map(|path| Some((*path, copy(path).ok()?))).collect();
        for (path, copied) in &self.files {
            mount::put(copied, Path::new(path)).map_err(|e| about(&e, path))?;
        }
        for (path, copied) in &kept {
            // Where nothing was put over them, they are still there.
            fs::create_dir_all(path)
                .and_then(|()| mount::put(copied, Path::new(path)))
                .map_err(|e| about(&e, path))?;
        }
        Ok(())
    }
}

fn about(e: &io::Error, path: &str) -> io::Error {
    io::Error::new(e.kind(), format!("{path}: {e}"))
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Whether a directory brings `path` along.
pub(super) fn inside(path: &str, dirs: &[String]) -> bool {
    dirs.iter().any(|d| path != d && Path::new(path).starts_with(d))
}

/// The directories of the host that are mirrored.
#[derive(Debug, Default)]
struct Mirrors {
    made: BTreeSet<PathBuf>,
}

impl Mirrors {
    /// Sees to it that something can be bound over `path`.
    fn make_place(&mut self, path: &Path, is_dir: bool) -> io::Result<()> {
        if !path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path"));
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() == is_dir => return Ok(()),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, kind_fault(is_dir))),
            Err(_) => {}
        }
        let parent = existing_parent(path)?;
        if parent == Path::new("/") {
            return Err(io::Error::new(io::ErrorKind::NotFound, "nothing can be added to / of the machine"));
        }
        if !self.made.contains(&parent) {
            mounts::mirror(&parent)?;
            self.made.insert(parent);
        }
        // A link that leads nowhere: the mirror has a copy of it.
        if path.is_symlink() {
            fs::remove_file(path)?;
        }
        if is_dir {
            return fs::create_dir_all(path);
        }
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::create(path).map(drop)
    }
}

fn kind_fault(is_dir: bool) -> &'static str {
    if is_dir { "is a file of the machine's, not a directory" } else { "is a directory of the machine's" }
}

/// The nearest directory above `path` that is there, without links in its name.
fn existing_parent(path: &Path) -> io::Result<PathBuf> {
    let found = path.ancestors().skip(1).find(|p| p.is_dir());
    found.unwrap_or_else(|| Path::new("/")).canonicalize()
}

/// Every view with the host name of its node.
pub(super) fn put_all(
    views: &Views,
    wanted: &BTreeMap<String, View>,
    hostnames: &BTreeMap<&str, &str>,
) -> io::Result<()> {
    wanted.iter().try_for_each(|(netns, view)| {
        let hostname = hostnames.get(netns.as_str()).copied().unwrap_or("localhost");
        views.put(netns, hostname, view).map_err(|e| about(&e, netns))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_brings_what_is_in_it() {
        let dirs = vec!["/etc/frr".to_owned()];
        assert!(inside("/etc/frr/zebra.conf", &dirs));
        assert!(!inside("/etc/frr", &dirs) && !inside("/etc/frrx", &dirs) && !inside("/etc", &dirs));
    }

    #[test]
    fn a_link_of_the_machines_into_a_directory_leads_to_the_file_there() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("resolv.conf"), dir.path().join("run/stub"));
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::write(&target, "the machine's").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let views = Views { dir: dir.path().join("views") };
        let dirs = vec![text(&dir.path().join("run"))];
        let view = View { files: [(text(&link), "the node's".to_owned())].into(), dirs: dirs.clone() };
        views.put("b.X", "X", &view).unwrap();
        assert_eq!(fs::read_to_string(views.backing("b.X", &text(&target))).unwrap(), "the node's");
        let manifest: Manifest = serde_json::from_slice(&fs::read(views.manifest("b.X")).unwrap()).unwrap();
        assert_eq!(manifest.binds, BTreeSet::from_iter(dirs));
    }

    #[test]
    fn a_file_is_written_in_place_and_a_directory_keeps_what_it_holds() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let views = Views { dir: dir.path().to_owned() };
        let view = |text: &str| View {
            files: [("/etc/hosts".to_owned(), text.to_owned())].into(),
            dirs: vec!["/run/x".to_owned()],
        };
        views.put("v.a.b", "b", &view("one")).unwrap();
        let hosts = views.backing("v.a.b", "/etc/hosts");
        let inode = fs::metadata(&hosts).unwrap().ino();
        fs::write(views.backing("v.a.b", "/run/x/kept"), "").unwrap();
        views.put("v.a.b", "b", &view("two")).unwrap();
        assert_eq!(fs::read_to_string(&hosts).unwrap(), "two");
        assert_eq!(fs::metadata(&hosts).unwrap().ino(), inode);
        assert!(views.backing("v.a.b", "/run/x/kept").exists());
        assert_eq!(fs::metadata(views.backing("v.a.b", "/run/x")).unwrap().mode() & 0o7777, PUBLIC);
    }

    /// In a mount namespace of this thread's own: what the machine lacks can be bound over, what it has stays in
    /// sight, and the machine sees nothing of it.
    #[test]
    fn nothing_is_made_on_the_host() {
        let lab = tempfile::tempdir().unwrap();
        let (new_dir, new_file) = ("/run/vilab-test-view/a/b", "/etc/vilab-test-view.conf");
        let view = View {
            files: [(new_file.to_owned(), "mine".to_owned()), ("/etc/passwd".to_owned(), "me".to_owned())]
                .into(),
            dirs: vec![new_dir.to_owned()],
        };
        let before: BTreeSet<_> = fs::read_dir("/etc").unwrap().map(|e| e.unwrap().file_name()).collect();
        let seen = std::thread::scope(|scope| {
            let inside = || -> io::Result<_> {
                mounts::own_namespace()?;
                let views = Views::of(lab.path());
                views.prepare([&view])?;
                views.put("b.X", "X", &view)?;
                mounts::own_namespace()?;
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS)?;
                views.enter("b.X")?;
                fs::write(format!("{new_dir}/written"), "")?;
                let names: BTreeSet<_> = fs::read_dir("/etc")?.map(|e| e.unwrap().file_name()).collect();
                let backed = views.backing("b.X", new_dir).join("written").exists();
                let text = |path: &str| fs::read_to_string(path);
                Ok((text(new_file)?, text("/etc/passwd")?, text("/etc/group")?, names, backed))
            };
            scope.spawn(inside).join().unwrap()
        });
        let seen = match seen {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                assert!(!std::env::var("VILAB_REQUIRE").is_ok_and(|v| v.contains("netns")), "{e}");
                return println!("SKIPPED: no mount namespaces for us");
            }
            other => other.unwrap(),
        };
        assert_eq!((seen.0.as_str(), seen.1.as_str()), ("mine", "me"));
        assert_eq!(seen.2, fs::read_to_string("/etc/group").unwrap());
        assert!(seen.3.is_superset(&before) && seen.4);
        assert!(!Path::new("/run/vilab-test-view").exists() && !Path::new(new_file).exists());
        assert_ne!(fs::read_to_string("/etc/passwd").unwrap(), "me");
        assert_eq!(fs::read_dir(lab.path().join(super::super::dir::VIEWS)).unwrap().count(), 0);
    }

    #[test]
    fn the_nearest_directory_that_is_there() {
        assert_eq!(existing_parent(Path::new("/etc/none/of/these")).unwrap(), Path::new("/etc"));
        assert_eq!(existing_parent(Path::new("/nothing")).unwrap(), Path::new("/"));
    }
}
