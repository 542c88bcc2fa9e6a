//! A tokenizer becomes the lists that a GGUF file holds.
//!
//! Invariant: a tokenizer made from the result gives the same ids; what GGUF cannot express is an error. The merges of a
//! SentencePiece tokenizer become scores: a piece scores minus the place of the first merge that makes it.

use std::collections::HashMap;

use serde_json::Value;

use super::from_vocabulary::{Kind, sentence_piece_normalizer};
use super::pre_tokenizers::PreTokenizer;
use super::{Tokenizer, Vocabulary, foreign, refusal};
use crate::ModelError;

/// More than any vocabulary has; an id beyond it is damage.
const MAX_TOKENS: usize = 1 << 24;

impl Tokenizer {
    /// The `tokenizer.*` keys of a GGUF file for this tokenizer, without a chat template.
    ///
    /// # Errors
    /// When the tokenizer is no BPE, or cuts text in a way that has no name there.
    pub fn to_vocabulary(&self) -> Result<Vocabulary, ModelError> {
        let json = foreign("tokenizer to write", || {
            Ok(serde_json::to_value(&self.inner)?)
        })?;
        let model = &json["model"];
        if model["type"] != "BPE" {
            return Err(inexpressible("model", &model["type"], "BPE"));
        }
        if self.vocab_size > MAX_TOKENS {
            let found = Value::from(self.vocab_size);
            return Err(inexpressible("number of tokens", &found, "at most 2^24"));
        }
        let unknown = model["unk_token"].as_str().and_then(|token| self.id(token));
        let (tokens, token_types) = self.listed(model["byte_fallback"] == true, unknown);
        let mut vocabulary = Vocabulary {
            tokens,
            token_types,
            bos_id: self.bos,
            eos_id: self.eos.first().copied(),
            eot_id: self.end_of_turn(),
            pad_id: self.pad,
            unknown_id: unknown,
            add_bos: Some(!self.before.is_empty()),
            add_eos: Some(!self.after.is_empty()),
            ..Vocabulary::default()
        };
        let merges = merges(&model["merges"]);
        if self.is_byte_level() {
            let rule = PreTokenizer::written_as(&json["normalizer"], &json["pre_tokenizer"], model);
            let rule = rule.ok_or_else(|| {
                inexpressible(
                    "pre_tokenizer",
                    &json["pre_tokenizer"],
                    "a rule that GGUF has a name for",
                )
            })?;
            vocabulary.model = "gpt2".to_owned();
            vocabulary.pre = Some(rule.names[0].to_owned());
            vocabulary.scores = vec![0.0; vocabulary.tokens.len()];
            vocabulary.merges = merges.iter().map(|(l, r)| format!("{l} {r}")).collect();
        } else {
            let normalizer = &json["normalizer"];
            let written = |prefix: &bool| sentence_piece_normalizer(*prefix) == *normalizer;
            let prefix = [true, false].into_iter().find(written);
            if prefix.is_none() || !json["pre_tokenizer"].is_null() {
                let expected = "those of Llama's SentencePiece";
                return Err(inexpressible(
                    "normalizer and pre_tokenizer",
                    normalizer,
                    expected,
                ));
            }
            vocabulary.model = "llama".to_owned();
            vocabulary.scores = scores(&vocabulary.tokens, &merges);
            vocabulary.add_space_prefix = prefix;
        }
        Ok(vocabulary)
    }

    /// Every token by its id, with its type. Ids without a token get a name that no text contains.
    fn listed(&self, has_bytes: bool, unknown: Option<u32>) -> (Vec<String>, Vec<i32>) {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let unused = |id: usize| (format!("[PAD{id}]"), Kind::Unused as i32);
        let mut list: Vec<_> = (0..self.vocab_size).map(unused).collect();
        for (token, id) in self.inner.get_vocab(true) {
            let is_byte = has_bytes && token.len() == 6 && token.starts_with("<0x");
            let kind = match added.get(&id) {
                _ if unknown == Some(id) => Kind::Unknown,
                Some(token) if token.special => Kind::Control,
                Some(_) => Kind::UserDefined,
                None if is_byte => Kind::Byte,
                None => Kind::Normal,
            };
            list[id as usize] = (token, kind as i32);
        }
        list.into_iter().unzip()
    }

    /// The end token that ends a turn rather than a text.
    fn end_of_turn(&self) -> Option<u32> {
        let is_turn = |id: &u32| {
            let token = self.token(*id).unwrap_or_default();
            ["<|eot_id|>", "<|im_end|>", "<end_of_turn>"].contains(&token.as_str())
        };
        self.eos.iter().copied().find(is_turn)
    }
}

/// The merges as the crate writes them: pairs.
fn merges(json: &Value) -> Vec<(&str, &str)> {
    let list = json.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|merge| Some((merge[0].as_str()?, merge[1].as_str()?)))
        .collect()
}

fn scores(tokens: &[String], merges: &[(&str, &str)]) -> Vec<f32> {
    let mut first: HashMap<String, usize> = HashMap::new();
    for (place, (left, right)) in merges.iter().enumerate() {
        first.entry([*left, *right].concat()).or_insert(place);
    }
    let score = |token: &String| first.get(token).map_or(0.0, |&place| -(place as f32));
    tokens.iter().map(score).collect()
}

fn inexpressible(what: &str, found: &Value, expected: &str) -> ModelError {
    refusal(
        what,
        found.to_string(),
        expected,
        "Keep the tokenizer in a tokenizer.json beside the model",
    )
}
