//! Answered rows appended to a file, so that an interrupted run goes on: what is complete stays, a half-written last row
//! goes.
//!
//! Each row is one write and ends with a line break. What stands behind the last complete row is therefore the work of an
//! interruption, and is cut off. An output of other prompts is refused before anything is changed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

use super::{COMPLETION, ERROR, ID, Kind, MESSAGES, PROMPT, ROW, Row, Rows, key};
use crate::cli::terminal;

/// Where answers go.
pub(crate) struct Output {
    sink: Box<dyn Write>,
    kind: Kind,
    columns: Vec<String>,
    done: HashSet<String>,
    failed_before: usize,
}

/// A row of an output that exists.
struct Earlier {
    key: String,
    fields: Map<String, Value>,
    place: Range<usize>,
}

impl Earlier {
    fn failed(&self) -> bool {
        self.fields.get(ERROR).is_some_and(|error| error != "")
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("kind", &self.kind)
            .field("done", &self.done.len())
            .finish_non_exhaustive()
    }
}

impl Output {
    /// Stdout; nothing is there to go on with.
    ///
    /// # Errors
    ///
    /// `kind` cannot hold the rows.
    pub(crate) fn stdout(rows: &Rows, kind: Kind) -> anyhow::Result<Self> {
        let mut output = Self::new(Box::new(terminal::out()), rows, kind)?;
        output.write_header()?;
        Ok(output)
    }

    /// The file at `path`, new or with answers to the same rows. With `retry_failed` the failed ones are removed, to be
    /// answered again.
    ///
    /// # Errors
    ///
    /// `kind` cannot hold the rows, or the file holds something else than answers to them.
    pub(crate) fn file(
        path: &Path,
        rows: &Rows,
        kind: Kind,
        retry_failed: bool,
    ) -> anyhow::Result<Self> {
        ensure!(
            !retry_failed || kind != Kind::Txt,
            "{}: a text output does not say which rows failed. Write .jsonl or .csv to use --retry-failed",
            path.display()
        );
        let same = fs::canonicalize(path)
            .ok()
            .filter(|path| fs::canonicalize(&rows.source).is_ok_and(|source| source == *path));
        ensure!(
            same.is_none(),
            "{}: holds the prompts. Answers need a file of their own",
            path.display()
        );
        let mut output = Self::new(Box::new(io::sink()), rows, kind)?;
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            bytes => bytes
                .with_context(|| format!("{}: cannot read the earlier answers", path.display()))?,
        };
        let (start, mut earlier) = output
            .earlier(&bytes, rows)
            .and_then(|found| output.check(&found.1, rows).map(|()| found))
            .with_context(|| {
                format!(
                    "{}: not an output for these prompts. Remove it or choose another",
                    path.display()
                )
            })?;
        if retry_failed {
            earlier.retain(|row| !row.failed());
        }
        let mut kept = bytes[..start].to_vec();
        earlier
            .iter()
            .for_each(|row| kept.extend_from_slice(&bytes[row.place.clone()]));
        if kept != bytes {
            replace(path, &kept).with_context(|| format!("{}: cannot repair", path.display()))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        output.sink = Box::new(file.with_context(|| format!("{}: cannot write", path.display()))?);
        output.failed_before = earlier.iter().filter(|row| row.failed()).count();
        output.done = earlier.into_iter().map(|row| row.key).collect();
        if kept.is_empty() {
            output.write_header()?;
        }
        Ok(output)
    }

    fn new(sink: Box<dyn Write>, rows: &Rows, kind: Kind) -> anyhow::Result<Self> {
        ensure!(
            kind != Kind::Csv || rows.kind != Kind::Jsonl,
            "rows of JSON Lines have no fixed columns for a CSV output: write .jsonl"
        );
        let input = if rows.columns.is_empty() {
            vec![PROMPT.to_owned()]
        } else {
            rows.columns.clone()
        };
        let numbered = !input.iter().any(|column| column == ID);
        let ours = |column: &String| [ROW, COMPLETION, ERROR].contains(&column.as_str());
        let columns = numbered.then(|| ROW.to_owned()).into_iter();
        let columns = columns.chain(input.into_iter().filter(|column| !ours(column)));
        let columns = columns
            .chain([COMPLETION, ERROR].map(str::to_owned))
            .collect();
        Ok(Self {
            sink,
            kind,
            columns,
            done: HashSet::new(),
            failed_before: 0,
        })
    }

    /// Whether this row was answered, or failed, in an earlier run.
    pub(super) fn has(&self, row: &Row) -> bool {
        self.done.contains(&row.key())
    }

    /// Failed rows of earlier runs that stay.
    pub(super) fn failed_before(&self) -> usize {
        self.failed_before
    }

    /// Adds an answer, in one write.
    pub(super) fn append(
        &mut self,
        row: &Row,
        answer: &Result<String, String>,
    ) -> anyhow::Result<()> {
        let line = match self.kind {
            Kind::Txt => {
                answer
                    .as_deref()
                    .unwrap_or("")
                    .replace('\\', "\\\\")
                    .replace('\n', "\\n")
                    .replace('\r', "\\r")
                    + "\n"
            }
            Kind::Jsonl => serde_json::to_string(&record(row, answer))? + "\n",
            Kind::Csv => {
                let record = record(row, answer);
                self.csv_line(|column| match record.get(column) {
                    Some(Value::String(text)) => text.clone(),
                    Some(value) => value.to_string(),
                    None => String::new(),
                })?
            }
        };
        self.write(&line)
    }

