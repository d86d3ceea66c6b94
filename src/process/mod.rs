//! Child processes. A command, what to feed it and a deadline go in; its output or an error that quotes its
//! standard error comes out. It never leaves a child behind unreaped.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Kind, Result};

/// This program itself, as `argv0` in ps(1), whatever has become of its file in the meantime.
#[must_use]
pub fn myself(argv0: &str, subcommand: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(argv0).arg(subcommand);
    command
}

/// Runs `command` with `input` on its standard input and gives its standard output.
///
/// # Errors
/// If it cannot be run, or fails: its standard error is the cause.
pub fn feed(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = output(command, input).map_err(|e| spawn_error(&name, &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let error = Error::new(Kind::Kernel, format!("{name} failed: {}", output.status));
    Err(if said.is_empty() { error } else { error.because(said) })
}

fn output(command: &mut Command, input: &str) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends early breaks the pipe; its status and standard error tell more than EPIPE.
        let _broken_pipe = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

fn spawn_error(name: &str, e: &std::io::Error) -> Error {
    let error = Error::environment(format!("cannot run {name}")).because(e);
    if e.kind() == std::io::ErrorKind::NotFound {
        error.hint(format!("install {name}; `vilab doctor` names the command"))
    } else {
        error
    }
}

/// Whether `program` is in PATH.
#[must_use]
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([Path::new("/usr/sbin").into(), Path::new("/sbin").into()]).any(
        |dir| {
            let file = dir.join(program);
            nix::unistd::access(&file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_the_cause() {
        let error = feed(Command::new("sh").args(["-c", "cat >&2; exit 3"]), "no such table").unwrap_err();
        assert_eq!(error.causes(), ["no such table"]);
    }

    #[test]
    fn a_missing_program_is_the_environments_fault() {
        let error = feed(&mut Command::new("no-such-program-here"), "").unwrap_err();
        assert_eq!(error.kind(), Kind::Environment);
    }

    #[test]
    fn output_is_returned() {
        assert_eq!(feed(&mut Command::new("cat"), "words").unwrap(), "words");
    }
}
