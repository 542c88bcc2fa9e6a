//! Exact encoding of trusted text around untrusted text.
//!
//! Encoding the parts one by one would give other ids (`" Hello"` is one token, `" "` and `"Hello"` are two). So the
//! first character of every special token that the untrusted text spells is replaced by a stand-in, the whole is split
//! at the special tokens that remain, and the stand-ins are restored before normalization.
//!
//! Invariant: without special tokens in the untrusted text, the ids are those of [`Special::Parse`](super::Special).

use tokenizers::tokenizer::{NormalizedString, Normalizer, NormalizerWrapper};

use super::{Tokenizer, refusal};
use crate::ModelError;

/// Stand-ins come from the private use plane, from characters that occur in no text at hand.
const STAND_INS: std::ops::Range<u32> = 0xF_0000..0xF_FFFE;

/// Hides the special tokens that untrusted texts spell.
#[derive(Debug)]
pub(crate) struct Shield {
    specials: Vec<String>,
    /// The first characters of the special tokens, each with what stands in for it.
    stand_ins: Vec<(char, char)>,
}

impl Shield {
    /// For these texts, which are all that stand-ins must differ from.
    pub(crate) fn new(tokenizer: &Tokenizer, texts: &[&str]) -> Result<Self, ModelError> {
        let added = &tokenizer.as_text;
        let is_special = |token: &str| added.is_special_token(token);
        let tokens = added.get_added_tokens_decoder().values();
        let tokens: Vec<_> = tokens.filter(|t| is_special(&t.content)).collect();
        if let Some(token) = tokens.iter().find(|token| token.normalized) {
            return Err(refusal(
                "special tokens",
                format!("`{}`, which is sought in normalized text", token.content),
                "special tokens that are sought in the text as it is",
                "Set `normalized` to false in tokenizer.json, or encode the conversation as trusted text",
            ));
        }
        let mut firsts: Vec<char> = tokens
            .iter()
            .filter_map(|t| t.content.chars().next())
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        let free = STAND_INS.filter_map(char::from_u32);
        let free = free.filter(|&c| !texts.iter().any(|text| text.contains(c)));
        Ok(Self {
            specials: tokens.iter().map(|t| t.content.clone()).collect(),
            stand_ins: firsts.into_iter().zip(free).collect(),
        })
    }

    /// The text, no longer spelling a special token.
    pub(crate) fn hide(&self, text: &str) -> String {
        let hidden = |(at, c): (usize, char)| {
            let rest = &text[at..];
            let spells = self.specials.iter().any(|token| rest.starts_with(token));
            let stand_in = self.stand_ins.iter().find(|(first, _)| *first == c);
            stand_in
                .filter(|_| spells)
                .map_or(c, |(_, stand_in)| *stand_in)
        };
        text.char_indices().map(hidden).collect()
    }

    /// The ids of a text with hidden parts.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ModelError> {
        let restore = Restore {
            stand_ins: &self.stand_ins,
            then: tokenizer.inner.get_normalizer(),
        };
        let added = tokenizer.inner.get_added_vocabulary();
        tokenizer.run(added, Some(&restore), text)
    }
}

/// A normalizer that first puts the hidden characters back.
struct Restore<'a> {
    stand_ins: &'a [(char, char)],
    then: Option<&'a NormalizerWrapper>,
}

impl Normalizer for Restore<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        for &(first, stand_in) in self.stand_ins {
            if text.get().contains(stand_in) {
                text.replace(stand_in, first.encode_utf8(&mut [0; 4]))?;
            }
        }
        self.then.map_or(Ok(()), |then| then.normalize(text))
    }
}
