//! `eval`: how well a model predicts a text (perplexity), and how often it prefers the right choice.
//!
//! The windows of a long text and the log-probabilities are the library's; this file reads, compares and prints. A choice
//! is scored by the log-probability of its tokens after the context, as a sum and for each byte of the choice. After
//! Ctrl-C the result so far is printed, marked as partial.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use bitnet_burn::models::Model;
use bitnet_burn::models::generation::{Likelihood, Windows};
use bitnet_burn::models::tokenizer::Special;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::interrupt::{self, Interrupted};
use super::model::ModelArgs;
use super::{Options, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn eval --text README.md                                   Random tiny weights: shows that it works
  bitnet-burn eval -m owner/name --text wikitext.txt --context 2048
  bitnet-burn eval -m owner/name --text wikitext.txt --stride 512      Each token after many others; takes longer
  bitnet-burn eval -m model.gguf --choices questions.jsonl --json

Perplexity: the text is cut into windows. Without --stride they do not overlap, and the first token of each, which has
nothing before it, is not scored. With it they do, and each token is scored once, by the first window that holds it.
Bits per byte are the mean bits of a scored token times the tokens of the text per byte.
Choices: a line is {\"question\": TEXT, \"choices\": [TEXT, ...], \"answer\": INDEX}; `context` may stand for `question`. A
space is put between the two where there is none.
Ctrl-C ends the measurement; the result so far is printed as partial, and the exit code is 130.";

/// Measure perplexity, or accuracy at multiple choice
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("data").required(true).args(["text", "choices"]))]
pub(crate) struct Eval {
    /// A text whose perplexity to measure
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Multiple-choice questions, a JSON object a line
    #[arg(long, value_name = "FILE")]
    choices: Option<PathBuf>,
    /// With --text: tokens of a window [default: the model's context]
    #[arg(long, value_name = "N", requires = "text")]
    context: Option<usize>,
    /// With --text: tokens from the beginning of one window to that of the next [default: --context]
    #[arg(long, value_name = "N", requires = "text")]
    stride: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// One question of a file.
#[derive(Debug, Deserialize)]
struct Question {
    #[serde(alias = "question")]
    context: String,
    choices: Vec<String>,
    answer: usize,
}

impl Eval {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let measured = match (&self.text, &self.choices) {
            (Some(path), _) => {
                let text = read(path)?;
                let (model, _) = self.model.load(options)?;
                let windows = self.windows(model.decoder().config().max_positions)?;
                perplexity(&model, &text, windows, interrupt::flag()?, options.quiet)?
            }
            (None, Some(path)) => {
                let questions = questions(path)?;
                let (model, _) = self.model.load(options)?;
                accuracy(&model, &questions, interrupt::flag()?, options.quiet)?
            }
            (None, None) => bail!("nothing to measure: give --text FILE or --choices FILE"),
        };
        let partial = measured.partial;
        measured.print(self.json)?;
        match partial {
            true => Err(Interrupted.into()),
            false => Ok(()),
        }
    }

    fn windows(&self, most: usize) -> anyhow::Result<Windows> {
        let size = self.context.unwrap_or(most);
        ensure!(
            (2..=most).contains(&size),
            "--context {size}: expected 2 to {most} tokens, which the model was made for"
        );
        Ok(Windows::new(size, self.stride.unwrap_or(size))?)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))
}

