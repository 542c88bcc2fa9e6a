//! `completions`: the script that teaches a shell our commands and options.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn completions bash > ~/.local/share/bash-completion/completions/bitnet-burn
  bitnet-burn completions zsh > ~/.zfunc/_bitnet-burn          # a folder in $fpath
  bitnet-burn completions fish > ~/.config/fish/completions/bitnet-burn.fish
  bitnet-burn completions powershell >> $PROFILE";

/// Print a completion script for your shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        let mut command = Cli::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        terminal::out().write_all(&script)?;
        Ok(())
    }
}
