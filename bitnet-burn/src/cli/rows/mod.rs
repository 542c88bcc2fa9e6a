//! Many prompts in a file, answered row by row into another: text lines, JSON Lines or CSV.
//!
//! A row is known by its `id`, else by its number, in input and output alike; that is how an interrupted run goes on.
//! A row that cannot be read or answered is a failed row with an `error`, never the end of the run. What the fields of a
//! row mean beyond `id`, `prompt` and `messages` is not ours: they are copied.

mod answer;
mod output;
mod read;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::ValueEnum;
use serde_json::{Map, Value};

pub(crate) use answer::answer;
pub(crate) use output::Output;
pub(crate) use read::read;

/// The fields that we write; those of the input with the same names are replaced.
const ROW: &str = "row";
const COMPLETION: &str = "completion";
const ERROR: &str = "error";
/// The fields that we read.
const ID: &str = "id";
const PROMPT: &str = "prompt";
const MESSAGES: &str = "messages";

/// How rows are written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A prompt a line; answers with `\n` for line breaks and `\\` for `\`, an empty line for a failed row.
    Txt,
    /// JSON Lines: an object a line, with `prompt` or `messages`.
    Jsonl,
    /// Comma-separated values with a header, one column called `prompt`.
    Csv,
}

impl Kind {
    /// The kind that a file's name tells.
    ///
    /// # Errors
    ///
    /// An ending of no kind.
    pub(crate) fn of(path: &Path) -> anyhow::Result<Self> {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("txt") => Ok(Self::Txt),
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some("csv") => Ok(Self::Csv),
            _ => bail!(
                "{}: cannot tell the kind of its rows from the name, expected .txt, .jsonl or .csv",
                path.display()
            ),
        }
    }
}

/// One prompt with what surrounds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Its number among the rows, from 1.
    pub(crate) number: usize,
    /// The line of the file where it begins, from 1.
    line: usize,
    /// What is to be answered, or why that cannot be read.
    pub(crate) prompt: Result<Prompt, String>,
    fields: Map<String, Value>,
}

/// What is to be answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Prompt {
    /// Plain text.
    Text(String),
    /// A conversation: objects with `role` and `content`, as chat templates take them.
    Messages(Vec<Value>),
}

/// The rows of a file.
#[derive(Debug)]
pub(crate) struct Rows {
    source: PathBuf,
    rows: Vec<Row>,
    /// That of the file, which an output without a name of its own takes over.
    pub(crate) kind: Kind,
    /// Of CSV, in order.
    columns: Vec<String>,
}

impl Row {
    fn key(&self) -> String {
        key(&self.fields).unwrap_or_else(|| format!("{ROW} {}", self.number))
    }
}

/// How a row with these fields is known, in input and output.
fn key(fields: &Map<String, Value>) -> Option<String> {
    let text = |name| match fields.get(name)? {
        Value::String(text) => Some(format!("{name} {text}")),
        Value::Number(number) => Some(format!("{name} {number}")),
        _ => None,
    };
    text(ID).or_else(|| text(ROW))
}
