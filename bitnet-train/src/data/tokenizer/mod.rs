//! Tokenizers made from the data: byte-level BPE, or one token for each character.
//!
//! Both are written as `tokenizer.json` and `tokenizer_config.json`, which every other part of the project loads.
//! Invariant: the same texts give the same files, on every machine and in every run.

mod bpe;
mod characters;

use std::path::Path;

use bitnet_models::TokenizerFiles;
use bitnet_models::chat::ChatTemplate;
use bitnet_models::tokenizer::Tokenizer;
use bitnet_models::weights::Checkpoint;
use serde_json::Value;

use crate::TrainError;

pub use bpe::{Bpe, SPECIAL_TOKENS};
pub use characters::Characters;

/// A tokenizer with the files that define it.
#[derive(Debug, Clone)]
pub struct TokenizerBundle {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    json: Vec<u8>,
    config: Vec<u8>,
}

/// The file of the tokenizer itself.
pub const TOKENIZER: &str = "tokenizer.json";
/// The file of what is around it.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

impl TokenizerBundle {
    /// A tokenizer, and the template that conversations are written with.
    ///
    /// # Errors
    /// When the tokenizer cannot be written.
    pub fn new(tokenizer: Tokenizer, template: Option<ChatTemplate>) -> Result<Self, TrainError> {
        let json = canonical(&tokenizer.to_json()?)?;
        let config = tokenizer.to_config_json(template.as_ref().map(ChatTemplate::source));
        Ok(Self {
            tokenizer,
            template,
            json,
            config,
        })
    }

    /// The tokenizer of a checkpoint folder, with its chat template or the one that fits its special tokens.
    ///
    /// # Errors
    /// When there is no tokenizer, or its files are damaged.
    pub fn load(folder: &Path) -> Result<Self, TrainError> {
        let tokenizer = Tokenizer::load(folder)?;
        let declared = ChatTemplate::of_folder(folder)?;
        // Without special tokens of a known format, there is no way to write conversations: no fault by itself.
        let template = ChatTemplate::choose(declared, "", &tokenizer).ok();
        Self::new(tokenizer, template)
    }

    /// That of a checkpoint of any format, likewise; `None` if it has no tokenizer.
    ///
    /// # Errors
    /// When its files are damaged.
    pub fn of(checkpoint: &dyn Checkpoint) -> Result<Option<Self>, TrainError> {
        let Some(files) = TokenizerFiles::of(checkpoint)? else {
            return Ok(None);
        };
        let config = files.config.as_bytes();
        let tokenizer = Tokenizer::from_json_with_config(&files.tokenizer, config)?;
        let value: Value = serde_json::from_slice(config).unwrap_or_default();
        let origin = checkpoint.path().display().to_string();
        let declared = value["chat_template"].as_str();
        let declared = declared
            .map(|source| ChatTemplate::from_source(source, &origin))
            .transpose()?;
        let template = ChatTemplate::choose(declared, "", &tokenizer).ok();
        Self::new(tokenizer, template).map(Some)
    }

    /// Text to ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Conversations to text, where the tokenizer has tokens for it.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The content of [`TOKENIZER`].
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The content of [`TOKENIZER_CONFIG`].
    pub fn config(&self) -> &[u8] {
        &self.config
    }
}

/// The same JSON with its maps in order: hash maps are written in another one in every run.
fn canonical(json: &[u8]) -> Result<Vec<u8>, TrainError> {
    let mut value: Value = serde_json::from_slice(json).map_err(|error| TrainError::File {
        path: TOKENIZER.into(),
        what: "content".to_owned(),
        found: error.to_string(),
        expected: "a JSON object".to_owned(),
        way_out: "Download the tokenizer again".to_owned(),
    })?;
    for pointer in ["/model/vocab", "/post_processor/special_tokens"] {
        if let Some(Value::Object(map)) = value.pointer_mut(pointer) {
            let mut entries: Vec<(String, Value)> = std::mem::take(map).into_iter().collect();
            // A vocabulary by ids, what has no id by names.
            entries.sort_by(|(a, x), (b, y)| (x.as_u64(), a).cmp(&(y.as_u64(), b)));
            map.extend(entries);
        }
    }
    Ok(format!("{value:#}\n").into_bytes())
}
