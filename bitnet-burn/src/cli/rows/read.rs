//! Rows out of a file or stdin. A row that cannot be read is kept with its reason.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

use super::{Kind, MESSAGES, PROMPT, Prompt, ROW, Row, Rows};

/// The rows of `path`, of stdin for `-`. The kind comes from the name; that of stdin is JSON Lines if it begins with `{`,
/// else text lines.
///
/// # Errors
///
/// A file that cannot be read as a whole: absent, not UTF-8, CSV without a `prompt` column, an id given twice.
pub(crate) fn read(path: &Path, kind: Option<Kind>) -> anyhow::Result<Rows> {
    let is_stdin = path == Path::new("-");
    let bytes = if is_stdin {
        let mut bytes = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut bytes)
            .map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = bytes.with_context(|| format!("{}: cannot read the prompts", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        anyhow::anyhow!(
            "{}: line {line} is not UTF-8. Convert it, with `iconv -t utf-8` for one",
            path.display()
        )
    })?;
    let kind = match kind {
        Some(kind) => kind,
        None if is_stdin && text.trim_start().starts_with('{') => Kind::Jsonl,
        None if is_stdin => Kind::Txt,
        None => Kind::of(path)?,
    };
    let rows = parse(&text, kind)
        .with_context(|| format!("{}: cannot use these prompts", path.display()))?;
    Ok(Rows {
        source: path.to_owned(),
        ..rows
    })
}

pub(super) fn parse(text: &str, kind: Kind) -> anyhow::Result<Rows> {
    // The mark that Windows puts in front.
    let text = text.trim_start_matches('\u{feff}');
    let mut rows = Rows {
        source: PathBuf::new(),
        rows: Vec::new(),
        kind,
        columns: Vec::new(),
    };
    match kind {
        Kind::Txt => rows.rows = lines(text, plain),
        Kind::Jsonl => rows.rows = lines(text, object),
        Kind::Csv => (rows.columns, rows.rows) = table(text)?,
    }
    let mut seen = HashMap::new();
    for row in &rows.rows {
        if let Some(line) = seen.insert(row.key(), row.line) {
            bail!(
                "{} is used twice, in lines {line} and {}; ids must differ, or be absent",
                row.key(),
                row.line
            );
        }
    }
    Ok(rows)
}

type Parsed = (Map<String, Value>, Result<Prompt, String>);

/// A row for each line that is not empty.
fn lines(text: &str, parse: impl Fn(&str) -> Parsed) -> Vec<Row> {
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let rows = lines.enumerate().map(|(at, (line, text))| {
        let (fields, prompt) = parse(text);
        Row {
            number: at + 1,
            line: line + 1,
            prompt,
            fields,
        }
    });
    rows.collect()
}

fn plain(line: &str) -> Parsed {
    let fields = Map::from_iter([(PROMPT.to_owned(), line.into())]);
    (fields, Ok(Prompt::Text(line.to_owned())))
}

fn object(line: &str) -> Parsed {
    match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(mut fields) => {
            // A number of ours, from an earlier output; the row may stand elsewhere now.
            fields.shift_remove(ROW);
            let prompt = prompt(&fields);
            (fields, prompt)
        }
        Err(error) => (Map::new(), Err(format!("no JSON object: {error}"))),
    }
}

fn prompt(fields: &Map<String, Value>) -> Result<Prompt, String> {
    match (fields.get(PROMPT), fields.get(MESSAGES)) {
        (Some(Value::String(text)), _) => Ok(Prompt::Text(text.clone())),
        (None, Some(Value::Array(messages))) => {
            let is_message =
                |message: &Value| message["role"].is_string() && !message["content"].is_null();
            if messages.is_empty() || !messages.iter().all(is_message) {
                return Err(format!(
                    "`{MESSAGES}`: expected a list of objects with `role` and `content`"
                ));
            }
            Ok(Prompt::Messages(messages.clone()))
        }
        (None, None) => Err(format!("found neither `{PROMPT}` nor `{MESSAGES}`")),
        (Some(_), _) => Err(format!("`{PROMPT}`: expected a text")),
        (_, Some(_)) => Err(format!("`{MESSAGES}`: expected a list")),
    }
}

