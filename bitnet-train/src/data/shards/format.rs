//! The bytes of a shard: header, ids, document ends, mask.
//!
//! All numbers are little-endian. After the header stand `tokens` ids of `width` bytes, `documents` ends as u64 (the id
//! behind the last one of each document), and, if masked, a bit for each id from the lowest of each byte up: 1 is
//! learned. Two checksums (XXH3, 64 bits): of all that follows the header, and of the header before it.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::TrainError;

const MAGIC: [u8; 8] = *b"BBTOKENS";
const VERSION: u32 = 1;
/// Bytes of the header.
pub(super) const HEADER: usize = 88;

/// A SHA-256 digest.
pub(super) type Digest = [u8; 32];

/// What a shard says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of an id: 2 or 4.
    pub(super) width: usize,
    pub(super) tokens: u64,
    pub(super) documents: u64,
    pub(super) vocab_size: u32,
    pub(super) masked: bool,
    /// Of the file `tokenizer.json`.
    pub(super) tokenizer: Digest,
    /// Of everything behind the header.
    pub(super) checksum: u64,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.width as u32).to_le_bytes());
        bytes.extend(self.tokens.to_le_bytes());
        bytes.extend(self.documents.to_le_bytes());
        bytes.extend(self.vocab_size.to_le_bytes());
        bytes.extend(u32::from(self.masked).to_le_bytes());
        bytes.extend(self.tokenizer);
        bytes.extend(self.checksum.to_le_bytes());
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes.try_into().expect("the fields fill the header")
    }

    /// Reads the header of a file and proves that the file is as long as it says.
    pub(super) fn read(file: &[u8], path: &Path) -> Result<Self, TrainError> {
        let Some(bytes) = file
            .first_chunk::<HEADER>()
            .filter(|bytes| bytes.starts_with(&MAGIC))
        else {
            return Err(damaged(
                path,
                "header",
                "another kind of file",
                "a token shard",
            ));
        };
        let u32_at = |at: usize| u32::from_le_bytes(array(bytes, at));
        let u64_at = |at: usize| u64::from_le_bytes(array(bytes, at));
        if u32_at(8) != VERSION {
            let found = format!("version {}", u32_at(8));
            return Err(damaged(
                path,
                "header",
                &found,
                &format!("version {VERSION}"),
            ));
        }
        if xxh3_64(&bytes[..HEADER - 8]) != u64_at(HEADER - 8) {
            return Err(damaged(
                path,
                "header",
                "a wrong checksum",
                "the one of its fields",
            ));
        }
        let header = Self {
            width: u32_at(12) as usize,
            tokens: u64_at(16),
            documents: u64_at(24),
            vocab_size: u32_at(32),
            masked: u32_at(36) != 0,
            tokenizer: array(bytes, 40),
            checksum: u64_at(72),
        };
        let expected = header.file_len().filter(|_| [2, 4].contains(&header.width));
        if expected != Some(file.len() as u64) {
            let expected =
                expected.map_or("a sensible header".to_owned(), |len| format!("{len} bytes"));
            return Err(damaged(
                path,
                "size",
                &format!("{} bytes", file.len()),
                &expected,
            ));
        }
        Ok(header)
    }

    /// Bytes of the whole file; `None` for sizes that no file has.
    fn file_len(&self) -> Option<u64> {
        let ids = self.tokens.checked_mul(self.width as u64)?;
        let ends = self.documents.checked_mul(8)?;
        (HEADER as u64)
            .checked_add(ids)?
            .checked_add(ends)?
            .checked_add(self.mask_len())
    }

    /// Bytes of the mask.
    pub(super) fn mask_len(&self) -> u64 {
        if self.masked {
            self.tokens.div_ceil(8)
        } else {
            0
        }
    }
}

fn array<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("within the header")
}

/// A shard that cannot be used.
pub(super) fn damaged(path: &Path, what: &str, found: &str, expected: &str) -> TrainError {
    TrainError::File {
        path: path.to_path_buf(),
        what: format!("{what} of a token shard"),
        found: found.to_owned(),
        expected: expected.to_owned(),
        way_out: "Prepare the data again".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: Header = Header {
        width: 2,
        tokens: 9,
        documents: 2,
        vocab_size: 300,
        masked: true,
        tokenizer: [7; 32],
        checksum: 5,
    };

    fn file() -> Vec<u8> {
        let mut file = EXAMPLE.to_bytes().to_vec();
        file.resize(HEADER + 9 * 2 + 2 * 8 + 2, 0);
        file
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        assert_eq!(Header::read(&file(), "x".as_ref()).unwrap(), EXAMPLE);
    }

    #[test]
    fn any_changed_byte_and_any_other_length_is_refused() {
        for at in 0..HEADER {
            let mut changed = file();
            changed[at] ^= 1;
            assert!(Header::read(&changed, "x".as_ref()).is_err(), "byte {at}");
        }
        for len in [0, 7, HEADER - 1, HEADER, file().len() - 1] {
            assert!(
                Header::read(&file()[..len], "x".as_ref()).is_err(),
                "{len} bytes"
            );
        }
        let mut absurd = file();
        let header = Header {
            tokens: u64::MAX,
            ..EXAMPLE
        };
        absurd[..HEADER].copy_from_slice(&header.to_bytes());
        assert!(Header::read(&absurd, "x".as_ref()).is_err());
    }
}
