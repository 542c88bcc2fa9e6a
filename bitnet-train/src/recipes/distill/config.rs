//! The configuration of the recipe, as its TOML file has it.
//!
//! Invariant: a [`Distill`] that was read from a file can be run, as far as the file alone can tell; what depends on the
//! teacher is proven when it is opened.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::model::ModelConfig;
use crate::optimizer::{OptimizerConfig, Rates};
use crate::recipes::DataConfig;
use crate::recipes::check::{check_stage, require};
use crate::recipes::settings::{
    BatchShape, CheckpointConfig, LogConfig, Settings, ValidationConfig, int8,
};
use crate::schedule::{Blend, Schedule};

/// Configuration of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// `distill`.
    pub recipe: String,
    /// The folder of the run.
    pub output: PathBuf,
    /// Of fresh weights and of the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// Number format of embedding and head in the packed model: int8, int4, bf16, f16 or f32.
    #[serde(default = "int8")]
    pub packed_table: String,
    /// Who knows.
    pub teacher: Teacher,
    /// Who learns. Starting from the teacher itself, with `sub_norms`, is the published way.
    pub model: ModelConfig,
    /// What to learn from.
    pub data: DataConfig,
    /// Before the teacher speaks: the student gets used to ternary weights.
    pub pretraining: Pretraining,
    /// Then it learns from the teacher.
    pub distillation: Distillation,
    /// How much it sees at once.
    pub batch: BatchShape,
    /// How it learns.
    pub optimizer: OptimizerConfig,
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

/// Who knows: any model with the student's vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// Its checkpoint.
    pub from: PathBuf,
}

/// Continued pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretraining {
    /// Updates of the weights; 0 leaves the stage out.
    pub steps: u64,
    /// The highest learning rate, if another one than the optimizer's.
    pub lr: Option<f64>,
    /// What to learn from, if not the data of the distillation: plain text.
    pub data: Option<DataConfig>,
    /// The course of the learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// The course of the quantization, and of sub-norms that are inserted.
    #[serde(default)]
    pub blend: Blend,
}

/// Learning from the teacher: cross-entropy, and what follows times its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Updates of the weights.
    pub steps: u64,
    /// The highest learning rate, if another one than the optimizer's.
    pub lr: Option<f64>,
    /// The course of the learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// Weight of the divergence of logits.
    #[serde(default = "one")]
    pub logits: f64,
    /// What logits are divided by for it: the higher, the more unlikely tokens count.
    #[serde(default = "two")]
    pub temperature: f64,
    /// Weight of the attention relations.
    #[serde(default = "one")]
    pub attention: f64,
    /// Heads that relations are cut into; the student's key heads if not given.
    pub relation_heads: Option<usize>,
    /// Of which layer they are, counted from the last one, which is 0.
    #[serde(default)]
    pub layer_from_end: usize,
}

fn one() -> f64 {
    1.0
}

fn two() -> f64 {
    2.0
}

/// What is done in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    /// Whether the teacher speaks.
    pub(super) distils: bool,
    /// The step after the last one of the stage.
    pub(super) end: u64,
    pub(super) rates: Rates,
    pub(super) blend: f64,
}

impl Distill {
    /// Steps of both stages.
    pub(super) const fn steps(&self) -> u64 {
        self.pretraining.steps + self.distillation.steps
    }

    /// What is done in a step of all.
    pub(super) fn step(&self, step: u64) -> Step {
        let OptimizerConfig {
            lr, weight_decay, ..
        } = self.optimizer;
        let (first, second) = (&self.pretraining, &self.distillation);
        let rates = |schedule: &Schedule, step, steps, own: Option<f64>| {
            Rates::of(schedule, step, steps, own.unwrap_or(lr), weight_decay)
        };
        match step.checked_sub(first.steps) {
            None => Step {
                distils: false,
                end: first.steps,
                rates: rates(&first.schedule, step, first.steps, first.lr),
                blend: first.blend.at(step),
            },
            Some(step) => Step {
                distils: true,
                end: self.steps(),
                rates: rates(&second.schedule, step, second.steps, second.lr),
                blend: 1.0,
            },
        }
    }

    /// The data of a stage.
    pub(super) fn data_of(&self, distils: bool) -> &DataConfig {
        match &self.pretraining.data {
            Some(plain) if !distils => plain,
            _ => &self.data,
        }
    }

    pub(super) fn settings(&self) -> Settings<'_> {
        Settings {
            output: &self.output,
            seed: self.seed,
            steps: self.steps(),
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
        let (first, second) = (&self.pretraining, &self.distillation);
        if first.steps > 0 {
            let (schedule, blend) = (&first.schedule, &first.blend);
            check_stage(file, "pretraining.", first.steps, schedule, blend)?;
        }
        let (schedule, blend) = (&second.schedule, &Blend::None);
        check_stage(file, "distillation.", second.steps, schedule, blend)?;
        for (section, data) in [
            ("data.", Some(&self.data)),
            ("pretraining.data.", first.data.as_ref()),
        ] {
            let Some(data) = data else { continue };
            data.check(file, section)?;
            let expected = "nothing: the tokens are those of the teacher";
            let (field, size) = (format!("{section}vocab_size"), data.vocab_size);
            let found = size.unwrap_or_default();
            require(file, size.is_none(), &field, found, expected)?;
        }
        for (field, value) in [
            ("pretraining.lr", first.lr.unwrap_or(1.0)),
            ("distillation.lr", second.lr.unwrap_or(1.0)),
            ("distillation.temperature", second.temperature),
        ] {
            let holds = value.is_finite() && value > 0.0;
            require(file, holds, field, value, "a number above 0")?;
        }
        for (field, value) in [
            ("distillation.logits", second.logits),
            ("distillation.attention", second.attention),
        ] {
            let holds = value.is_finite() && value >= 0.0;
            require(file, holds, field, value, "a number from 0 up")?;
        }
        let heads = second.relation_heads.unwrap_or(1);
        let field = "distillation.relation_heads";
        require(file, heads > 0, field, heads, "at least 1")
    }
}
