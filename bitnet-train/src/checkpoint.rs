//! Checkpoints of a run: a Hugging Face folder of float masters with its tokenizer, which any part of the project loads,
//! and beside them all that it takes to go on.
//!
//! | file | holds |
//! | --- | --- |
//! | `config.json`, `model.safetensors`, tokenizer | the model |
//! | `training/optimizer.bpk` | moments and step counts of AdamW (Burn's record) |
//! | `training/recipe.toml` | the configuration of the run |
//! | `training/state.json` | [`State`] |
//!
//! The latter have a folder of their own, as a folder with two files of tensors is no checkpoint to those who load models.
//! A folder appears whole: it is written beside its place and renamed. There is no state of random numbers: all of them
//! are functions of the recipe's seed and of a place.

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_models::decoder::DecoderConfig;
use bitnet_models::weights::{self, Checkpoint, ExportOptions, Variant};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::data::batches::Position;
use crate::data::shards::Index;
use crate::model::Masters;
use crate::optimizer::{Optimizer, OptimizerConfig};

/// Name of the recipe, in a checkpoint.
pub const RECIPE: &str = "training/recipe.toml";
const TRAINING: &str = "training";
const STATE: &str = "training/state.json";
const OPTIMIZER: &str = "training/optimizer.bpk";

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// Ids seen.
    pub tokens: u64,
    /// The batch to be seen next.
    pub position: Position,
    /// Weight decay of the last step.
    pub weight_decay: f64,
    /// The lowest validation loss so far.
    pub best: Option<f64>,
    /// Validations since then.
    pub since_best: u32,
    /// What was learned from.
    pub data: Data,
}

/// By what prepared data is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Of its tokenizer.
    pub tokenizer_sha256: String,
    /// Ids to learn from.
    pub tokens: u64,
}

impl Data {
    /// Of an index.
    pub fn of(index: &Index) -> Self {
        Self {
            tokenizer_sha256: index.tokenizer_sha256.clone(),
            tokens: index.train.tokens,
        }
    }
}

impl State {
    /// Before the first step.
    pub const fn new(data: Data, weight_decay: f64) -> Self {
        Self {
            step: 0,
            tokens: 0,
            position: Position { epoch: 0, step: 0 },
            weight_decay,
            best: None,
            since_best: 0,
            data,
        }
    }
}

/// Writes a checkpoint. What was in the folder is replaced, and is there until then.
///
/// # Errors
///
/// The system's, and what exporting refuses.
pub fn save(
    folder: &Path,
    masters: &Masters,
    decoder: &DecoderConfig,
    optimizer: &Optimizer,
    recipe: &str,
    state: &State,
) -> Result<(), TrainError> {
    let partial = beside(folder, "partial");
    remove(&partial)?;
    let options = ExportOptions::new(Variant::Master).with_activations(decoder.activations);
    weights::export(
        masters,
        &decoder.slots(),
        &partial,
        &options,
        &mut |_, _| (),
    )?;
    let training = partial.join(TRAINING);
    fs::create_dir(&training).map_err(TrainError::io("create", &training))?;
    let write = |name: &str, content: &[u8]| {
        let path = partial.join(name);
        fs::write(&path, content).map_err(TrainError::io("write", &path))
    };
    let bytes = optimizer.to_bytes().map_err(|error| TrainError::Io {
        path: partial.join(OPTIMIZER),
        action: "write",
        source: std::io::Error::other(error),
    })?;
    write(OPTIMIZER, &bytes)?;
    write(RECIPE, recipe.as_bytes())?;
    let state = serde_json::to_string_pretty(state).expect("numbers under names");
    write(STATE, state.as_bytes())?;

    // Folders cannot be exchanged everywhere: between the two renames, the checkpoint is the old one under another name.
    let old = beside(folder, "old");
    remove(&old)?;
    if folder.exists() {
        fs::rename(folder, &old).map_err(TrainError::io("replace", folder))?;
    }
    fs::rename(&partial, folder).map_err(TrainError::io("write", folder))?;
    remove(&old)
}

/// An opened checkpoint.
#[derive(Debug)]
pub struct Saved {
    /// The model.
    pub model: Box<dyn Checkpoint>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The recipe.
    pub recipe: String,
    /// Where the run was.
    pub state: State,
}

/// Opens a checkpoint, or the one before it if the run was killed while exchanging them.
///
/// # Errors
///
/// Files that are missing or damaged.
pub fn load(folder: &Path, config: &OptimizerConfig) -> Result<Saved, TrainError> {
    let old = beside(folder, "old");
    if !folder.exists() && old.exists() {
        fs::rename(&old, folder).map_err(TrainError::io("restore", &old))?;
    }
    let damaged = |name: &str, found: String| TrainError::File {
        path: folder.join(name),
        what: "content".to_owned(),
        found,
        expected: "what a training run saved".to_owned(),
        way_out: "Resume from another checkpoint, or start again".to_owned(),
    };
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(TrainError::io("read", &path))
    };
    let state: State =
        serde_json::from_slice(&read(STATE)?).map_err(|error| damaged(STATE, error.to_string()))?;
    let recipe =
        String::from_utf8(read(RECIPE)?).map_err(|error| damaged(RECIPE, error.to_string()))?;
    let optimizer = Optimizer::from_bytes(config, state.weight_decay, read(OPTIMIZER)?)
        .map_err(|error| damaged(OPTIMIZER, error))?;
    Ok(Saved {
        model: weights::open(folder)?,
        optimizer,
        recipe,
        state,
    })
}

fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn remove(folder: &Path) -> Result<(), TrainError> {
    match folder.exists() {
        true => fs::remove_dir_all(folder).map_err(TrainError::io("remove", folder)),
        false => Ok(()),
    }
}
