//! A directory for each lab that failed, with what tells why. Names and texts go in; files come out. A directory that is
//! there already is replaced only if it is such a one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};

/// Every bundle has it: by it an earlier one is known.
pub(super) const REPORT: &str = "report.txt";

/// Where bundles go.
#[derive(Debug)]
pub(super) struct Bundles {
    dirs: Vec<PathBuf>,
}

impl Bundles {
    /// Makes `dir`, and takes away bundles that an earlier run left for `files`.
    pub(super) fn prepare(dir: &Path, files: &[PathBuf]) -> Result<Self> {
        let what = || format!("cannot use {} for bundles", dir.display());
        fs::create_dir_all(dir).doing(Kind::Environment, what)?;
        let dirs: Vec<PathBuf> = names(files).into_iter().map(|name| dir.join(name)).collect();
        for old in dirs.iter().filter(|dir| dir.exists()) {
            if !old.join(REPORT).is_file() {
                let hint = "name another directory, or move that one away";
                let found = format!("{} is there and is no bundle", old.display());
                return Err(Error::usage(what()).because(found).hint(hint));
            }
            fs::remove_dir_all(old).doing(Kind::Environment, what)?;
        }
        Ok(Self { dirs })
    }

    /// That of one lab, which is made with its first file.
    pub(super) fn of(&self, lab: usize) -> Option<Bundle> {
        self.dirs.get(lab).map(|dir| Bundle { dir: dir.clone() })
    }
}

/// What a lab leaves when it fails.
#[derive(Debug)]
pub(super) struct Bundle {
    dir: PathBuf,
}

impl Bundle {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes one file; its name may have a directory.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, content))
            .doing(Kind::Environment, || format!("cannot write {}", path.display()))
    }
}

/// A name for each file: its own without the end, and a number where several have it.
fn names(files: &[PathBuf]) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let name = |file: &PathBuf| {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let stem: String = stem.trim_start_matches('.').chars().map(plain).collect();
        if stem.is_empty() { "lab".to_owned() } else { stem }
    };
    let mut all = Vec::new();
    for stem in files.iter().map(name) {
        let number = seen.entry(stem.clone()).or_default();
        loop {
            *number += 1;
            let name = if *number == 1 { stem.clone() } else { format!("{stem}-{number}") };
            if !all.contains(&name) {
                all.push(name);
                break;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn every_file_has_a_name_of_its_own_that_is_no_path() {
        let found = names(&files(&["a/x.yaml", "b/x.yaml", "x-2.yaml", "..", "ä b.yaml", ".hidden"]));
        assert_eq!(found, ["x", "x-2", "x-2-2", "lab", "__b", "hidden"]);
    }

    #[test]
    fn an_earlier_bundle_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mine = files(&["x.yaml"]);
        let bundle = Bundles::prepare(dir.path(), &mine).unwrap().of(0).unwrap();
        assert!(!bundle.dir().exists(), "a lab that passes leaves nothing");
        bundle.write("logs/web", b"x").unwrap();
        assert!(Bundles::prepare(dir.path(), &mine).is_err(), "not known as a bundle");
        bundle.write(REPORT, b"x").unwrap();
        fs::write(dir.path().join("other"), "y").unwrap();
        Bundles::prepare(dir.path(), &mine).unwrap();
        assert!(!bundle.dir().exists() && dir.path().join("other").exists());
    }
}
