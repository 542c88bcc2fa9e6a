//! The configuration of the recipe, as its TOML file has it.
//!
//! Invariant: a [`Qat`] that was read from a file can be run; a setting that makes no sense was refused by its name.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::model::ModelConfig;
use crate::optimizer::{OptimizerConfig, Rates};
use crate::recipes::DataConfig;
use crate::recipes::check::check_stage;
use crate::recipes::settings::{
    BatchShape, CheckpointConfig, LogConfig, Settings, ValidationConfig, int8,
};
use crate::schedule::{Blend, Schedule};

/// Configuration of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qat {
    /// `qat`.
    pub recipe: String,
    /// The folder of the run.
    pub output: PathBuf,
    /// Of fresh weights and of the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// Updates of the weights.
    pub steps: u64,
    /// Number format of embedding and head in the packed model: int8, int4, bf16, f16 or f32.
    #[serde(default = "int8")]
    pub packed_table: String,
    /// What to learn from.
    pub data: DataConfig,
    /// What learns.
    pub model: ModelConfig,
    /// How much it sees at once.
    pub batch: BatchShape,
    /// How it learns.
    pub optimizer: OptimizerConfig,
    /// The course of the learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// The course of the quantization.
    #[serde(default)]
    pub blend: Blend,
    /// What is written down, and when.
    #[serde(default)]
    pub log: LogConfig,
    /// When to measure, and on how much.
    #[serde(default)]
    pub validation: ValidationConfig,
    /// When to save.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
}

impl Qat {
    pub(super) fn settings(&self) -> Settings<'_> {
        Settings {
            output: &self.output,
            seed: self.seed,
            steps: self.steps,
            packed_table: &self.packed_table,
            data: &self.data,
            model: &self.model,
            batch: &self.batch,
            optimizer: &self.optimizer,
            log: &self.log,
            validation: &self.validation,
            checkpoint: &self.checkpoint,
        }
    }

    /// Proves every setting that its type does not.
    pub(super) fn check(&self, file: &str) -> Result<(), TrainError> {
        self.settings().check(file)?;
        check_stage(file, "", self.steps, &self.schedule, &self.blend)
    }

    /// The size of a vocabulary that is still to be learned, about.
    pub(super) fn vocab_guess(&self) -> usize {
        self.data.vocab_size.unwrap_or(100)
    }

    /// Learning rate and weight decay of a step.
    pub(super) fn rates(&self, step: u64) -> Rates {
        let OptimizerConfig {
            lr, weight_decay, ..
        } = self.optimizer;
        Rates::of(&self.schedule, step, self.steps, lr, weight_decay)
    }
}
