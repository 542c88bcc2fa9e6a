//! The configuration of the recipe, as its TOML file has it, and the proof of what types do not prove.
//!
//! Invariant: a [`Qat`] that was read from a file can be run; a setting that makes no sense was refused by its name.

use std::path::PathBuf;

use bitnet_models::weights::{Arithmetic, PackOptions};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::data::batches::Sampling;
use crate::model::ModelConfig;
use crate::optimizer::OptimizerConfig;
use crate::recipes::{DataConfig, read};
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

fn int8() -> String {
    "int8".to_owned()
}

/// How much a step sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchShape {
    /// Rows of a step.
    pub rows: usize,
    /// Ids of a row.
    pub length: usize,
    /// Rows in memory at once; gradients of the others are added. All if not given.
    pub at_once: Option<usize>,
}

/// When lines are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Steps between lines.
    pub every: u64,
    /// Steps between looks at the ternary weights.
    pub trits_every: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            every: 10,
            trits_every: 100,
        }
    }
}

/// When the validation loss is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Steps between measurements.
    pub every: u64,
    /// Batches at most.
    pub batches: usize,
    /// Ends the run after so many measurements without a lower loss; 0 is never.
    pub patience: u32,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self {
            every: 100,
            batches: 20,
            patience: 0,
        }
    }
}

/// When checkpoints are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; one is written at the end in any case.
    pub every: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 500 }
    }
}

impl Qat {
    /// Proves every setting that its type does not.
    pub(super) fn check(&self, file: &str) -> Result<(), TrainError> {
        let Self {
            model,
            batch,
            optimizer,
            ..
        } = self;
        let require = |holds: bool, field: &str, found: String, expected: &str| match holds {
            true => Ok(()),
            false => Err(read::refused(file, field, &found, expected)),
        };
        for (field, size) in [
            ("model.hidden_size", model.hidden_size),
            ("model.intermediate_size", model.intermediate_size),
            ("model.n_layers", model.n_layers),
            ("model.n_heads", model.n_heads),
            ("model.n_kv_heads", model.n_kv_heads.unwrap_or(1)),
            ("model.context", model.context),
            ("batch.rows", batch.rows),
            ("batch.length", batch.length),
            ("batch.at_once", self.at_once()),
            ("validation.batches", self.validation.batches),
            ("steps", self.steps as usize),
            ("log.every", self.log.every as usize),
            ("log.trits_every", self.log.trits_every as usize),
            ("validation.every", self.validation.every as usize),
            ("checkpoint.every", self.checkpoint.every as usize),
        ] {
            require(size > 0, field, size.to_string(), "at least 1")?;
        }
        let heads = model.n_heads;
        let kv_heads = model.n_kv_heads.unwrap_or(heads);
        require(
            model.hidden_size.is_multiple_of(2 * heads),
            "model.n_heads",
            heads.to_string(),
            &format!(
                "a number of heads that divides hidden_size, {}, into even widths",
                model.hidden_size
            ),
        )?;
        require(
            heads.is_multiple_of(kv_heads),
            "model.n_kv_heads",
            kv_heads.to_string(),
            &format!("a divisor of n_heads, {heads}"),
        )?;
        require(
            batch.length <= model.context,
            "batch.length",
            batch.length.to_string(),
            &format!("at most model.context, {}", model.context),
        )?;
        for (field, value) in [
            ("optimizer.lr", optimizer.lr),
            ("optimizer.epsilon", optimizer.epsilon),
            ("model.init_std", model.init_std),
            ("model.norm_epsilon", model.norm_epsilon),
        ] {
            let holds = value.is_finite() && value > 0.0;
            require(holds, field, value.to_string(), "a number above 0")?;
        }
        for (field, value) in [
            ("optimizer.weight_decay", optimizer.weight_decay),
            ("optimizer.clip", optimizer.clip),
        ] {
            let holds = value.is_finite() && value >= 0.0;
            require(holds, field, value.to_string(), "a number from 0 up")?;
        }
        require(
            (0.0..1.0).contains(&model.dropout),
            "model.dropout",
            model.dropout.to_string(),
            "a part: 0 to below 1",
        )?;
        require(
            optimizer.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "optimizer.betas",
            format!("{:?}", optimizer.betas),
            "numbers from 0 to below 1",
        )?;
        require(
            self.data.sampling != Sampling::Sequential,
            "data.sampling",
            "sequential".to_owned(),
            "shuffled or random_windows: a sequential pass ends",
        )?;
        for (field, part) in self.schedule.parts() {
            let holds = (0.0..=1.0).contains(&part);
            require(holds, field, part.to_string(), "a part: 0 to 1")?;
        }
        require(
            self.schedule.warmup() < self.steps,
            "schedule.warmup",
            self.schedule.warmup().to_string(),
            &format!("fewer than steps, {}", self.steps),
        )?;
        if let Some(steepness) = self.blend.steepness() {
            let holds = steepness > 0.0 && steepness <= 100.0;
            let expected = "a number above 0, at most 100";
            require(holds, "blend.steepness", steepness.to_string(), expected)?;
        }
        require(
            self.blend.steps() < self.steps,
            "blend.steps",
            self.blend.steps().to_string(),
            &format!(
                "fewer than steps, {}: the run has to end ternary",
                self.steps
            ),
        )?;
        self.pack_options(file).map(|_| ())
    }

    /// Which table, replacing what is there, and no tokenizer yet.
    pub(super) fn pack_options(&self, file: &str) -> Result<PackOptions, TrainError> {
        let found = &self.packed_table;
        let expected = "int8, int4, bf16, f16 or f32";
        Ok(PackOptions {
            table: found
                .parse()
                .map_err(|_| read::refused(file, "packed_table", found, expected))?,
            arithmetic: Arithmetic::F32,
            tokenizer: None,
            tokenizer_config: None,
            overwrite: true,
        })
    }
}