fn questions(path: &Path) -> anyhow::Result<Vec<Question>> {
    let text = read(path)?;
    let lines = text.lines().enumerate();
    let questions: Vec<Question> = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(at, line)| {
            let place = || format!("{}: line {}", path.display(), at + 1);
            let question: Question = serde_json::from_str(line).with_context(place)?;
            let count = question.choices.len();
            ensure!(
                question.answer < count,
                "{}: answer {}, expected an index below the {count} choices, counted from 0",
                place(),
                question.answer
            );
            ensure!(
                question.choices.iter().all(|choice| !choice.is_empty()),
                "{}: an empty choice cannot be scored",
                place()
            );
            Ok(question)
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(!questions.is_empty(), "{}: no questions", path.display());
    Ok(questions)
}

/// What was measured, in the order of printing, and whether Ctrl-C came before the end.
#[derive(Debug)]
struct Measured {
    partial: bool,
    values: Vec<(&'static str, Value)>,
}

impl Measured {
    fn print(self, as_json: bool) -> anyhow::Result<()> {
        let mut out = terminal::out();
        if as_json {
            let partial = ("partial", Value::Bool(self.partial));
            let all = [partial].into_iter().chain(self.values);
            let object = all.map(|(name, value)| (name.to_owned(), value)).collect();
            writeln!(out, "{}", Value::Object(object))?;
            return Ok(());
        }
        if self.partial {
            writeln!(out, "PARTIAL: interrupted, of what was scored until then")?;
        }
        for (name, value) in self.values {
            match value.as_f64().filter(|_| value.is_f64()) {
                Some(value) => writeln!(out, "{:22} {value:.4}", name.replace('_', " "))?,
                None => writeln!(out, "{:22} {value}", name.replace('_', " "))?,
            }
        }
        Ok(())
    }
}

/// Perplexity and bits per byte of the windows until `stop`.
fn perplexity(
    model: &Model,
    text: &str,
    windows: Windows,
    stop: &AtomicBool,
    quiet: bool,
) -> anyhow::Result<Measured> {
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode(text, Special::AsText)?;
    let per_byte = tokens.len() as f64 / text.len() as f64;
    let ids = tokenizer.begun(tokens);
    let count = windows.over(ids.len()).count();
    ensure!(
        count > 0,
        "the text has {} tokens, expected at least 2",
        ids.len()
    );
    let bar = terminal::rows_bar("windows", count as u64, quiet);
    let mut sum = Likelihood::default();
    let mut done = 0;
    let mut scores = model.score_windows(&ids, windows)?;
    while !stop.load(Ordering::Relaxed)
        && let Some(scores) = scores.next()
    {
        sum.extend(scores?);
        done += 1;
        bar.inc(1);
        log::debug!(
            "window {done} of {count}: perplexity {:.4} so far",
            sum.perplexity()
        );
    }
    bar.finish_and_clear();
    if done == 0 {
        return Err(nothing());
    }
    let values = vec![
        ("tokens", json!(ids.len())),
        ("scored_tokens", json!(sum.tokens)),
        ("window", json!(windows.size())),
        ("stride", json!(windows.stride())),
        ("perplexity", json!(sum.perplexity())),
        ("bits_per_byte", json!(sum.bits_per_token() * per_byte)),
    ];
    Ok(Measured {
        partial: done < count,
        values,
    })
}

/// How often the right choice is the most likely one, of the questions until `stop`.
fn accuracy(
    model: &Model,
    questions: &[Question],
    stop: &AtomicBool,
    quiet: bool,
) -> anyhow::Result<Measured> {
    let count = questions.len();
    let bar = terminal::rows_bar("questions", count as u64, quiet);
    let (mut done, mut by_sum, mut by_byte) = (0usize, 0usize, 0usize);
    let mut left = questions.iter();
    while !stop.load(Ordering::Relaxed)
        && let Some(question) = left.next()
    {
        let sums = question
            .choices
            .iter()
            .map(|choice| likelihood(model, &question.context, choice))
            .collect::<anyhow::Result<Vec<f64>>>()
            .with_context(|| format!("question {}", done + 1))?;
        let lengths = question.choices.iter().map(String::len);
        let means: Vec<f64> = sums
            .iter()
            .zip(lengths)
            .map(|(sum, len)| sum / len as f64)
            .collect();
        by_sum += usize::from(best(&sums) == question.answer);
        by_byte += usize::from(best(&means) == question.answer);
        done += 1;
        bar.inc(1);
        log::debug!("question {done} of {count}: {by_sum} right so far");
    }
    bar.finish_and_clear();
    if done == 0 {
        return Err(nothing());
    }
    let values = vec![
        ("questions", json!(count)),
        ("scored_questions", json!(done)),
        ("accuracy", json!(by_sum as f64 / done as f64)),
        ("accuracy_per_byte", json!(by_byte as f64 / done as f64)),
    ];
    Ok(Measured {
        partial: done < count,
        values,
    })
}

fn nothing() -> anyhow::Error {
    anyhow::Error::new(Interrupted).context("stopped before anything was scored")
}

/// The first of the greatest.
fn best(values: &[f64]) -> usize {
    let mut best = 0;
    for (at, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = at;
        }
    }
    best
}

/// Log-probability of `choice` after `context`, with a space between the two where there is none.
fn likelihood(model: &Model, context: &str, choice: &str) -> anyhow::Result<f64> {
    let joined = context.is_empty()
        || context.ends_with(char::is_whitespace)
        || choice.starts_with(char::is_whitespace);
    let space = if joined { "" } else { " " };
    let likelihood = model.likelihood_after(context, &format!("{space}{choice}"))?;
    Ok(likelihood.logprob)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_choices_wins() {
        assert_eq!(best(&[-3.0, -1.0, -1.0]), 1);
    }
}
