//! `batch`: answers many prompts, several at a time, into a file that an interrupted run goes on with.
//!
//! What a row gets does not depend on the rows beside it: draws are numbered by row, and a row whose context is full ends
//! alone, as does one that cannot be encoded.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bitnet_burn::models::chat::Message;
use bitnet_burn::models::generation::StopReason;
use bitnet_burn::models::{GenerateOptions, Model, Text};
use clap::Args;

use super::model::{GenerateArgs, ModelArgs};
use super::rows::{self, Kind, Output, Prompt, Row};
use super::{Options, interrupt};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn batch questions.jsonl -o answers.jsonl                  Random tiny weights: shows that it works
  bitnet-burn batch prompts.txt -m model.gguf -n 32 > answers.txt
  bitnet-burn batch table.csv -m owner/name -o answers.csv --batch-size 8
  bitnet-burn batch table.csv -m owner/name -o answers.csv --retry-failed

A row is a line of text, a JSON object with `prompt` or `messages`, or a CSV record with a column `prompt`. The same
command again goes on where it stopped; what a row gets depends neither on --batch-size nor on the rows beside it.
Ctrl-C finishes the rows that are being answered, a second one leaves them out; the exit code is 130.";

/// Answer many prompts from a file
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Batch {
    /// The prompts: a .txt, .jsonl or .csv file; `-` is standard input
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    /// The answers, in the format of the ending; without it, standard output in the format of the input
    #[arg(long, short, value_name = "OUTPUT")]
    output: Option<PathBuf>,
    /// Format of the input, where its name does not tell
    #[arg(long, value_name = "KIND")]
    input_format: Option<Kind>,
    /// Rows computed at once: more are faster together and take more memory
    #[arg(long, value_name = "N", default_value = "4")]
    batch_size: NonZeroUsize,
    /// Answer rows again that failed in an earlier run
    #[arg(long, requires = "output")]
    retry_failed: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    generate: GenerateArgs,
}

impl Batch {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let rows = rows::read(&self.input, self.input_format)?;
        let mut output = match self
            .output
            .as_deref()
            .filter(|path| *path != Path::new("-"))
        {
            Some(path) => Output::file(path, &rows, Kind::of(path)?, self.retry_failed)?,
            None => Output::stdout(&rows, rows.kind)?,
        };
        let (model, _) = self.model.load(options)?;
        let generate = self.generate.options(&model)?;
        // A setting that makes no sense would fail in every row.
        model.session(1, 1, &generate)?;
        let stop = interrupt::flag()?;
        rows::answer(
            &rows,
            &mut output,
            self.batch_size,
            stop,
            options.quiet,
            |rows| answer(&model, &generate, rows),
        )
    }
}

/// An answer for each row; rows that cannot be encoded do not keep the others from theirs.
fn answer(model: &Model, options: &GenerateOptions, rows: &[&Row]) -> Vec<anyhow::Result<String>> {
    let prompts: Vec<anyhow::Result<Vec<u32>>> =
        rows.iter().map(|row| encode(model, options, row)).collect();
    let good = rows.iter().zip(&prompts);
    let good =
        good.filter_map(|(row, ids)| Some((row.number as u64, ids.as_ref().ok()?.as_slice())));
    let (numbers, ids): (Vec<u64>, Vec<&[u32]>) = good.unzip();
    let mut texts = vec![String::new(); ids.len()];
    let outcome = match ids.is_empty() {
        true => Ok(()),
        false => generate(model, options, &numbers, &ids, &mut texts),
    };
    let error = outcome.err().map(|error| format!("{error:#}"));
    let mut texts = texts.into_iter();
    let answer = |prompt: anyhow::Result<Vec<u32>>| {
        prompt?;
        let text = texts.next().context("a text for each prompt")?;
        match &error {
            Some(error) => bail!("{error}"),
            None => Ok(text),
        }
    };
    prompts.into_iter().map(answer).collect()
}

fn encode(model: &Model, options: &GenerateOptions, row: &Row) -> anyhow::Result<Vec<u32>> {
    let ids = match &row.prompt {
        Ok(Prompt::Text(text)) => model.encode(text)?,
        Ok(Prompt::Messages(messages)) => {
            let messages: Vec<Message> = messages
                .iter()
                .map(|message| {
                    let text = |name: &str| {
                        let text = message[name].as_str().map(str::to_owned);
                        text.with_context(|| format!("`{name}` of a message: expected a text"))
                    };
                    Ok(Message::new(text("role")?, text("content")?))
                })
                .collect::<anyhow::Result<_>>()?;
            model.encode_chat(&messages)?
        }
        Err(error) => bail!("{error}"),
    };
    if ids.is_empty() {
        bail!("the prompt has no tokens, expected at least one");
    }
    options.context_for(model.decoder().config(), ids.len())?;
    Ok(ids)
}

/// Writes what continues each of `prompts` into `texts`.
fn generate(
    model: &Model,
    options: &GenerateOptions,
    numbers: &[u64],
    prompts: &[&[u32]],
    texts: &mut [String],
) -> anyhow::Result<()> {
    let longest = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let capacity = options
        .context_for(model.decoder().config(), longest)?
        .capacity;
    let mut session = model.session(prompts.len(), longest, options)?;
    let generation = model.generate(&mut session, prompts, options)?;
    let mut generation = generation.with_sequences(numbers.iter().copied());
    let tokenizer = model.tokenizer()?;
    let mut streams = prompts
        .iter()
        .map(|_| Ok(Text::new(tokenizer, &options.stop)?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut lengths: Vec<usize> = prompts.iter().map(|ids| ids.len()).collect();
    while let Some(token) = generation.next() {
        let mut token = token?;
        let row = token.row;
        lengths[row] += 1;
        // The last token has no room in the cache, so the row can have no other.
        let full = lengths[row] > capacity && options.sinks.is_none() && token.stop.is_none();
        if full {
            log::warn!(
                "row {}: the context of {capacity} tokens is full; its text ends there",
                numbers[row]
            );
            token.stop = Some(StopReason::MaxNewTokens);
        }
        let (piece, stopped) = streams[row].push(&token)?;
        texts[row].push_str(&piece);
        if stopped || full {
            generation.stop(row);
        }
    }
    Ok(())
}
