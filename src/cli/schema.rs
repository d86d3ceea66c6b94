//! `vilab schema`. Nothing goes in; the JSON Schema of the files that vilab reads comes out, for editors. It never looks at a
//! file.

use super::{DONE, output};
use crate::error::Result;
use crate::spec::schema;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  vilab schema > lab.schema.json

  Editors with the YAML language server complete and check a lab that begins with
  # yaml-language-server: $schema=lab.schema.json")]
pub(super) struct Args {
    /// Of a file of expectations (`vilab test --expect`), instead of a lab's
    #[arg(long)]
    expectations: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    output::json(&if args.expectations { schema::expectations() } else { schema::lab() })?;
    Ok(DONE)
}
