//! `-D name=value` of every command that reads a lab file. Words go in; values for the lab's parameters come out. It
//! never knows which parameters there are.

use crate::model::Given;

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ParamArgs {
    /// A value for a parameter of the lab, as YAML: -D depth=3, -D 'place=[X, Y]'
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = given)]
    pub(super) params: Vec<Given>,
}

fn given(word: &str) -> Result<Given, String> {
    let (name, value) = word.split_once('=').ok_or("it must look like name=value")?;
    Ok(Given { name: name.trim().to_owned(), value: value.to_owned() })
}
