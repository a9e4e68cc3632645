//! `ireko completions`.

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;

/// Print a completion script for a shell
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn execute(mut grammar: clap::Command, args: &Args) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut grammar, "ireko", &mut script);
    let script = String::from_utf8(script)
        .map_err(|error| Error::local("write the completion script").because(error))?;
    output::print(script)?;
    Ok(Exit::SUCCESS)
}
