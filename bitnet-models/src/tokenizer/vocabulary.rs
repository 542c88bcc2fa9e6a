//! The tokenizer as GGUF metadata holds it: a list of tokens and the rules beside it.

use super::from_vocabulary::Kind;
use super::refusal;
use super::settings::Added;
use crate::ModelError;

/// The `tokenizer.*` keys of a GGUF file, unchanged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vocabulary {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: which pre-tokenizer, e.g. `llama-bpe`.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`; empty if absent.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; empty if absent.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`, each "left right"; empty if absent.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos_id: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot_id: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad_id: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

impl Vocabulary {
    /// Adds tokens behind the list; their ids must continue it.
    pub(super) fn extend<'a>(
        &mut self,
        added: impl Iterator<Item = &'a Added>,
    ) -> Result<(), ModelError> {
        for token in added {
            if token.id as usize != self.tokens.len() {
                return Err(refusal(
                    "added tokens",
                    format!("`{}` with id {}", token.content, token.id),
                    format!("id {}, the next one", self.tokens.len()),
                    "Give a tokenizer.json",
                ));
            }
            let kind = if token.special {
                Kind::Control
            } else {
                Kind::UserDefined
            };
            self.tokens.push(token.content.clone());
            self.token_types.push(kind as i32);
            if !self.scores.is_empty() {
                self.scores.push(0.0);
            }
        }
        Ok(())
    }
}
