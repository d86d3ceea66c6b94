//! One page of the documentation goes in, and what its commands printed and ended with comes out: they run in one shell, in
//! a directory with copies of the labs and labs of their own. It never judges what they printed.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common;
use crate::page::{Kind, Page, Step};

/// A page takes longer only where something hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) step: Step,
    /// `None` where the shell did not come so far.
    pub(crate) status: Option<i32>,
    pub(crate) printed: String,
}

/// Runs the commands of a page in order, and takes down what they left up.
pub(crate) fn run(page: &Page) -> Result<Vec<Done>, String> {
    let home = tempfile::tempdir().expect("a directory for the page");
    let kept = home.path().join(".docs");
    let work = home.path().join("work");
    for dir in [&kept, &work, &home.path().join("bin"), &home.path().join("run")] {
        fs::create_dir(dir).expect("a directory");
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vilab"), home.path().join("bin/vilab")).expect("a link");
    common::run(Command::new("cp").args(["-r", "labs", "docs", "fixtures"]).arg(&work));

    let mut script = format!("cd {}\n", work.display());
    let mut steps = Vec::new();
    for block in &page.blocks {
        match block.kind() {
            Kind::File(name) => {
                let copy = kept.join(format!("{}.{}", block.body.start, name));
                fs::write(&copy, page.text(block.body.clone()) + "\n").expect("a file of the page");
                writeln!(script, "cp {} {name}", copy.display()).expect("a line");
            }
            Kind::Run => {
                for step in page.steps(block)? {
                    let place = kept.join(steps.len().to_string());
                    fs::write(&place, step.command.clone() + "\n").expect("a command");
                    let place = place.display();
                    writeln!(script, ". {place} >{place}.out 2>&1\necho $? >{place}.status").expect("lines");
                    steps.push(step);
                }
            }
            Kind::NotRun | Kind::Other => {}
        }
    }
    let whole = kept.join("script");
    fs::write(&whole, script).expect("the script");
    let shell = command(home.path(), "bash").arg(&whole).process_group(0).spawn().expect("bash");
    let ended = wait(shell);
    let down = command(home.path(), "vilab").args(["down", "--all"]).output().expect("vilab");
    let read = |at: usize, what: &str| fs::read(kept.join(format!("{at}.{what}"))).unwrap_or_default();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let done = steps.into_iter().enumerate().map(|(at, step)| Done {
        step,
        status: text(read(at, "status")).trim().parse().ok(),
        printed: text(read(at, "out")),
    });
    let done = done.collect();
    if !ended {
        return Err(format!("{}: its commands do not end: {done:#?}", page.name));
    }
    if !down.status.success() {
        return Err(format!("{}: a lab does not go down: {}", page.name, text(down.stderr)));
    }
    Ok(done)
}

fn command(home: &Path, program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let program = if program == "vilab" { home.join("bin/vilab") } else { program.into() };
    let mut command = Command::new(program);
    command
        .env("PATH", format!("{}:{path}", home.join("bin").display()))
        .env("VILAB_RUNTIME_DIR", home.join("run"))
        // Outputs are the same wherever this runs; that labs work on both dataplanes is shown elsewhere.
        .env("VILAB_DATAPLANE", "fastpath")
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("COLUMNS", "100")
        .env_remove("VILAB_LAB")
        .env_remove("GITHUB_STEP_SUMMARY")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Whether the shell ended by itself; if not, all that it started is killed.
fn wait(mut shell: Child) -> bool {
    let start = Instant::now();
    loop {
        if shell.try_wait().expect("the shell's status").is_some() {
            return true;
        }
        if start.elapsed() > PATIENCE {
            let group = nix::unistd::Pid::from_raw(i32::try_from(shell.id()).expect("a process id"));
            let _killed = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ended = shell.wait();
            return false;
        }
        common::bench::pause(Duration::from_millis(20));
    }
}
