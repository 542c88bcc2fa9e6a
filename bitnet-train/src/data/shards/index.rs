//! `data.json`: what a folder of shards holds, for people and for programs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// The name of the index.
pub const DATA: &str = "data.json";
/// The split to learn from.
pub const TRAIN: &str = "train";
/// The split to measure with.
pub const VALIDATION: &str = "validation";

pub(super) const VERSION: u32 = 1;

/// Which part of the samples is for validation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Whole samples, each by a hash of its number and the seed.
    Samples {
        /// Of all samples, about.
        fraction: f64,
        /// Another seed chooses others.
        seed: u64,
    },
    /// The end of the sources, measured in characters (or ids); a text that it begins in is cut.
    Tail {
        /// Of all characters.
        fraction: f64,
    },
}

/// The index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Of this file.
    pub version: u32,
    /// Where the samples came from.
    pub sources: String,
    /// How they were split.
    pub split: Split,
    /// SHA-256 of the tokenizer file, in hexadecimal digits.
    pub tokenizer_sha256: String,
    /// One more than the greatest id.
    pub vocab_size: usize,
    /// The ids to learn from.
    pub train: SplitEntry,
    /// The ids to measure with.
    pub validation: SplitEntry,
}

/// One split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitEntry {
    /// Ids.
    pub tokens: u64,
    /// Of which are learned; fewer only if there are masks.
    pub learned: u64,
    /// Documents.
    pub documents: u64,
    /// Its files, in order.
    pub shards: Vec<ShardEntry>,
}

/// One file of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Its name, in the folder of the index.
    pub file: String,
    /// Its ids.
    pub tokens: u64,
    /// Its documents.
    pub documents: u64,
}

impl Index {
    /// The index of a folder.
    pub(super) fn load(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(DATA);
        let bytes = std::fs::read(&path).map_err(TrainError::io("read", &path))?;
        let refused = |found: String| TrainError::File {
            path: path.clone(),
            what: "content".to_owned(),
            found,
            expected: format!("the index of prepared data, version {VERSION}"),
            way_out: "Prepare the data again".to_owned(),
        };
        let index: Self =
            serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        if index.version != VERSION {
            return Err(refused(format!("version {}", index.version)));
        }
        Ok(index)
    }

    /// A split by name.
    pub(super) fn split(&self, name: &str) -> Option<&SplitEntry> {
        match name {
            TRAIN => Some(&self.train),
            VALIDATION => Some(&self.validation),
            _ => None,
        }
    }
}
