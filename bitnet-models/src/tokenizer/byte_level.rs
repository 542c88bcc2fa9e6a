//! The GPT-2 alphabet: every byte as one printable character, so that tokens are text.
//!
//! Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, for U+0100 onwards.
//! Invariant: both directions are inverse on the 256 characters.

/// Whether a byte stands for itself.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character of each byte.
pub(super) fn alphabet() -> [char; 256] {
    let mut unprintable = (0x100..).filter_map(char::from_u32);
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if is_printable(byte) {
            char::from(byte)
        } else {
            unprintable.next().unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
}

/// The bytes of a token. One with a character outside the alphabet stands for itself.
pub(super) fn bytes(alphabet: &[char; 256], token: &str) -> Vec<u8> {
    let byte = |c: char| {
        // Two characters in three stand for themselves.
        match u8::try_from(c) {
            Ok(byte) if alphabet[usize::from(byte)] == c => Some(byte),
            _ => (0..=u8::MAX).find(|&byte| alphabet[usize::from(byte)] == c),
        }
    };
    let bytes: Option<Vec<u8>> = token.chars().map(byte).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character_and_comes_back() {
        let alphabet = alphabet();
        assert_eq!(alphabet[usize::from(b' ')], 'Ġ');
        assert_eq!(alphabet[usize::from(b'\n')], 'Ċ');
        for byte in 0..=u8::MAX {
            let token = alphabet[usize::from(byte)].to_string();
            assert_eq!(bytes(&alphabet, &token), [byte]);
        }
    }

    #[test]
    fn a_token_outside_the_alphabet_is_its_own_text() {
        assert_eq!(bytes(&alphabet(), "<｜end｜>"), "<｜end｜>".as_bytes());
    }
}
