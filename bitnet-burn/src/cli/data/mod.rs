//! `data`: texts and conversations become what training reads; and a corpus for those who have none.

mod generate;
mod inspect;
mod prepare;

use clap::{Args, Subcommand};

use super::Options;

const EXAMPLES: &str = "\
Examples:
  bitnet-burn data generate 3                                        Read three stories
  bitnet-burn data prepare stories:20000 -o data --vocab-size 2048   No download needed
  bitnet-burn data prepare shakespeare.txt -o data --characters --tail --validation 0.1
  bitnet-burn data prepare chat.jsonl -o data --tokenizer owner/name   For an existing model
  bitnet-burn data inspect data                                      What is in it?";

/// Prepare, inspect and generate training data
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Data {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Prepare(prepare::Prepare),
    Inspect(inspect::Inspect),
    Generate(generate::Generate),
}

impl Data {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        match self.action {
            Action::Prepare(prepare) => prepare.run(options.quiet),
            Action::Inspect(inspect) => inspect.run(),
            Action::Generate(generate) => generate.run(),
        }
    }
}
