//! Finds the tokenizer of a checkpoint folder.
//!
//! `tokenizer.json` first, then a tiktoken rank file, then a SentencePiece model; the last two share the name
//! `tokenizer.model` and are told apart by what they hold. Errors name the file.

use std::path::{Path, PathBuf};

use super::settings::{Added, Settings, object};
use super::{Tokenizer, sentence_piece, tiktoken};
use crate::ModelError;

impl Tokenizer {
    /// The tokenizer of a folder, with what the configurations beside it say.
    ///
    /// # Errors
    /// When there is none, or its files are damaged or of an unknown kind.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let mut settings = Settings::of_folder(dir)?;
        let json = dir.join("tokenizer.json");
        if json.is_file() {
            return Self::from_json(&read(&json)?, settings).map_err(at(&json));
        }
        let Some((path, bytes)) = vocabulary_file(dir)? else {
            return Err(ModelError::File {
                path: dir.to_path_buf(),
                what: "tokenizer".to_owned(),
                found: "none".to_owned(),
                expected: "tokenizer.json, tokenizer.model (SentencePiece or tiktoken ranks) or *.tiktoken".to_owned(),
                way_out: "Copy the tokenizer files of the original model here".to_owned(),
            });
        };
        let beside = dir.join("added_tokens.json");
        if beside.is_file() {
            settings.added.extend(added_tokens(&beside)?);
            settings.added.sort_by_key(|token| token.id);
            settings.added.dedup_by_key(|token| token.id);
        }
        let vocabulary = if tiktoken::is_rank_file(&bytes) {
            tiktoken::vocabulary(&bytes, &settings.added)
        } else {
            sentence_piece::vocabulary(&bytes, &settings.added)
        };
        vocabulary
            .and_then(|vocabulary| Self::from_vocabulary_with(&vocabulary, settings))
            .map_err(at(&path))
    }
}

/// The first rank file by name, else `tokenizer.model`.
fn vocabulary_file(dir: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, ModelError> {
    let entries = std::fs::read_dir(dir).map_err(ModelError::io("open", dir))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|ending| ending == "model" || ending == "tiktoken")
    });
    paths.sort();
    let mut model = None;
    for path in paths {
        let bytes = read(&path)?;
        if tiktoken::is_rank_file(&bytes) {
            return Ok(Some((path, bytes)));
        }
        if path
            .file_name()
            .is_some_and(|name| name == "tokenizer.model")
        {
            model = Some((path, bytes));
        }
    }
    Ok(model)
}

/// `added_tokens.json`: ids by token.
fn added_tokens(path: &Path) -> Result<Vec<Added>, ModelError> {
    let added = object(&read(path)?, path)?;
    let id = |id: &serde_json::Value| u32::try_from(id.as_u64()?).ok();
    let token = |(content, value): (&String, &serde_json::Value)| {
        let token = id(value).map(|id| Added {
            id,
            content: content.clone(),
            special: true,
        });
        token.ok_or_else(|| ModelError::Config {
            path: path.to_path_buf(),
            key: content.clone(),
            found: value.to_string(),
            expected: "an id".to_owned(),
            way_out: "Correct or remove the key".to_owned(),
        })
    };
    added.iter().map(token).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(ModelError::io("read", path))
}

/// Adds the path to a complaint about text.
fn at(path: &Path) -> impl FnOnce(ModelError) -> ModelError {
    let path = path.to_path_buf();
    move |error| match error {
        ModelError::Text {
            what,
            found,
            expected,
            way_out,
        } => ModelError::File {
            path,
            what,
            found,
            expected,
            way_out,
        },
        other => other,
    }
}
