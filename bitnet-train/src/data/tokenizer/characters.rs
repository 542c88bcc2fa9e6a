//! One token for each character that occurs, in the order of code points.
//!
//! The tokenizer of character-level baselines: no special tokens, so the vocabulary of Tiny Shakespeare has its 65
//! characters. Written as a word-level model behind a splitter into characters, which any reader of `tokenizer.json`
//! understands.

use std::collections::BTreeSet;

use bitnet_models::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::TokenizerBundle;
use crate::TrainError;
use crate::data::sources::Sources;

/// The characters of texts.
#[derive(Debug, Clone, Copy)]
pub struct Characters;

impl Characters {
    /// Collects from a pass over the sources.
    ///
    /// # Errors
    /// When the sources fail or hold no text.
    pub fn train(sources: &Sources) -> Result<TokenizerBundle, TrainError> {
        let mut characters = BTreeSet::new();
        for sample in sources.samples() {
            for text in sample?.texts() {
                characters.extend(text.chars());
            }
        }
        if characters.is_empty() {
            return Err(TrainError::Request {
                what: "texts to collect characters from",
                found: "none".to_owned(),
                expected: "some text".to_owned(),
                way_out: "Give sources with text".to_owned(),
            });
        }
        let vocabulary: serde_json::Map<String, Value> = (0..)
            .zip(&characters)
            .map(|(id, character)| (character.to_string(), Value::from(id)))
            .collect();
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "(?s:.)"},
                "behavior": "Isolated",
                "invert": false
            },
            "post_processor": null,
            "decoder": {"type": "Fuse"},
            // A character that never occurred is an error, not a token: no baseline has one for it.
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": ""}
        });
        let tokenizer = Tokenizer::from_json_bytes(tokenizer.to_string().as_bytes())?;
        TokenizerBundle::new(tokenizer, None)
    }
}

#[cfg(test)]
mod tests {
    use bitnet_models::tokenizer::Special;

    use super::*;
    use crate::data::sources::Source;

    fn bundle(text: &str) -> TokenizerBundle {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_path_buf();
        let source = Source::Text {
            path,
            separator: None,
        };
        Characters::train(&Sources::new(vec![source])).unwrap()
    }

    #[test]
    fn characters_are_numbered_in_order_and_text_survives() {
        let text = "ba\n\n c\r\néa ";
        let written = bundle(text);
        let tokenizer = Tokenizer::from_json_with_config(written.json(), written.config()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 7);
        let ids = tokenizer.encode(text, Special::AsText).unwrap();
        assert_eq!(ids, [4, 3, 0, 0, 2, 5, 1, 0, 6, 3, 2]);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (None, &[][..]));
    }

    #[test]
    fn a_character_that_never_occurred_is_an_error() {
        assert!(
            bundle("ab")
                .tokenizer()
                .encode("abc", Special::AsText)
                .is_err()
        );
    }
}
