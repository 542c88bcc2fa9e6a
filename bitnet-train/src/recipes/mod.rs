//! Whole trainings: one file each, with its configuration and a visible loop.
//!
//! A recipe is read from a TOML file whose key `recipe` names it; to add one, write its file and a line in [`RECIPES`].
//! What recipes share are functions of the other modules; there is no trainer to inherit from.

mod check;
mod course;
pub mod distill;
mod prepared;
pub mod qat;
mod read;
mod replicas;
mod run;
mod settings;
mod step;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bitnet_models::decoder::Decoder;
use burn::tensor::Device;

use crate::TrainError;

pub use prepared::DataConfig;

/// A kind of training.
#[derive(Debug)]
pub struct Entry {
    /// What `recipe` says in the file.
    pub name: &'static str,
    /// In a sentence.
    pub about: &'static str,
    read: Read,
}

/// From the content of a file, and its name, to a recipe.
type Read = fn(toml::Table, &str) -> Result<Box<dyn Recipe>, TrainError>;

/// Every recipe.
pub static RECIPES: &[Entry] = &[qat::RECIPE, distill::RECIPE];

/// A training that is configured.
pub trait Recipe: Debug {
    /// The folder of the run.
    fn output(&self) -> &Path;

    /// How large it will be. Writes nothing.
    ///
    /// # Errors
    ///
    /// A configuration that no model can have.
    fn plan(&self) -> Result<Plan, TrainError>;

    /// How long a step takes on this device, from a few on made-up data.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan).
    fn time_step(&self, device: &Device) -> Result<Duration, TrainError>;

    /// Does it, to its end or until asked to stop. Several devices share the rows of each batch: the loss is that of one.
    ///
    /// # Errors
    ///
    /// What devices, data, files and numbers refuse. Checkpoints that were written stay.
    fn train(&self, devices: &[Device], control: Control<'_>) -> Result<Summary, TrainError>;
}

/// Reads a recipe from its file. `settings` are `key=value`, keys with their sections before them, and win over the file.
///
/// # Errors
///
/// A file that is no recipe, and settings that make no sense, by name.
pub fn open(path: &Path, settings: &[String]) -> Result<Box<dyn Recipe>, TrainError> {
    let file = path.display().to_string();
    let table = read::table(path, settings)?;
    let name = table.get("recipe").and_then(|name| name.as_str());
    match RECIPES.iter().find(|entry| Some(entry.name) == name) {
        Some(entry) => (entry.read)(table, &file),
        None => {
            let names: Vec<&str> = RECIPES.iter().map(|entry| entry.name).collect();
            let found = name.map_or_else(|| "nothing".to_owned(), |name| format!("`{name}`"));
            Err(read::refused(&file, "recipe", &found, &names.join(", ")))
        }
    }
}

/// How a training is steered from outside.
pub struct Control<'a> {
    /// Goes on from the last checkpoint in the folder of the run.
    pub resume: bool,
    /// Once true, the training ends after the step that is being done, with a checkpoint.
    pub stop: &'a AtomicBool,
    /// Is told after each step.
    pub progress: &'a mut dyn FnMut(&Progress),
}

impl Debug for Control<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("resume", &self.resume)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

/// How far a training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Of so many.
    pub steps: u64,
    /// Ids of a step.
    pub step_tokens: u64,
    /// Loss of the step's batch.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// The latest validation loss.
    pub validation_loss: Option<f64>,
}

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Finished,
    /// The validation loss fell no more.
    Early,
    /// It was asked to.
    Stopped,
}

/// What a training left.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Why it ended.
    pub ended: Ended,
    /// Steps done, those before a resumption included.
    pub step: u64,
    /// The lowest validation loss.
    pub best: Option<f64>,
    /// The packed model, if it got that far.
    pub packed: Option<PathBuf>,
}

/// How large a training is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Weights of projections, and all others.
    pub parameters: (u64, u64),
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Whether the data is there; else `vocab_size` is what was asked for, or a guess.
    pub prepared: bool,
    /// Bytes at work: weights, gradients, both moments, and about what a batch needs.
    pub bytes: u64,
    /// Steps.
    pub steps: u64,
    /// Ids in all steps.
    pub tokens: u64,
}

/// Steps that are timed.
const TIMED: u32 = 3;

/// The time of a step: the mean of a few, after two to warm up. The second is the first with moments, which on a GPU is another
/// program to compile.
fn timed(mut model: Decoder, mut step: impl FnMut(Decoder) -> Decoder) -> Duration {
    for _ in 0..2 {
        model = step(model);
    }
    let begun = Instant::now();
    for _ in 0..TIMED {
        model = step(model);
    }
    begun.elapsed() / TIMED
}
