//! Sources to shards: reads in order, encodes on all cores, writes in order.
//!
//! One chunk of samples is in memory at a time. The result depends on the sources, the tokenizer and the options alone,
//! not on cores. Nothing appears in the folder before all of it is written; the index comes last.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::encode::{Encoded, encode};
use super::format::Digest;
use super::index::{DATA, Index, Split, TRAIN, VALIDATION, VERSION};
use super::write::{SplitWriter, temporary};
use crate::TrainError;
use crate::data::keyed;
use crate::data::sources::{Sample, Sources};
use crate::data::tokenizer::{TOKENIZER, TOKENIZER_CONFIG, TokenizerBundle};

/// Characters that are encoded at once.
const CHUNK: u64 = 1 << 22;

/// How to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    split: Split,
    shard_tokens: u64,
    overwrite: bool,
}

impl Default for BuildOptions {
    /// One sample in a hundred for validation, shards of 2²⁶ ids, a new or empty folder.
    fn default() -> Self {
        Self {
            split: Split::Samples {
                fraction: 0.01,
                seed: 0,
            },
            shard_tokens: 1 << 26,
            overwrite: false,
        }
    }
}

impl BuildOptions {
    /// Another split.
    pub const fn with_split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }

    /// Ends a shard with the document that reaches so many ids.
    pub const fn with_shard_tokens(mut self, shard_tokens: u64) -> Self {
        self.shard_tokens = shard_tokens;
        self
    }

    /// Whether prepared data in the folder may be replaced.
    pub const fn with_overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }
}

/// How far a build is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Samples encoded.
    pub samples: u64,
    /// Ids written.
    pub tokens: u64,
}

