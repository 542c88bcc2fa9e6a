//! `embed`: unit vectors for texts, from arguments, a file or stdin, and how alike they are.
//!
//! Texts are embedded a few at a time, and each line is printed as soon as it is known.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::model::ModelArgs;
use super::{Options, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn embed \"a red apple\" \"a green pear\"                      Random tiny weights: shows that it works
  bitnet-burn embed -m owner/name --file texts.txt --json > vectors.jsonl
  bitnet-burn embed -m owner/name --similarity \"a cat\" \"a kitten\" \"a car\"
  cat texts.txt | bitnet-burn embed -m owner/name";

/// Texts embedded at once.
const BATCH: usize = 8;

/// Turn texts into vectors of length 1
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Embed {
    /// The texts; without them, the lines of --file or of standard input
    #[arg(value_name = "TEXT", conflicts_with = "file")]
    texts: Vec<String>,
    /// A file with a text on each line; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print objects with text and embedding instead of arrays
    #[arg(long)]
    json: bool,
    /// Print the cosine of every text with every other instead of the vectors
    #[arg(long, conflicts_with = "json")]
    similarity: bool,
    #[command(flatten)]
    model: ModelArgs,
}

impl Embed {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let texts = self.read()?;
        let (model, _) = self.model.load(options)?;
        let bar = terminal::rows_bar("texts", texts.len() as u64, options.quiet);
        let mut vectors = Vec::new();
        let mut out = terminal::out();
        for batch in texts.chunks(BATCH) {
            let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
            let embeddings = model.embed(&batch)?;
            bar.inc(batch.len() as u64);
            if self.similarity {
                vectors.extend(embeddings);
                continue;
            }
            for (text, embedding) in batch.iter().zip(embeddings) {
                if self.json {
                    writeln!(out, "{}", json!({"text": text, "embedding": embedding}))?;
                } else {
                    writeln!(out, "{}", json!(embedding))?;
                }
            }
            out.flush()?;
        }
        bar.finish_and_clear();
        for row in &vectors {
            let cosines: Vec<String> = vectors
                .iter()
                .map(|column| format!("{:7.4}", cosine(row, column)))
                .collect();
            writeln!(out, "{}", cosines.join(" "))?;
        }
        Ok(())
    }

    fn read(&self) -> anyhow::Result<Vec<String>> {
        if !self.texts.is_empty() {
            return Ok(self.texts.clone());
        }
        let lines: Vec<String> = match &self.file {
            Some(path) if path.as_os_str() != "-" => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the texts from {}", path.display()))?
                .lines()
                .map(str::to_owned)
                .collect(),
            from => {
                let stdin = std::io::stdin();
                if from.is_none() && stdin.is_terminal() {
                    bail!("no texts: give them as arguments, with --file FILE, or pipe lines in");
                }
                let lines: Result<_, _> = stdin.lock().lines().collect();
                lines.context("cannot read the texts from standard input")?
            }
        };
        let texts: Vec<String> = lines
            .into_iter()
            .filter(|line| !line.trim().is_empty())
            .collect();
        if texts.is_empty() {
            bail!("no texts: every line is empty");
        }
        Ok(texts)
    }
}

/// The cosine of unit vectors.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}