fn table(text: &str) -> anyhow::Result<(Vec<String>, Vec<Row>)> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let position = columns.iter().position(|column| column == PROMPT);
    let position =
        position.with_context(|| format!("no column `{PROMPT}`: found {}", columns.join(", ")))?;
    for (at, column) in columns.iter().enumerate() {
        ensure!(
            !columns[..at].contains(column),
            "two columns are called `{column}`"
        );
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let cells = columns.iter().cloned().zip(record.iter().map(Value::from));
        let mut fields: Map<String, Value> = cells.collect();
        fields.shift_remove(ROW);
        let prompt = match record.get(position) {
            Some(prompt) if record.len() == columns.len() => Ok(Prompt::Text(prompt.to_owned())),
            _ => Err(format!(
                "{} cells, expected {} as in the header",
                record.len(),
                columns.len()
            )),
        };
        let line = record.position().map_or(0, csv::Position::line) as usize;
        rows.push(Row {
            number: rows.len() + 1,
            line,
            prompt,
            fields,
        });
    }
    Ok((columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(text: &str, kind: Kind) -> Vec<(usize, Result<String, String>)> {
        let shown = |row: Row| match row.prompt {
            Ok(Prompt::Text(text)) => (row.line, Ok(text)),
            Ok(Prompt::Messages(messages)) => {
                (row.line, Ok(format!("{} messages", messages.len())))
            }
            Err(error) => (row.line, Err(error)),
        };
        parse(text, kind)
            .unwrap()
            .rows
            .into_iter()
            .map(shown)
            .collect()
    }

    #[test]
    fn a_text_has_a_prompt_a_line() {
        let found = prompts("\u{feff}one\r\n\n two \n", Kind::Txt);
        assert_eq!(found, [(1, Ok("one".into())), (3, Ok(" two ".into()))]);
    }

    #[test]
    fn json_lines_hold_prompts_or_messages_and_bad_ones_are_kept() {
        let text = concat!(
            "{\"prompt\": \"a\", \"x\": [1]}\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n",
            "{\"prompt\": 3}\n{\"messages\": []}\n{}\n[1]\nhalf {\n",
        );
        let found = prompts(text, Kind::Jsonl);
        assert_eq!(
            found[..2],
            [(1, Ok("a".into())), (2, Ok("1 messages".into()))]
        );
        for (row, expected) in
            found[2..]
                .iter()
                .zip(["a text", "a list of", "neither", "no JSON", "no JSON"])
        {
            assert!(row.1.as_ref().unwrap_err().contains(expected), "{row:?}");
        }
    }

    #[test]
    fn csv_has_a_column_of_prompts_with_line_breaks_in_quotes() {
        let found = prompts("id,prompt\n7,\"a\nb\"\n8,c,d\n9,e\n", Kind::Csv);
        assert_eq!(
            (&found[0], &found[2]),
            (&(2, Ok("a\nb".into())), &(5, Ok("e".into())))
        );
        assert!(
            found[1]
                .1
                .as_ref()
                .unwrap_err()
                .contains("3 cells, expected 2")
        );
    }

    #[test]
    fn a_table_without_prompts_and_ids_used_twice_are_refused() {
        let refused = |text, kind| format!("{:#}", parse(text, kind).unwrap_err());
        assert!(refused("a,b\n1,2\n", Kind::Csv).contains("found a, b"));
        assert!(refused("prompt,prompt\n1,2\n", Kind::Csv).contains("two columns"));
        let twice = refused("id,prompt\nx,1\ny,2\nx,3\n", Kind::Csv);
        assert!(
            twice.contains("id x is used twice, in lines 2 and 4"),
            "{twice}"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_line() {
        let file = tempfile::Builder::new().suffix(".txt").tempfile().unwrap();
        std::fs::write(file.path(), b"good\nb\xffd\n").unwrap();
        assert!(
            read(file.path(), None)
                .unwrap_err()
                .to_string()
                .contains("line 2 is not UTF-8")
        );
    }
}
