//! Where the text side of a checkpoint comes from: inside the file (GGUF, our packed file) or beside the weights.

use std::path::{Path, PathBuf};

use crate::ModelError;
use crate::chat::ChatTemplate;
use crate::tokenizer::{Tokenizer, Vocabulary};
use crate::weights::Checkpoint;

/// A chat template as a checkpoint declares it, not yet compiled: a wrong one is no obstacle to plain completion.
#[derive(Debug)]
pub(super) enum Declared {
    /// Nowhere.
    Nothing,
    /// Inside the file.
    Text(String),
    /// In the files of a folder.
    Folder(PathBuf),
}

/// The text side of a checkpoint as two files, for another format to carry.
#[derive(Debug, Clone)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`, with the chat template if the checkpoint declares one.
    pub config: String,
}

impl TokenizerFiles {
    /// Those of a checkpoint, wherever it has them from; `None` if it has no tokenizer.
    ///
    /// # Errors
    ///
    /// A tokenizer or a folder's chat template that cannot be read.
    pub fn of(checkpoint: &dyn Checkpoint) -> Result<Option<Self>, ModelError> {
        let (Some(tokenizer), declared) = text_of(checkpoint)? else {
            return Ok(None);
        };
        let config = tokenizer.to_config_json(declared.source()?.as_deref());
        Ok(Some(Self {
            tokenizer: tokenizer.to_json()?,
            config: String::from_utf8_lossy(&config).into_owned(),
        }))
    }
}

impl Vocabulary {
    /// The tokenizer of a checkpoint as a GGUF file holds it, with its chat template; `None` if it has no tokenizer.
    ///
    /// # Errors
    ///
    /// As [`TokenizerFiles::of`], and a tokenizer that GGUF cannot express.
    pub fn of(checkpoint: &dyn Checkpoint) -> Result<Option<Self>, ModelError> {
        if let Some(vocabulary) = checkpoint.vocabulary() {
            return Ok(Some(vocabulary.clone()));
        }
        let (Some(tokenizer), declared) = text_of(checkpoint)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            chat_template: declared.source()?,
            ..tokenizer.to_vocabulary()?
        }))
    }
}

/// The tokenizer of a checkpoint, if it has one, and its chat template.
pub(super) fn text_of(
    checkpoint: &dyn Checkpoint,
) -> Result<(Option<Tokenizer>, Declared), ModelError> {
    if let Some(vocabulary) = checkpoint.vocabulary() {
        let template = vocabulary.chat_template.clone();
        let declared = template.map_or(Declared::Nothing, Declared::Text);
        return Ok((Some(Tokenizer::from_vocabulary(vocabulary)?), declared));
    }
    if let Some(json) = checkpoint.attachment("tokenizer.json") {
        let Some(config) = checkpoint.attachment("tokenizer_config.json") else {
            let tokenizer = Tokenizer::from_json_bytes(&json)?;
            return Ok((Some(tokenizer), Declared::Nothing));
        };
        let tokenizer = Tokenizer::from_json_with_config(&json, &config)?;
        let parsed: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
        let template = parsed["chat_template"].as_str().map(str::to_owned);
        let declared = template.map_or(Declared::Nothing, Declared::Text);
        return Ok((Some(tokenizer), declared));
    }
    let path = checkpoint.path();
    let folder = if path.is_dir() {
        Some(path)
    } else {
        path.parent().filter(|_| path.is_file())
    };
    match folder {
        Some(folder) if has_tokenizer(folder) => Ok((
            Some(Tokenizer::load(folder)?),
            Declared::Folder(folder.to_path_buf()),
        )),
        _ => Ok((None, Declared::Nothing)),
    }
}

fn has_tokenizer(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = Path::new(&name);
        name == "tokenizer.json"
            || name
                .extension()
                .is_some_and(|end| end == "model" || end == "tiktoken")
    })
}

impl Declared {
    /// The Jinja text.
    fn source(self) -> Result<Option<String>, ModelError> {
        Ok(match self {
            Self::Nothing => None,
            Self::Text(text) => Some(text),
            Self::Folder(folder) => {
                ChatTemplate::of_folder(&folder)?.map(|template| template.source().to_owned())
            }
        })
    }

    /// The template to use.
    pub(super) fn template(
        &self,
        source: &Path,
        architecture: &str,
        tokenizer: &Tokenizer,
    ) -> Result<ChatTemplate, ModelError> {
        let declared = match self {
            Self::Nothing => None,
            Self::Text(text) => {
                let origin = source.display().to_string();
                Some(ChatTemplate::from_source(text, &origin)?)
            }
            Self::Folder(folder) => ChatTemplate::of_folder(folder)?,
        };
        ChatTemplate::choose(declared, architecture, tokenizer)
    }
}
