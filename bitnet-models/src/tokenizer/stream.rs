//! Decoding one id at a time: text appears as soon as it is certain.
//!
//! Invariant: all pieces and the flush together are what `decode` gives for all ids, and each piece is whole characters:
//! U+FFFD appears only for bytes that no later byte can complete.
//! Method: byte-level tokens are bytes, so an incomplete UTF-8 tail waits. Other decoders look at neighbours (a space at
//! the beginning, runs of byte tokens), so their pieces are decoded behind the ones before.

use super::{Tokenizer, byte_level};
use crate::ModelError;

/// Turns ids into text as they come; made by [`Tokenizer::decode_stream`].
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    pending: Pending,
}

#[derive(Debug)]
enum Pending {
    /// The bytes of a character that is not complete.
    Bytes {
        alphabet: Box<[char; 256]>,
        bytes: Vec<u8>,
    },
    /// Ids whose text is out, kept as neighbours, and ids whose text is not.
    Ids { shown: Vec<u32>, held: Vec<u32> },
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        let pending = if tokenizer.is_byte_level() {
            Pending::Bytes {
                alphabet: Box::new(byte_level::alphabet()),
                bytes: Vec::new(),
            }
        } else {
            Pending::Ids {
                shown: Vec::new(),
                held: Vec::new(),
            }
        };
        Self {
            tokenizer,
            skip_special,
            pending,
        }
    }

    /// Takes the next id and returns the text that it completes, often empty.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        let added = self.tokenizer.inner.get_added_vocabulary();
        let token = self.tokenizer.token(id);
        let Some(token) =
            token.filter(|token| !(self.skip_special && added.is_special_token(token)))
        else {
            return Ok(String::new());
        };
        match &mut self.pending {
            Pending::Bytes { alphabet, bytes } => {
                bytes.extend(byte_level::bytes(alphabet, &token));
                Ok(take_characters(bytes))
            }
            Pending::Ids { held, .. } => {
                held.push(id);
                // A run of byte tokens is decoded as one.
                let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
                if is_byte {
                    Ok(String::new())
                } else {
                    self.flush()
                }
            }
        }
    }

    /// Returns the text that waits for more, with U+FFFD for an incomplete character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn flush(&mut self) -> Result<String, ModelError> {
        match &mut self.pending {
            Pending::Bytes { bytes, .. } => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                bytes.clear();
                Ok(text)
            }
            Pending::Ids { shown, held } => {
                let decode = |ids: &[u32]| self.tokenizer.decode(ids, self.skip_special);
                let known = decode(shown)?.len();
                let all = [shown.as_slice(), held].concat();
                let text = decode(&all)?.split_off(known);
                // Enough neighbours are kept that their text is not empty: the space that begins a text is dropped once.
                *shown = if decode(held)?.is_empty() {
                    all
                } else {
                    std::mem::take(held)
                };
                held.clear();
                Ok(text)
            }
        }
    }
}

/// Takes whole characters from the front, as `String::from_utf8_lossy` would, and leaves an incomplete one.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    while let Some(chunk) = rest.utf8_chunks().next() {
        text.push_str(chunk.valid());
        rest = &rest[chunk.valid().len()..];
        let incomplete = std::str::from_utf8(rest)
            .err()
            .is_none_or(|e| e.error_len().is_none());
        if incomplete {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        rest = &rest[chunk.invalid().len()..];
    }
    *bytes = rest.to_vec();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_characters_wait_and_impossible_ones_do_not() {
        let mut bytes = b"a\xE2\x82".to_vec();
        assert_eq!(take_characters(&mut bytes), "a");
        bytes.push(0xAC);
        assert_eq!(take_characters(&mut bytes), "€");
        bytes.extend(b"\xFFb\xE2\x82x\xF0");
        assert_eq!(take_characters(&mut bytes), "\u{FFFD}b\u{FFFD}x");
        assert_eq!(bytes, [0xF0]);
    }
}
