//! What the files beside a tokenizer say about it: `tokenizer_config.json` and its neighbours.
//!
//! Every key may be missing. A token is written as text, as an object with `content`, or as an id; ids also as lists.
//! Invariant: earlier files win where one answer is needed, all of them count where several may stand (end tokens).

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// A token by name or number.
#[derive(Debug, Clone)]
pub(super) enum Mark {
    Token(String),
    Id(u32),
}

impl Mark {
    /// The id in this tokenizer. A number counts as it is: models may have more ids than tokens.
    pub(super) fn id(&self, inner: &tokenizers::Tokenizer) -> Option<u32> {
        match self {
            Self::Token(token) => inner.token_to_id(token),
            Self::Id(id) => Some(*id),
        }
    }
}

/// A token that a configuration adds to a vocabulary file.
#[derive(Debug, Clone)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) special: bool,
}

/// The answers, in order of the files.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) bos: Vec<Mark>,
    pub(super) eos: Vec<Mark>,
    pub(super) pad: Vec<Mark>,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    /// Sorted by id.
    pub(super) added: Vec<Added>,
}

/// Files that say something, the more specific first.
const FILES: &[&str] = &[
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
];

impl Settings {
    /// Reads what is there of the files in a folder.
    pub(super) fn of_folder(dir: &Path) -> Result<Self, ModelError> {
        let mut settings = Self::default();
        for name in FILES {
            let path = dir.join(name);
            if path.is_file() {
                let bytes = std::fs::read(&path).map_err(ModelError::io("read", &path))?;
                settings.read(&bytes, &path)?;
            }
        }
        Ok(settings)
    }

    /// Adds what one file says.
    pub(super) fn read(&mut self, bytes: &[u8], path: &Path) -> Result<(), ModelError> {
        let file = object(bytes, path)?;
        for (marks, name) in [
            (&mut self.bos, "bos"),
            (&mut self.eos, "eos"),
            (&mut self.pad, "pad"),
        ] {
            for key in [format!("{name}_token"), format!("{name}_token_id")] {
                if let Some(value) = file.get(&key) {
                    let found = marks_of(value).ok_or_else(|| {
                        unsuitable(path, &key, value, "a token, an id or a list of ids")
                    })?;
                    marks.extend(found);
                }
            }
        }
        for (flag, key) in [
            (&mut self.add_bos, "add_bos_token"),
            (&mut self.add_eos, "add_eos_token"),
        ] {
            match file.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::Bool(value)) => *flag = flag.or(Some(*value)),
                Some(value) => return Err(unsuitable(path, key, value, "true or false")),
            }
        }
        if let Some(Value::Object(added)) = file.get("added_tokens_decoder") {
            for (id, token) in added {
                let (Ok(id), Some(content)) = (id.parse(), token["content"].as_str()) else {
                    let key = format!("added_tokens_decoder.{id}");
                    return Err(unsuitable(path, &key, token, "an id with its `content`"));
                };
                self.added.push(Added {
                    id,
                    content: content.to_owned(),
                    special: token["special"].as_bool().unwrap_or(true),
                });
            }
            self.added.sort_by_key(|token| token.id);
        }
        Ok(())
    }
}

/// The JSON object in a file.
pub(crate) fn object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>, ModelError> {
    serde_json::from_slice(bytes).map_err(|error| ModelError::File {
        path: path.to_path_buf(),
        what: "content".to_owned(),
        found: error.to_string(),
        expected: "a JSON object".to_owned(),
        way_out: "Download the file again".to_owned(),
    })
}

/// `None` for a value that is no token; an absent token (`null`) is an empty list.
fn marks_of(value: &Value) -> Option<Vec<Mark>> {
    let id = |value: &Value| Some(Mark::Id(u32::try_from(value.as_u64()?).ok()?));
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(token) => Some(vec![Mark::Token(token.clone())]),
        Value::Object(token) => {
            let content = token.get("content")?.as_str()?;
            Some(vec![Mark::Token(content.to_owned())])
        }
        Value::Array(ids) => ids.iter().map(id).collect(),
        // Some configurations write -1 for "none".
        Value::Number(number) if number.as_i64().is_some_and(|id| id < 0) => Some(Vec::new()),
        other => Some(vec![id(other)?]),
    }
}

fn unsuitable(path: &Path, key: &str, found: &Value, expected: &str) -> ModelError {
    ModelError::Config {
        path: path.to_path_buf(),
        key: key.to_owned(),
        found: found.to_string(),
        expected: expected.to_owned(),
        way_out: "Correct or remove the key".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Settings, ModelError> {
        let mut settings = Settings::default();
        settings.read(json.as_bytes(), "tokenizer_config.json".as_ref())?;
        Ok(settings)
    }

    #[test]
    fn every_key_may_be_missing_or_null() {
        assert!(read("{}").unwrap().bos.is_empty());
        let nulls = r#"{"bos_token": null, "eos_token_id": null, "pad_token_id": -1, "add_bos_token": null}"#;
        let settings = read(nulls).unwrap();
        assert!(settings.bos.is_empty() && settings.pad.is_empty() && settings.add_bos.is_none());
    }

    #[test]
    fn tokens_are_text_or_objects_and_ids_numbers_or_lists() {
        let settings = read(
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "eos_token_id": [2, 7]}"#,
        );
        let settings = settings.unwrap();
        assert!(matches!(&settings.bos[..], [Mark::Token(bos)] if bos == "<s>"));
        assert!(matches!(
            &settings.eos[..],
            [Mark::Token(_), Mark::Id(2), Mark::Id(7)]
        ));
    }

    #[test]
    fn values_of_another_kind_are_named() {
        for bad in [
            r#"{"eos_token_id": "x", "bos_token": 1.5}"#,
            r#"{"add_bos_token": "yes"}"#,
        ] {
            let message = read(bad).unwrap_err().to_string();
            assert!(message.contains("_token`"), "{message}");
        }
        assert!(read("[]").is_err());
    }
}
