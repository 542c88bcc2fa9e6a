//! `data prepare`: sources and a tokenizer to a folder of token shards.
//!
//! The tokenizer is learned from the same sources, collected from their characters, or that of an existing model.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use bitnet_burn::train::data::shards::{self, BuildOptions, Split};
use bitnet_burn::train::data::sources::{Source, Sources};
use bitnet_burn::train::data::tokenizer::{Bpe, Characters, TOKENIZER, TokenizerBundle};
use clap::Args;

use super::super::{hub, terminal};
use super::inspect;

const EXAMPLES: &str = "\
Examples:
  bitnet-burn data prepare stories:20000 dialogues:5000 -o data --vocab-size 2048
  bitnet-burn data prepare shakespeare.txt -o data --characters --tail --validation 0.1
  bitnet-burn data prepare tiny.txt -o data --separator '<|endoftext|>' --vocab-size 4096
  bitnet-burn data prepare chat.jsonl -o data --tokenizer owner/name --skip-bad

Sources, as many as you like:
  FILE.jsonl        an object a line: `text`, `messages` (with role and content), or `input_ids`
                    with `labels` (-100 is not learned) or `mask`; of conversations, what the
                    assistant says is learned
  any other FILE    text: one document, or several with --separator, which large files need
  stories:N[:SEED]  N built-in stories; questions:N adds questions, dialogues:N are conversations

The folder then holds the tokenizer, the shards and data.json. The same sources and options give
the same bytes. A vocabulary is learned from the first 2 GiB of text.";

/// Turn texts and conversations into token shards
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("ids").required(true).args(["vocab_size", "tokenizer", "characters"]))]
pub(super) struct Prepare {
    /// Files, or built-in stories as stories:N, questions:N or dialogues:N
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<Source>,
    /// The folder to write
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Learn a tokenizer of N tokens (byte-level BPE) from the sources
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// Take the tokenizer of a model: a folder, its tokenizer.json, or owner/name of a downloaded one
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    /// Take one token for each character that occurs
    #[arg(long)]
    characters: bool,
    /// What part is for validation, from 0 to below 1
    #[arg(long, value_name = "FRACTION", default_value_t = 0.01)]
    validation: f64,
    /// Validate with the end of the sources instead of samples from everywhere
    #[arg(long)]
    tail: bool,
    /// Which samples are for validation: another seed, others
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "tail")]
    seed: u64,
    /// What stands between the documents of text files; \n is a line break
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,
    /// Leave out lines that cannot be read, and count them
    #[arg(long)]
    skip_bad: bool,
    /// Replace prepared data that is in the folder
    #[arg(long)]
    force: bool,
}

impl Prepare {
    pub(super) fn run(self, quiet: bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        let separator = self
            .separator
            .as_ref()
            .map(|text| text.replace("\\n", "\n"));
        ensure!(
            separator.as_deref() != Some(""),
            "--separator is empty: expected a text, such as '<|endoftext|>'"
        );
        let separated = |source| match source {
            Source::Text { path, .. } => Source::Text {
                path,
                separator: separator.clone(),
            },
            other => other,
        };
        let list = self.sources.iter().cloned().map(separated).collect();
        let sources = Sources::new(list).with_skip_bad(self.skip_bad);
        let bundle = self.bundle(&sources, quiet)?;

        let fraction = self.validation;
        let split = if self.tail {
            Split::Tail { fraction }
        } else {
            let seed = self.seed;
            Split::Samples { fraction, seed }
        };
        let options = BuildOptions::default()
            .with_split(split)
            .with_overwrite(self.force);
        let bar = terminal::count_bar("tokens", quiet);
        let built = shards::build(&sources, &bundle, &self.output, &options, |progress| {
            bar.set_position(progress.tokens);
        });
        bar.finish_and_clear();
        let index = built.with_context(|| format!("cannot prepare {}", self.output.display()))?;
        if sources.skipped() > 0 {
            log::warn!("{} lines were left out", sources.skipped());
        }
        let mut out = terminal::out();
        write!(out, "{}", inspect::table(&index))?;
        let seconds = begun.elapsed().as_secs_f64();
        writeln!(
            out,
            "{}: {} tokens in the vocabulary, {seconds:.1} s",
            self.output.display(),
            index.vocab_size
        )?;
        Ok(())
    }

    fn bundle(&self, sources: &Sources, quiet: bool) -> anyhow::Result<TokenizerBundle> {
        if let Some(model) = &self.tokenizer {
            let path = hub::resolve(model)?;
            let folder = match path.file_name() {
                Some(name) if name == TOKENIZER => {
                    path.parent().map_or(Path::new("."), |parent| parent)
                }
                _ => &path,
            };
            // The parent of a bare file name is empty.
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            return Ok(TokenizerBundle::load(folder)?);
        }
        let Some(vocab_size) = self.vocab_size else {
            return Ok(Characters::train(sources)?);
        };
        let bar = terminal::count_bar("learning the vocabulary", quiet);
        let bundle = Bpe::new(vocab_size)?.train(sources);
        bar.finish_and_clear();
        let bundle = bundle?;
        let learned = bundle.tokenizer().vocab_size();
        if learned < vocab_size {
            log::warn!("the sources have words for {learned} tokens only, not for {vocab_size}");
        }
        Ok(bundle)
    }
}
