//! `data inspect`: what prepared data holds, checked to the last byte, with one document to read.

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use bitnet_burn::models::tokenizer::Tokenizer;
use bitnet_burn::train::data::shards::{Index, Split, TRAIN, TokenData, Tokens, VALIDATION};
use clap::Args;
use serde_json::json;

use super::super::terminal::{self, Table};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn data inspect data
  bitnet-burn data inspect data --split validation --sample 7
  bitnet-burn data inspect data --json | jq .train.tokens

Every shard is checked. In the document that is shown, ⟦ and ⟧ enclose what is learned, if that is
not all of it.";

/// Print what prepared data holds, and check it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Inspect {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The split to show a document of: train or validation
    #[arg(long, value_name = "NAME", default_value = TRAIN)]
    split: String,
    /// Which document to show, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    sample: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let data = TokenData::open(&self.folder)?;
        let tokens = data.split(&self.split)?;
        for other in [TRAIN, VALIDATION]
            .iter()
            .filter(|name| **name != self.split)
        {
            data.split(other)?;
        }
        ensure!(
            self.sample < tokens.documents(),
            "--sample {}: {} has {} documents, counted from 0",
            self.sample,
            self.split,
            tokens.documents()
        );
        let bundle = data.tokenizer()?;
        let sample = shown(&tokens, self.sample, bundle.tokenizer())?;
        let mut out = terminal::out();
        let index = data.index();
        if self.json {
            let mut object = serde_json::to_value(index)?;
            object["sample"] = json!(sample);
            writeln!(out, "{object}")?;
            return Ok(());
        }
        write!(out, "{}", table(index))?;
        let split = match index.split {
            Split::Samples { fraction, seed } => {
                format!("{fraction} of the samples for validation, seed {seed}")
            }
            Split::Tail { fraction } => format!("the last {fraction} for validation"),
        };
        let facts = [
            ("sources", index.sources.clone()),
            ("split", split),
            ("vocabulary", format!("{} tokens", index.vocab_size)),
            (
                "tokenizer",
                format!("SHA-256 {:.12}…", index.tokenizer_sha256),
            ),
        ];
        for (name, fact) in facts {
            writeln!(out, "{name:11} {fact}")?;
        }
        let ids = tokens.document(self.sample);
        let count = ids.end - ids.start;
        writeln!(
            out,
            "\n{} document {}, {count} tokens:\n{sample}",
            self.split, self.sample
        )?;
        Ok(())
    }
}

/// The splits in columns.
pub(super) fn table(index: &Index) -> Table {
    let mut table = Table::new(["split", "tokens", "learned", "documents", "shards"]);
    for (name, split) in [(TRAIN, &index.train), (VALIDATION, &index.validation)] {
        table.push([
            name.to_owned(),
            split.tokens.to_string(),
            split.learned.to_string(),
            split.documents.to_string(),
            split.shards.len().to_string(),
        ]);
    }
    table
}

/// A document as text, with marks around what is learned.
fn shown(tokens: &Tokens, number: u64, tokenizer: &Tokenizer) -> anyhow::Result<String> {
    let (mut ids, mut learned) = (Vec::new(), Vec::new());
    tokens.read(tokens.document(number), &mut ids, &mut learned);
    let all = learned.iter().all(|&learned| learned);
    let mut text = String::new();
    let mut at = 0;
    for run in learned.chunk_by(|one, other| one == other) {
        let ids: Vec<u32> = ids[at..at + run.len()]
            .iter()
            .map(|&id| id as u32)
            .collect();
        at += run.len();
        let part = tokenizer.decode(&ids, false)?;
        text += &match run[0] && !all {
            true => format!("⟦{part}⟧"),
            false => part,
        };
    }
    Ok(text)
}
