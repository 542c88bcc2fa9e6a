//! Opens prepared data, and proves it: sizes, checksums, ids, and that one tokenizer made it all.
//!
//! Checking reads every byte once, on all cores, which also brings the files into memory. After it, reading cannot
//! fail.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::build::hexadecimal;
use super::format::{Digest, damaged};
use super::index::{DATA, Index, TRAIN, VALIDATION};
use super::tokens::{Shard, Tokens};
use crate::TrainError;
use crate::data::tokenizer::{TOKENIZER, TokenizerBundle};

/// Prepared data.
#[derive(Debug, Clone)]
pub struct TokenData {
    folder: PathBuf,
    index: Index,
}

impl TokenData {
    /// Opens a folder that [`build`](super::build) wrote. Shards are read when a split is asked for.
    ///
    /// # Errors
    /// When there is no index, or the tokenizer is not the one that the data was made with.
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let index = Index::load(folder)?;
        let data = Self {
            folder: folder.to_path_buf(),
            index,
        };
        let path = folder.join(TOKENIZER);
        let bytes = std::fs::read(&path).map_err(TrainError::io("read", &path))?;
        data.expect_bytes(&bytes, &path)?;
        Ok(data)
    }

    /// Proves that this tokenizer, say of a model to be trained further, made the data.
    ///
    /// # Errors
    /// When it is another one.
    pub fn expect_tokenizer(&self, bundle: &TokenizerBundle) -> Result<(), TrainError> {
        self.expect_bytes(bundle.json(), TOKENIZER.as_ref())
    }

    fn expect_bytes(&self, json: &[u8], path: &Path) -> Result<(), TrainError> {
        let found = hexadecimal(&Sha256::digest(json));
        if found == self.index.tokenizer_sha256 {
            return Ok(());
        }
        Err(TrainError::File {
            path: path.to_path_buf(),
            what: "tokenizer".to_owned(),
            found: format!("another one (SHA-256 {found:.12}…)"),
            expected: format!(
                "the one that {} was made with (SHA-256 {:.12}…)",
                self.folder.join(DATA).display(),
                self.index.tokenizer_sha256
            ),
            way_out: "Prepare the data again with this tokenizer, or bring the other one back"
                .to_owned(),
        })
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the folder holds.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The tokenizer of the data.
    ///
    /// # Errors
    /// When its files are damaged.
    pub fn tokenizer(&self) -> Result<TokenizerBundle, TrainError> {
        TokenizerBundle::load(&self.folder)
    }

    /// The ids of a split, [`TRAIN`] or [`VALIDATION`], checked.
    ///
    /// # Errors
    /// When shards are missing, damaged, or made with another tokenizer.
    pub fn split(&self, name: &str) -> Result<Tokens, TrainError> {
        let entry = self.index.split(name).ok_or_else(|| TrainError::Request {
            what: "split",
            found: format!("`{name}`"),
            expected: format!("{TRAIN} or {VALIDATION}"),
            way_out: "Choose one of these".to_owned(),
        })?;
        let shards: Result<Vec<Shard>, TrainError> = entry
            .shards
            .par_iter()
            .map(|expected| {
                let path = self.folder.join(&expected.file);
                let shard = Shard::open(&path)?;
                let header = shard.header();
                if (header.tokens, header.documents) != (expected.tokens, expected.documents) {
                    let found = format!("{} ids in {} documents", header.tokens, header.documents);
                    let wanted = format!(
                        "{} in {}, as in {DATA}",
                        expected.tokens, expected.documents
                    );
                    return Err(damaged(&path, "content", &found, &wanted));
                }
                self.expect_digest(&header.tokenizer, header.vocab_size, &path)?;
                Ok(shard)
            })
            .collect();
        Ok(Tokens::new(shards?))
    }

    fn expect_digest(
        &self,
        digest: &Digest,
        vocab_size: u32,
        path: &Path,
    ) -> Result<(), TrainError> {
        let found = hexadecimal(digest);
        if found != self.index.tokenizer_sha256 || vocab_size as usize != self.index.vocab_size {
            let found = format!("{found:.12}… with {vocab_size} tokens");
            let expected = format!(
                "{:.12}… with {}",
                self.index.tokenizer_sha256, self.index.vocab_size
            );
            return Err(damaged(path, "tokenizer", &found, &expected));
        }
        Ok(())
    }
}
