//! A file mapped into memory, which gives the pages of the last tensor back when the next one is asked for.
//!
//! What holds if the file changes meanwhile: lengths are taken once, from the mapping, so no index ever comes from bytes
//! that changed; other bytes are other numbers, and numbers are proven where they are used; a file that was cut short
//! ends the process (SIGBUS) instead of reading foreign memory. Our own writers replace files by renaming, which
//! leaves a mapping on the old contents.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{AllocationProperty, Bytes};
use memmap2::Mmap;

use crate::ModelError;

/// A mapped, read-only file.
#[derive(Debug)]
pub(super) struct Mapped {
    path: PathBuf,
    map: Mmap,
    /// What was handed out last.
    last: Mutex<Range<usize>>,
}

impl Mapped {
    /// Maps a regular file.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = super::open::open_file(path)?;
        // SAFETY: the mapping is only read, and only as bytes, of which every value is valid. That nobody writes to
        // the file while it is mapped is the caller's world, not ours; the header of this file says what holds then.
        #[allow(unsafe_code, reason = "mapping a file")]
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io("map", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            last: Mutex::new(0..0),
        })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// The whole file as shared bytes, whose pages stay: for data that is used where it lies.
    pub(super) fn into_bytes(self) -> Bytes {
        let owner = bytes::Bytes::from_owner(self.map);
        Bytes::from_shared(owner, AllocationProperty::File)
    }

    /// A range that was proven to lie in the file. Bytes of earlier ranges stay readable, at the price of a page fault.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.release(std::mem::replace(&mut *last, range.clone()));
        &self.map[range]
    }

    /// Gives pages back. What the system answers does not matter: it is advice.
    #[cfg(unix)]
    fn release(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        // SAFETY: the mapping is shared, read-only and backed by the file, so pages that are dropped are read from
        // the file again when someone looks at them.
        #[allow(unsafe_code, reason = "advice on a mapped file")]
        let _advice = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map
                .unchecked_advise_range(advice, range.start, range.len())
        };
    }

    /// Elsewhere the system drops clean pages when it needs them.
    #[cfg(not(unix))]
    fn release(&self, _: Range<usize>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_were_given_back_read_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        let numbers: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &numbers).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        let first = mapped.bytes(0..50_000);
        let second = mapped.bytes(50_000..100_000);
        assert_eq!((first, second), numbers.split_at(50_000));
        assert_eq!(mapped.bytes(0..0).len(), 0);
        assert_eq!(first, &numbers[..50_000]);
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = Mapped::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("expected a regular file"), "{error}");
    }

    #[test]
    fn a_file_replaced_by_renaming_keeps_its_mapped_contents() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, [1; 8192]).unwrap();
        std::fs::write(&next, [2]).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(mapped.bytes(0..mapped.len()), [1; 8192]);
    }
}
