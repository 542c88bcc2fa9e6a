//! A position in hostile bytes: every step is checked against the bytes that are left.

use std::path::Path;

use crate::ModelError;

/// The way out of most faults.
pub(super) const DOWNLOAD: &str = "The file is damaged or incomplete: download or convert it again";

/// Reads little-endian numbers and strings one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a, 'p> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) path: &'p Path,
}

impl<'a> Reader<'a, '_> {
    /// Bytes that are left.
    pub(super) const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], ModelError> {
        if len > self.left() {
            let found = format!("{} bytes before the end of the file", self.left());
            return Err(self.bad(what, found, format!("at least {len}"), DOWNLOAD));
        }
        let start = self.at;
        self.at += len;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of items of at least `size` bytes each, for which there is room.
    pub(super) fn count(&mut self, what: &str, size: usize) -> Result<usize, ModelError> {
        let found = self.u64(what)?;
        let room = self.left() / size;
        match usize::try_from(found) {
            Ok(count) if count <= room => Ok(count),
            _ => {
                let expected = format!("at most {room}, which fit the rest of the file");
                Err(self.bad(what, found.to_string(), expected, DOWNLOAD))
            }
        }
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn text(&mut self, what: &str) -> Result<&'a str, ModelError> {
        let len = self.count(what, 1)?;
        let at = self.at;
        std::str::from_utf8(self.take(len, what)?).map_err(|error| {
            let found = format!("a bad byte at {}", at + error.valid_up_to());
            self.bad(what, found, "UTF-8", DOWNLOAD)
        })
    }

    /// A fault at this position.
    pub(super) fn bad(
        &self,
        what: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
        way_out: &str,
    ) -> ModelError {
        ModelError::File {
            path: self.path.to_path_buf(),
            what: format!("{what}, near byte {}", self.at),
            found: found.into(),
            expected: expected.into(),
            way_out: way_out.to_owned(),
        }
    }
}
