//! Writes the shards of one split: ids stream to disk, ends and mask follow when the shard is full.
//!
//! A shard stands under a temporary name until all are whole. Documents are not divided among shards.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use xxhash_rust::xxh3::Xxh3;

use super::encode::Encoded;
use super::format::{Digest, HEADER, Header};
use super::index::{ShardEntry, SplitEntry};
use crate::TrainError;

/// The writer of a split.
pub(super) struct SplitWriter {
    folder: PathBuf,
    name: &'static str,
    vocab_size: usize,
    tokenizer: Digest,
    /// Ids after which a shard ends.
    shard_tokens: u64,
    open: Option<Shard>,
    entry: SplitEntry,
    files: Vec<(NamedTempFile, PathBuf)>,
}

struct Shard {
    file: std::io::BufWriter<NamedTempFile>,
    path: PathBuf,
    hash: Box<Xxh3>,
    tokens: u64,
    ends: Vec<u64>,
    /// A bit for each id so far.
    mask: Vec<u8>,
    masked: bool,
}

impl SplitWriter {
    pub(super) fn new(
        folder: &Path,
        name: &'static str,
        vocab_size: usize,
        tokenizer: Digest,
        shard_tokens: u64,
    ) -> Self {
        Self {
            folder: folder.to_path_buf(),
            name,
            vocab_size,
            tokenizer,
            shard_tokens,
            open: None,
            entry: SplitEntry::default(),
            files: Vec::new(),
        }
    }

    /// Bytes of an id: as few as hold the vocabulary.
    fn width(&self) -> usize {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    /// Adds a document.
    pub(super) fn push(&mut self, document: &Encoded) -> Result<(), TrainError> {
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.begin()?,
        };
        let width = self.width();
        let bytes: Vec<u8> = document
            .ids
            .iter()
            .flat_map(|id| id.to_le_bytes().into_iter().take(width))
            .collect();
        shard.write(&bytes)?;
        for at in 0..document.ids.len() {
            let learned = document.mask.as_ref().is_none_or(|mask| mask[at]);
            let bit = shard.tokens % 8;
            if bit == 0 {
                shard.mask.push(0);
            }
            let byte = shard.mask.last_mut().expect("just pushed");
            *byte |= u8::from(learned) << bit;
            shard.masked |= !learned;
            shard.tokens += 1;
            self.entry.learned += u64::from(learned);
        }
        shard.ends.push(shard.tokens);
        if shard.tokens >= self.shard_tokens {
            self.end(shard)
        } else {
            self.open = Some(shard);
            Ok(())
        }
    }

    fn begin(&self) -> Result<Shard, TrainError> {
        let path = self
            .folder
            .join(format!("{}-{:05}.tokens", self.name, self.files.len()));
        let file = temporary(&self.folder).map_err(TrainError::io("create", &path))?;
        let mut shard = Shard {
            file: std::io::BufWriter::with_capacity(1 << 20, file),
            path,
            hash: Box::default(),
            tokens: 0,
            ends: Vec::new(),
            mask: Vec::new(),
            masked: false,
        };
        // Room for the header, which is known at the end.
        let room = shard.file.write_all(&[0; HEADER]);
        room.map_err(TrainError::io("write", &shard.path))?;
        Ok(shard)
    }

    fn end(&mut self, mut shard: Shard) -> Result<(), TrainError> {
        let ends: Vec<u8> = shard
            .ends
            .iter()
            .flat_map(|end| end.to_le_bytes())
            .collect();
        shard.write(&ends)?;
        if shard.masked {
            let mask = std::mem::take(&mut shard.mask);
            shard.write(&mask)?;
        }
        let header = Header {
            width: self.width(),
            tokens: shard.tokens,
            documents: shard.ends.len() as u64,
            vocab_size: self.vocab_size as u32,
            masked: shard.masked,
            tokenizer: self.tokenizer,
            checksum: shard.hash.digest(),
        };
        let Shard { mut file, path, .. } = shard;
        let finish = || -> std::io::Result<NamedTempFile> {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header.to_bytes())?;
            let file = file
                .into_inner()
                .map_err(std::io::IntoInnerError::into_error)?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let file = finish().map_err(TrainError::io("write", &path))?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        self.entry.tokens += header.tokens;
        self.entry.documents += header.documents;
        self.entry.shards.push(ShardEntry {
            file: name,
            tokens: header.tokens,
            documents: header.documents,
        });
        self.files.push((file, path));
        Ok(())
    }

    /// Ends the last shard; the files are put in their places by the caller, when all splits are done.
    pub(super) fn finish(
        mut self,
    ) -> Result<(SplitEntry, Vec<(NamedTempFile, PathBuf)>), TrainError> {
        if let Some(shard) = self.open.take() {
            self.end(shard)?;
        }
        Ok((self.entry, self.files))
    }
}

impl Shard {
    /// Writes what the checksum covers.
    fn write(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.hash.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(TrainError::io("write", &self.path))
    }
}

/// A file that is removed unless it is given a name, with the permissions of any new file.
pub(super) fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".partial");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}
