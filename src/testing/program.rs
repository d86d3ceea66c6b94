//! The program that plays the processes of labs under test. The environment goes in; a program of this version, or an error
//! that says how to get one, comes out. It never takes one of another version.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::process;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where it is looked for, before `PATH`.
const VARIABLES: [&str; 2] = ["VILAB_PROGRAM", "CARGO_BIN_EXE_vilab"];

/// Whose turn it is to choose: who comes second finds it chosen.
static TURN: Mutex<()> = Mutex::new(());

/// Has this file play the processes of all labs of this process, unless something does already: the program that Cargo built
/// with a test of the same package, say, `env!("CARGO_BIN_EXE_vilab")`.
///
/// # Errors
/// If it cannot be run, or is not `vilab` in the version of this library.
pub fn use_program(path: impl AsRef<Path>) -> Result<()> {
    choose(|| Ok(path.as_ref().to_owned()))
}

/// Sees to it that there is one.
pub(super) fn ensure() -> Result<()> {
    choose(|| find(&|name| env::var_os(name)))
}

fn choose(program: impl FnOnce() -> Result<PathBuf>) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if process::is_played() {
        return Ok(());
    }
    let program = program()?;
    check(&program, &version(&program)?)?;
    process::play_by(program);
    Ok(())
}

fn find(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let named = VARIABLES.iter().find_map(|name| variable(name).filter(|v| !v.is_empty()));
    if let Some(path) = named {
        return Ok(PathBuf::from(path));
    }
    let path = variable("PATH").unwrap_or_default();
    let candidates = env::split_paths(&path).map(|dir| dir.join("vilab"));
    candidates.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        Error::environment("a lab needs the program `vilab`, which is not in PATH").hint(format!(
            "cargo install vilab --version {VERSION} --locked; or name it in VILAB_PROGRAM; or call vilab::init() first \
             thing in main, in a test with `harness = false`"
        ))
    })
}

fn version(program: &Path) -> Result<String> {
    let what = || format!("cannot run {}", program.display());
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|e| Error::environment(what()).because(e).hint("see VILAB_PROGRAM"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn check(program: &Path, said: &str) -> Result<()> {
    if said == format!("vilab {VERSION}") {
        return Ok(());
    }
    let is =
        said.strip_prefix("vilab ").map_or("no vilab".to_owned(), |version| format!("version {version}"));
    Err(Error::environment(format!("the library vilab is version {VERSION}, its program is not"))
        .because(format!("{} is {is}", program.display()))
        .hint(format!("cargo install vilab --version {VERSION} --locked, or name one in VILAB_PROGRAM")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_go_before_the_path_and_nothing_is_an_error_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vilab"), "").unwrap();
        let path = |name: &str| (name == "PATH").then(|| dir.path().as_os_str().to_owned());
        assert_eq!(find(&path).unwrap(), dir.path().join("vilab"));
        let named = |name: &str| if name == "VILAB_PROGRAM" { Some("/x/vilab".into()) } else { path(name) };
        assert_eq!(find(&named).unwrap(), Path::new("/x/vilab"));
        let error = find(&|_| None).unwrap_err().to_string();
        assert!(error.contains("VILAB_PROGRAM") && error.contains("cargo install"), "{error}");
    }

    #[test]
    fn another_version_is_refused() {
        let program = Path::new("/usr/bin/vilab");
        assert!(check(program, &format!("vilab {VERSION}")).is_ok());
        let error = check(program, "vilab 0.0.9").unwrap_err().to_string();
        assert!(error.contains(VERSION) && error.contains("/usr/bin/vilab is version 0.0.9"), "{error}");
        assert!(check(program, "").unwrap_err().to_string().contains("is no vilab"));
    }
}