    fn write_header(&mut self) -> anyhow::Result<()> {
        if self.kind == Kind::Csv {
            let line = self.csv_line(str::to_owned)?;
            self.write(&line)?;
        }
        Ok(())
    }

    fn csv_line(&self, cell: impl Fn(&str) -> String) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(self.columns.iter().map(|column| cell(column)))?;
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    fn write(&mut self, line: &str) -> anyhow::Result<()> {
        self.sink
            .write_all(line.as_bytes())
            .and_then(|()| self.sink.flush())
            .context("cannot write an answer")
    }

    /// The complete rows of an output, and where the first of them begins.
    fn earlier(&self, bytes: &[u8], rows: &Rows) -> anyhow::Result<(usize, Vec<Earlier>)> {
        let whole = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let text = std::str::from_utf8(&bytes[..whole])?;
        match self.kind {
            Kind::Txt => {
                let lines = text.split_inclusive('\n').scan(0, next_place);
                let found = lines.zip(&rows.rows).map(|((place, _), row)| Earlier {
                    key: row.key(),
                    fields: Map::new(),
                    place,
                });
                let found: Vec<Earlier> = found.collect();
                ensure!(
                    found.len() == text.lines().count(),
                    "more lines than prompts"
                );
                Ok((0, found))
            }
            Kind::Jsonl => {
                let lines = text.split_inclusive('\n').scan(0, next_place).enumerate();
                let found = lines.map(|(at, (place, line))| {
                    let fields: Map<String, Value> = serde_json::from_str(line)
                        .with_context(|| format!("line {} is no JSON object", at + 1))?;
                    let key = key(&fields).with_context(|| {
                        format!("line {} has neither `{ID}` nor `{ROW}`", at + 1)
                    })?;
                    Ok(Earlier { key, fields, place })
                });
                Ok((0, found.collect::<anyhow::Result<_>>()?))
            }
            Kind::Csv => self.earlier_csv(text),
        }
    }

    fn earlier_csv(&self, text: &str) -> anyhow::Result<(usize, Vec<Earlier>)> {
        if text.is_empty() {
            return Ok((0, Vec::new()));
        }
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .has_headers(false)
            .from_reader(text.as_bytes());
        let records: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
        let start = |at: usize| {
            let position = records.get(at).and_then(csv::StringRecord::position);
            position.map_or(text.len(), |position| position.byte() as usize)
        };
        let header = records
            .first()
            .map(|record| record.iter().collect::<Vec<_>>())
            .unwrap_or_default();
        ensure!(
            header == self.columns,
            "its columns are {}, expected {}",
            header.join(", "),
            self.columns.join(", ")
        );
        let mut found = Vec::new();
        for (at, record) in records.iter().enumerate().skip(1) {
            let place = start(at)..start(at + 1);
            // A quote that is still open swallowed the rest: this is the row that was being written.
            let complete = text[place.clone()].matches('"').count().is_multiple_of(2)
                && record.len() == header.len();
            if !complete && at + 1 == records.len() {
                break;
            }
            ensure!(
                complete,
                "row {at} has {} cells, expected {}",
                record.len(),
                header.len()
            );
            let fields: Map<String, Value> = self
                .columns
                .iter()
                .cloned()
                .zip(record.iter().map(Value::from))
                .collect();
            let key =
                key(&fields).with_context(|| format!("row {at} has neither `{ID}` nor `{ROW}`"))?;
            found.push(Earlier { key, fields, place });
        }
        Ok((start(1), found))
    }

    /// Refuses answers to other prompts.
    fn check(&self, earlier: &[Earlier], rows: &Rows) -> anyhow::Result<()> {
        let known: HashMap<String, &Row> = rows.rows.iter().map(|row| (row.key(), row)).collect();
        for answer in earlier.iter().filter(|_| self.kind != Kind::Txt) {
            let Some(row) = known.get(&answer.key) else {
                bail!("it answers {}, which the prompts do not have", answer.key);
            };
            for field in [PROMPT, MESSAGES] {
                let same = row.fields.get(field) == answer.fields.get(field);
                // A row that could not be read, and was repaired since, is another row now.
                ensure!(
                    same || answer.failed(),
                    "its {field} of {} differs",
                    answer.key
                );
            }
        }
        Ok(())
    }
}

/// Steps over one line: its place and text.
fn next_place<'a>(at: &mut usize, line: &'a str) -> Option<(Range<usize>, &'a str)> {
    let place = *at..*at + line.len();
    *at = place.end;
    Some((place, line))
}

fn record(row: &Row, answer: &Result<String, String>) -> Map<String, Value> {
    let numbered = !key(&row.fields).is_some_and(|key| key.starts_with(ID));
    let number = numbered.then(|| (ROW.to_owned(), Value::from(row.number)));
    let ours = |name: &str| [ROW, COMPLETION, ERROR].contains(&name);
    let fields = row
        .fields
        .iter()
        .filter(|(name, _)| !ours(name))
        .map(|(name, value)| (name.clone(), value.clone()));
    let answer = match answer {
        Ok(text) => (COMPLETION.to_owned(), text.as_str().into()),
        Err(error) => (ERROR.to_owned(), error.as_str().into()),
    };
    number.into_iter().chain(fields).chain([answer]).collect()
}

/// Writes beside the file first, so that no moment has less than before.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)
}
