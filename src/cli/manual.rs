//! `vilab completions` and `vilab man`. The command line as clap knows it goes in; scripts for shells and manual pages come
//! out. They never say anything that `--help` does not.

use std::path::{Path, PathBuf};

use clap_complete::Shell;

use super::{DONE, output};
use crate::error::{Context as _, Kind, Result};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  source <(vilab completions bash)\n  vilab completions fish > ~/.config/fish/completions/vilab.fish"
)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab man ~/.local/share/man/man1 && man vilab-up")]
pub(super) struct ManArgs {
    /// The directory to write to; it is made where it is not there
    dir: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs, command: &mut clap::Command) -> Result<u8> {
    output::line(completion_text(args.shell, command).trim_end());
    Ok(DONE)
}

pub(super) fn completion_text(shell: Shell, command: &mut clap::Command) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, command, "vilab", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) fn man(args: &ManArgs, command: clap::Command) -> Result<u8> {
    write_pages(&args.dir, command)?;
    Ok(DONE)
}

/// `vilab.1`, and `vilab-up.1` and so on.
pub(super) fn write_pages(dir: &Path, command: clap::Command) -> Result<()> {
    let what = || format!("cannot write manual pages to {}", dir.display());
    std::fs::create_dir_all(dir).doing(Kind::Environment, what)?;
    clap_mangen::generate_to(command, dir).doing(Kind::Environment, what)
}