/// Builds the data of a folder. `progress` is told after each chunk.
///
/// # Errors
/// When the sources, the tokenizer or the disk refuse, nothing is left to learn from, or the folder is not empty.
pub fn build(
    sources: &Sources,
    bundle: &TokenizerBundle,
    folder: &Path,
    options: &BuildOptions,
    mut progress: impl FnMut(Progress),
) -> Result<Index, TrainError> {
    prepare_folder(folder, options.overwrite)?;
    let chooser = Chooser::new(options.split, sources)?;
    let digest: Digest = Sha256::digest(bundle.json()).into();
    let vocab_size = bundle.tokenizer().vocab_size();
    let writer = |name| SplitWriter::new(folder, name, vocab_size, digest, options.shard_tokens);
    let (mut train, mut validation) = (writer(TRAIN), writer(VALIDATION));

    let mut done = Progress::default();
    let mut write = |chunk: &mut Vec<(Sample, bool)>| -> Result<(), TrainError> {
        let encoded = chunk.par_iter().map(|(sample, _)| encode(sample, bundle));
        let encoded: Vec<Result<Encoded, TrainError>> = encoded.collect();
        for (document, (_, validates)) in encoded.into_iter().zip(chunk.drain(..)) {
            done.samples += 1;
            let document = document.map_err(|error| TrainError::Sample {
                number: done.samples,
                sources: sources.to_string(),
                source: Box::new(error),
            })?;
            done.tokens += document.ids.len() as u64;
            let split = if validates {
                &mut validation
            } else {
                &mut train
            };
            split.push(&document)?;
        }
        progress(done);
        Ok(())
    };
    let (mut chunk, mut size, mut before) = (Vec::new(), 0, 0);
    for (number, sample) in (0..).zip(sources.samples()) {
        let sample = sample?;
        let len = sample.len();
        chunk.extend(chooser.choose(sample, number, before));
        before += len;
        size += len;
        if size >= CHUNK {
            write(&mut chunk)?;
            size = 0;
        }
    }
    write(&mut chunk)?;

    let (train, mut files) = train.finish()?;
    let (validation, more) = validation.finish()?;
    files.extend(more);
    if train.tokens == 0 {
        return Err(TrainError::Request {
            what: "samples to learn from",
            found: "none".to_owned(),
            expected: "at least one in the training split".to_owned(),
            way_out: format!("Check the sources ({sources}), or choose a smaller validation split"),
        });
    }
    let index = Index {
        version: VERSION,
        sources: sources.to_string(),
        split: options.split,
        tokenizer_sha256: hexadecimal(&digest),
        vocab_size,
        train,
        validation,
    };
    let json = format!(
        "{:#}\n",
        serde_json::to_value(&index).expect("plain fields")
    );
    for (name, bytes) in [
        (TOKENIZER, bundle.json()),
        (TOKENIZER_CONFIG, bundle.config()),
        (DATA, json.as_bytes()),
    ] {
        let path = folder.join(name);
        let written = temporary(folder).and_then(|mut file| {
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            Ok(file)
        });
        files.push((written.map_err(TrainError::io("write", &path))?, path));
    }
    remove_old(folder)?;
    for (file, path) in files {
        let persisted = file.persist(&path);
        persisted.map_err(|error| TrainError::io("write", &path)(error.error))?;
    }
    Ok(index)
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes a folder that is new or empty, or holds prepared data that may be replaced.
fn prepare_folder(folder: &Path, overwrite: bool) -> Result<(), TrainError> {
    fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
    let mut entries = fs::read_dir(folder).map_err(TrainError::io("read", folder))?;
    if entries.next().is_some() && !overwrite {
        return Err(TrainError::File {
            path: folder.to_path_buf(),
            what: "the folder to write".to_owned(),
            found: "files in it".to_owned(),
            expected: "a new or empty folder".to_owned(),
            way_out: "Choose another one, or allow overwriting".to_owned(),
        });
    }
    Ok(())
}

/// Removes the index of earlier data, then its shards: without an index, a folder does not open.
fn remove_old(folder: &Path) -> Result<(), TrainError> {
    let index = folder.join(DATA);
    if !index.exists() {
        return Ok(());
    }
    fs::remove_file(&index).map_err(TrainError::io("replace", &index))?;
    let entries = fs::read_dir(folder).map_err(TrainError::io("read", folder))?;
    let paths = entries.flatten().map(|entry| entry.path());
    for path in paths.filter(|path: &PathBuf| path.extension().is_some_and(|end| end == "tokens")) {
        fs::remove_file(&path).map_err(TrainError::io("replace", &path))?;
    }
    Ok(())
}

/// Decides what is for validation.
#[derive(Debug)]
enum Chooser {
    Samples {
        threshold: f64,
        seed: u64,
    },
    /// Where, in characters, validation begins.
    Tail(u64),
}

impl Chooser {
    fn new(split: Split, sources: &Sources) -> Result<Self, TrainError> {
        let (Split::Samples { fraction, .. } | Split::Tail { fraction }) = split;
        if !(0.0..1.0).contains(&fraction) {
            return Err(TrainError::Request {
                what: "fraction for validation",
                found: fraction.to_string(),
                expected: "a number from 0 to below 1".to_owned(),
                way_out: "0.1 takes a tenth".to_owned(),
            });
        }
        Ok(match split {
            Split::Samples { fraction, seed } => Self::Samples {
                threshold: fraction,
                seed,
            },
            Split::Tail { fraction } => {
                let mut all = 0;
                for sample in sources.samples() {
                    all += sample?.len();
                }
                Self::Tail(((1.0 - fraction) * all as f64 + 1e-6) as u64)
            }
        })
    }

    /// The sample, perhaps in two, and whether each part is for validation. `before` counts what came before it.
    fn choose(&self, sample: Sample, number: u64, before: u64) -> Vec<(Sample, bool)> {
        match *self {
            Self::Samples { threshold, seed } => {
                // 53 bits make a fraction.
                let unit = (keyed(seed, number) >> 11) as f64 / (1u64 << 53) as f64;
                vec![(sample, unit < threshold)]
            }
            Self::Tail(begin) => match sample {
                Sample::Text(text) if before < begin => {
                    let mut chars = text.char_indices();
                    match chars.nth((begin - before) as usize) {
                        Some((at, _)) => {
                            let (head, tail) = text.split_at(at);
                            vec![
                                (Sample::Text(head.to_owned()), false),
                                (Sample::Text(tail.to_owned()), true),
                            ]
                        }
                        None => vec![(Sample::Text(text), false)],
                    }
                }
                sample => vec![(sample, before >= begin)],
            },
        }
    }
}
