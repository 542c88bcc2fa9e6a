//! The program `bitnet-burn`: parse, run, exit code.
//!
//! 0 means done, 1 failed, 2 wrong usage, 130 interrupted. Answers go to stdout, everything else to stderr, so
//! that pipes carry answers alone; a reader that leaves early (`| head`) is no failure.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::interrupt::Interrupted;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(shown) => {
            // Help and version come this way too. Nobody is left to tell if they cannot be printed.
            let _ = shown.print();
            return ExitCode::from(if shown.use_stderr() { 2 } else { 0 });
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if cli::terminal::reader_is_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            cli::terminal::report(&error);
            match error.is::<Interrupted>() {
                true => ExitCode::from(130),
                false => ExitCode::FAILURE,
            }
        }
    }
}
