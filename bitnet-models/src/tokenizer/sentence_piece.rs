//! SentencePiece models: the few protobuf fields that a Llama-style BPE needs.
//!
//! Source: `sentencepiece_model.proto`. Fields of `ModelProto`: pieces 1 (piece 1, score 2, type 3), trainer 2
//! (model type 3), normalizer 3 (character map 2, dummy prefix 3, extra spaces 4, escaping 5).
//! Invariant: every length is checked against what is there; unknown fields are skipped.

use super::from_vocabulary::Kind;
use super::settings::Added;
use super::{Vocabulary, refusal};
use crate::ModelError;

/// `TrainerSpec.ModelType.BPE`.
const BPE: u64 = 2;

/// The vocabulary of a model file, with the tokens that other files add behind it.
pub(super) fn vocabulary(bytes: &[u8], added: &[Added]) -> Result<Vocabulary, ModelError> {
    // The defaults of the format, for fields that are not there.
    let mut vocabulary = Vocabulary {
        model: "llama".to_owned(),
        unknown_id: Some(0),
        bos_id: Some(1),
        eos_id: Some(2),
        ..Vocabulary::default()
    };
    let (mut kind, mut prefix, mut collapses, mut escapes, mut maps) = (1, true, true, true, false);
    for field in Fields(bytes) {
        match field.ok_or_else(damaged)? {
            (1, Wire::Bytes(piece)) => read_piece(piece, &mut vocabulary)?,
            (2, Wire::Bytes(trainer)) => {
                for field in Fields(trainer) {
                    match field.ok_or_else(damaged)? {
                        (3, Wire::Number(model_type)) => kind = model_type,
                        (40, Wire::Number(id)) => vocabulary.unknown_id = id_of(id),
                        (41, Wire::Number(id)) => vocabulary.bos_id = id_of(id),
                        (42, Wire::Number(id)) => vocabulary.eos_id = id_of(id),
                        (43, Wire::Number(id)) => vocabulary.pad_id = id_of(id),
                        _ => {}
                    }
                }
            }
            (3, Wire::Bytes(normalizer)) => {
                for field in Fields(normalizer) {
                    match field.ok_or_else(damaged)? {
                        (2, Wire::Bytes(map)) => maps = !map.is_empty(),
                        (3, Wire::Number(flag)) => prefix = flag != 0,
                        (4, Wire::Number(flag)) => collapses = flag != 0,
                        (5, Wire::Number(flag)) => escapes = flag != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if kind != BPE {
        return Err(unsupported(
            format!("model type {kind}"),
            "a BPE model (type 2)",
        ));
    }
    if collapses || maps || !escapes {
        return Err(unsupported(
            "a normalizer that changes text".to_owned(),
            "spaces marked, nothing else",
        ));
    }
    let n_pieces = vocabulary.tokens.len();
    vocabulary.add_space_prefix = Some(prefix);
    vocabulary.extend(added.iter().filter(|token| token.id as usize >= n_pieces))?;
    Ok(vocabulary)
}

fn read_piece(piece: &[u8], vocabulary: &mut Vocabulary) -> Result<(), ModelError> {
    let (mut text, mut score, mut kind) = (None, 0.0, Kind::Normal);
    for field in Fields(piece) {
        match field.ok_or_else(damaged)? {
            (1, Wire::Bytes(bytes)) => text = std::str::from_utf8(bytes).ok(),
            (2, Wire::Word(bits)) => score = f32::from_bits(bits),
            (3, Wire::Number(number)) => {
                let number = i32::try_from(number).ok();
                kind = number.and_then(Kind::new).ok_or_else(damaged)?;
            }
            _ => {}
        }
    }
    vocabulary.tokens.push(text.ok_or_else(damaged)?.to_owned());
    vocabulary.scores.push(score);
    vocabulary.token_types.push(kind as i32);
    Ok(())
}

/// Absent ids are -1, written as 64 bits.
fn id_of(number: u64) -> Option<u32> {
    u32::try_from(number).ok()
}

/// A protobuf value, by how it is written.
enum Wire<'a> {
    Number(u64),
    Word(u32),
    Bytes(&'a [u8]),
    Skipped,
}

/// The fields of a protobuf message; `None` where it is damaged, which ends it.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Wire::Number(self.number()?),
            1 => {
                self.take(8)?;
                Wire::Skipped
            }
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Word(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    /// Seven bits a byte, the lowest first, at most ten bytes.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

fn damaged() -> ModelError {
    refusal(
        "SentencePiece model",
        "a damaged file",
        "a protobuf message of pieces",
        "Download it again",
    )
}

fn unsupported(found: String, expected: &str) -> ModelError {
    refusal(
        "SentencePiece model",
        found,
        expected,
        "Convert it to a tokenizer.json with transformers",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length_end() {
        assert_eq!(Fields(&[0xAC, 0x02]).number(), Some(300));
        assert_eq!(Fields(&[0xFF; 9]).number(), None);
        assert_eq!(Fields(&[0xFF; 12]).number(), None);
    }

    #[test]
    fn lengths_beyond_the_end_are_errors() {
        assert!(vocabulary(&[0x0A, 0x05, 0x0A], &[]).is_err());
        assert!(
            vocabulary(
                &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
                &[]
            )
            .is_err()
        );
        assert!(vocabulary(b"not a model", &[]).is_err());
        assert!(vocabulary(&[], &[]).is_err());
    }
}
