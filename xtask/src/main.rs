//! Chores of this repository, run as `cargo xtask CHORE`.
#![forbid(unsafe_code)]

mod rooms;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask rooms    checks which of our crates depend on which";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["rooms"] => rooms::check_workspace(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}
