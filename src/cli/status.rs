//! `vilab status`. A lab's name, or nothing, goes in; what is up comes out. It never changes anything.

use serde_json::json;

use super::table::table;
use super::{DONE, output};
use crate::error::Result;
use crate::lab::Running;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab status first")]
pub(super) struct Args {
    /// The lab to show in detail
    lab: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    list(args.json)?;
    Ok(DONE)
}

fn list(as_json: bool) -> Result<()> {
    let labs = Running::list()?;
    if as_json {
        let labs: Vec<_> = labs.iter().map(|l| json!({
            "name": l.name(), "nodes": l.state().lab.nodes().count(), "created": l.state().created, "file": l.state().file,
            "init": l.state().init, "watcher": l.state().watcher,
        })).collect();
        return output::json(&json!({ "schema": "vilab.labs/1", "labs": labs }));
    }
    let rows: Vec<_> = labs
        .iter()
        .map(|l| {
            let s = l.state();
            vec![
                l.name().to_owned(),
                s.lab.nodes().count().to_string(),
                s.created.clone(),
                s.file.display().to_string(),
            ]
        })
        .collect();
    table(&["lab", "nodes", "up since", "file"], &rows).iter().for_each(|l| output::line(l));
    Ok(())
}
