//! `eval`: how well a model predicts a text (perplexity), and how often it prefers the right choice.
//!
//! Perplexity is over non-overlapping windows, the first token of each unscored. A choice is scored by the
//! log-probability of its tokens after the context, as a sum and for each byte of the choice.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, bail, ensure};
use bitnet_burn::models::Model;
use bitnet_burn::models::tokenizer::Special;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::model::ModelArgs;
use super::{Options, interrupt, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn eval --text README.md                                   Random tiny weights: shows that it works
  bitnet-burn eval -m owner/name --text wikitext.txt --context 2048
  bitnet-burn eval -m model.gguf --choices questions.jsonl --json

Perplexity: the text is cut into windows that do not overlap; the first token of each has nothing before it and is not
scored. Bits per byte are the mean bits of a scored token times the tokens of the text per byte.
Choices: a line is {\"question\": TEXT, \"choices\": [TEXT, ...], \"answer\": INDEX}; `context` may stand for `question`. A
space is put between the two where there is none.";

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
        let result = match (&self.text, &self.choices) {
            (Some(path), _) => {
                let text = read(path)?;
                let (model, _) = self.model.load(options)?;
                perplexity(&model, &text, self.context, options.quiet)?
            }
            (None, Some(path)) => {
                let questions = questions(path)?;
                let (model, _) = self.model.load(options)?;
                accuracy(&model, &questions, options.quiet)?
            }
            (None, None) => bail!("nothing to measure: give --text FILE or --choices FILE"),
        };
        let mut out = terminal::out();
        if self.json {
            writeln!(out, "{}", Value::Object(result))?;
            return Ok(());
        }
        for (name, value) in result {
            match value.as_f64().filter(|_| value.is_f64()) {
                Some(value) => writeln!(out, "{:22} {value:.4}", name.replace('_', " "))?,
                None => writeln!(out, "{:22} {value}", name.replace('_', " "))?,
            }
        }
        Ok(())
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

type Measured = serde_json::Map<String, Value>;

fn measured<const N: usize>(values: [(&str, Value); N]) -> Measured {
    values
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// Perplexity `exp(-Σ log p / n)` over the n scored tokens.
fn perplexity(
    model: &Model,
    text: &str,
    context: Option<usize>,
    quiet: bool,
) -> anyhow::Result<Measured> {
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode(text, Special::AsText)?;
    let per_byte = tokens.len() as f64 / text.len() as f64;
    let ids = tokenizer.begun(tokens);
    let most = model.decoder().config().max_positions;
    let window = context.unwrap_or(most);
    ensure!(
        (2..=most).contains(&window),
        "--context {window}: expected 2 to {most} tokens, which the model was made for"
    );
    ensure!(
        ids.len() > 1,
        "the text has {} tokens, expected at least 2",
        ids.len()
    );
    let stop = interrupt::flag()?;
    let bar = terminal::rows_bar("tokens", ids.len() as u64, quiet);
    let (mut scored, mut sum) = (0usize, 0f64);
    // A last window of one token has nothing to score.
    for window in ids.chunks(window).filter(|window| window.len() > 1) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let scores = model.score(window)?;
        sum += scores
            .iter()
            .map(|score| f64::from(score.logprob))
            .sum::<f64>();
        scored += scores.len();
        bar.inc(window.len() as u64);
    }
    bar.finish_and_clear();
    ensure!(scored > 0, "stopped before anything was scored");
    let mean = -sum / scored as f64;
    Ok(measured([
        ("tokens", json!(ids.len())),
        ("scored_tokens", json!(scored)),
        ("window", json!(window)),
        ("perplexity", json!(mean.exp())),
        (
            "bits_per_byte",
            json!(mean / std::f64::consts::LN_2 * per_byte),
        ),
    ]))
}

/// How often the right choice is the most likely one.
fn accuracy(model: &Model, questions: &[Question], quiet: bool) -> anyhow::Result<Measured> {
    let stop = interrupt::flag()?;
    let bar = terminal::rows_bar("questions", questions.len() as u64, quiet);
    let (mut asked, mut by_sum, mut by_byte) = (0usize, 0usize, 0usize);
    for (at, question) in questions.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sums = question
            .choices
            .iter()
            .map(|choice| likelihood(model, &question.context, choice))
            .collect::<anyhow::Result<Vec<f64>>>()
            .with_context(|| format!("question {}", at + 1))?;
        let lengths = question.choices.iter().map(String::len);
        let means: Vec<f64> = sums
            .iter()
            .zip(lengths)
            .map(|(sum, len)| sum / len as f64)
            .collect();
        by_sum += usize::from(best(&sums) == question.answer);
        by_byte += usize::from(best(&means) == question.answer);
        asked += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    ensure!(asked > 0, "stopped before anything was scored");
    Ok(measured([
        ("questions", json!(asked)),
        ("accuracy", json!(by_sum as f64 / asked as f64)),
        ("accuracy_per_byte", json!(by_byte as f64 / asked as f64)),
    ]))
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

/// Log-probability of `choice` after `context`. Both are encoded together, since the border may lie within a token; that
/// token counts for the choice.
fn likelihood(model: &Model, context: &str, choice: &str) -> anyhow::Result<f64> {
    let tokenizer = model.tokenizer()?;
    let encode = |text: &str| -> anyhow::Result<Vec<u32>> {
        Ok(tokenizer.begun(tokenizer.encode(text, Special::AsText)?))
    };
    let joined = context.is_empty()
        || context.ends_with(char::is_whitespace)
        || choice.starts_with(char::is_whitespace);
    let space = if joined { "" } else { " " };
    let ids = encode(&format!("{context}{space}{choice}"))?;
    let before = encode(context)?;
    let common = before.iter().zip(&ids).take_while(|(a, b)| a == b).count();
    let scores = model.score(&ids)?;
    // Score i is that of token i + 1.
    let own = &scores[common.saturating_sub(1).min(scores.len())..];
    ensure!(
        !own.is_empty(),
        "the choice {choice:?} adds no token to its context"
    );
    Ok(own.iter().map(|score| f64::from(score.logprob)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_choices_wins() {
        assert_eq!(best(&[-3.0, -1.0, -1.0]), 1);
    }
}
