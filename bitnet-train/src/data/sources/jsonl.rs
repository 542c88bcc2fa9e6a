//! JSON Lines: a sample a line.
//!
//! `messages` wins over ids, ids over `text`. `labels` follow the habit of training data: one for each id, -100 where
//! nothing is learned; the others are the ids themselves and are not compared. Empty lines are no samples.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use bitnet_models::chat::Message;
use serde_json::{Map, Value};

use super::Sample;
use crate::TrainError;

/// The label of an id that is not learned.
const IGNORED: i64 = -100;

pub(super) fn open(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Sample, TrainError>> + Send + use<>, TrainError> {
    let file = File::open(path).map_err(TrainError::io("open", path))?;
    let path = path.to_path_buf();
    let mut lines = BufReader::new(file).split(b'\n');
    let mut number = 0;
    Ok(std::iter::from_fn(move || {
        loop {
            let line = match lines.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(TrainError::io("read", &path)(error))),
            };
            number += 1;
            if !line.trim_ascii().is_empty() {
                return Some(parse(&line).map_err(bad(&path, number)));
            }
        }
    }))
}

fn bad(path: &Path, line: u64) -> impl FnOnce(String) -> TrainError {
    let path: PathBuf = path.to_path_buf();
    move |found| TrainError::Line {
        path,
        line,
        found,
        expected: "an object with `text`, `messages` or `input_ids`",
        way_out: "Correct the line, or skip bad lines",
    }
}

/// The sample in a line, or what stands there instead.
fn parse(line: &[u8]) -> Result<Sample, String> {
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("no JSON object ({error})"))?;
    if let Some(messages) = object.get("messages") {
        let messages: Vec<Message> = serde_json::from_value(messages.clone())
            .map_err(|error| format!("`messages` without role and content ({error})"))?;
        return Ok(Sample::Chat(messages));
    }
    if let Some(value) = object.get("input_ids").or_else(|| object.get("ids")) {
        let ids: Vec<u32> = serde_json::from_value(value.clone())
            .map_err(|error| format!("ids that are no tokens ({error})"))?;
        let mask = mask(&object)?;
        if let Some(mask) = mask.as_ref().filter(|mask| mask.len() != ids.len()) {
            return Err(format!("{} ids with {} labels", ids.len(), mask.len()));
        }
        return Ok(Sample::Ids { ids, mask });
    }
    match object.get("text") {
        Some(Value::String(text)) => Ok(Sample::Text(text.clone())),
        Some(other) => Err(format!("`text` that is {other}")),
        None => {
            let keys: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(format!("keys {keys:?}"))
        }
    }
}

fn mask(object: &Map<String, Value>) -> Result<Option<Vec<bool>>, String> {
    let each = |key: &str, learned: fn(&Value) -> Option<bool>| {
        let Some(value) = object.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let list = value
            .as_array()
            .and_then(|list| list.iter().map(learned).collect());
        list.map(Some)
            .ok_or_else(|| format!("`{key}` that is no list of marks"))
    };
    let labels = each("labels", |label| {
        label.as_i64().map(|label| label != IGNORED)
    })?;
    let marks = each("mask", |mark| {
        mark.as_bool()
            .or_else(|| mark.as_i64().map(|mark| mark != 0))
    })?;
    Ok(labels.or(marks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_conversations_and_ids_are_samples() {
        let text = parse(br#"{"text": "a", "id": 3}"#).unwrap();
        assert_eq!(text, Sample::Text("a".into()));
        let chat = parse(br#"{"messages": [{"role": "user", "content": "Hi"}]}"#).unwrap();
        assert_eq!(chat, Sample::Chat(vec![Message::new("user", "Hi")]));
        let learned = |mask: &[bool]| Sample::Ids {
            ids: vec![5, 6],
            mask: Some(mask.to_vec()),
        };
        assert_eq!(
            parse(br#"{"input_ids": [5, 6], "labels": [-100, 6]}"#).unwrap(),
            learned(&[false, true])
        );
        assert_eq!(
            parse(br#"{"ids": [5, 6], "mask": [1, 0]}"#).unwrap(),
            learned(&[true, false])
        );
        assert_eq!(
            parse(br#"{"ids": [7]}"#).unwrap(),
            Sample::Ids {
                ids: vec![7],
                mask: None
            }
        );
    }

    #[test]
    fn a_bad_line_is_reported_with_its_number_and_the_next_ones_follow() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = "{\"text\": \"a\"}\n\n{\"text\": 7}\n[]\n{\"ids\": [1], \"labels\": []}\n{\"ids\": [-1]}\n{\"x\": 1}\n{\"text\": \"b\"}";
        std::fs::write(file.path(), lines).unwrap();
        let samples: Vec<_> = open(file.path()).unwrap().collect();
        let errors: Vec<String> = samples
            .iter()
            .filter_map(|s| s.as_ref().err())
            .map(ToString::to_string)
            .collect();
        for (error, part) in errors
            .iter()
            .zip(["line 3", "line 4", "line 5", "line 6", "line 7"])
        {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!((samples.len(), errors.len()), (7, 5));
        assert_eq!(*samples[6].as_ref().unwrap(), Sample::Text("b".into()));
    }
}
