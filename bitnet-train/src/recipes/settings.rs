//! What the configurations of all recipes have in common, and what follows from it: device, batches, sizes.
//!
//! Invariant: settings that are run have passed [`Settings::check`].

use std::path::Path;

use bitnet_models::decoder::{Decoder, DecoderConfig};
use bitnet_models::weights::{Arithmetic, PackOptions};
use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};

use super::{DataConfig, Plan, read};
use crate::TrainError;
use crate::data::batches::{Batch, BatchConfig, Batches, Packing, Sampling};
use crate::data::keyed;
use crate::data::shards::TokenData;
use crate::model::{ModelConfig, Origin};
use crate::optimizer::OptimizerConfig;

/// The number format of embedding and head in packed models, if none is asked for.
pub(super) fn int8() -> String {
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
    /// Number format of products.
    #[serde(default)]
    pub precision: Precision,
    /// Whether elementwise results are computed again for the gradients instead of kept.
    #[serde(default)]
    pub checkpointing: bool,
}

/// Number format of products while training. Everything else is f32: masters, gradients, moments, norms, losses, and what
/// is measured on the validation data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// The upper half of them: half the memory of what products keep, and far faster where the device has units for it.
    Bf16,
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

/// The settings of a recipe that others have, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings<'a> {
    pub(super) output: &'a Path,
    pub(super) seed: u64,
    /// All steps.
    pub(super) steps: u64,
    pub(super) packed_table: &'a str,
    pub(super) data: &'a DataConfig,
    pub(super) model: &'a ModelConfig,
    pub(super) batch: &'a BatchShape,
    pub(super) optimizer: &'a OptimizerConfig,
    pub(super) log: &'a LogConfig,
    pub(super) validation: &'a ValidationConfig,
    pub(super) checkpoint: &'a CheckpointConfig,
}

impl Settings<'_> {
    /// Which table, replacing what is there, and no tokenizer yet.
    pub(super) fn pack_options(&self, file: &str) -> Result<PackOptions, TrainError> {
        let found = self.packed_table;
        let expected = "int8, int4, bf16, f16 or f32";
        Ok(PackOptions {
            table: found
                .parse()
                .map_err(|_| read::refused(file, "packed_table", found, expected))?,
            screen: false,
            ternary: bitnet_kernels::packing::Packing::Words,
            arithmetic: Arithmetic::F32,
            tokenizer: None,
            tokenizer_config: None,
            overwrite: true,
        })
    }

    /// Gives a model what is for training alone.
    ///
    /// # Errors
    ///
    /// A device that cannot compute in the precision.
    pub(super) fn prepare(&self, model: &mut Decoder) -> Result<(), TrainError> {
        model.set_dropout(self.model.dropout());
        if self.batch.precision == Precision::Bf16 {
            if !model.device().supports_dtype(DType::BF16) {
                return Err(TrainError::Request {
                    what: "batch.precision",
                    found: "bf16".to_owned(),
                    expected: "f32 on this device".to_owned(),
                    way_out: "Leave the setting out, or choose another device".to_owned(),
                });
            }
            model.set_products(Some(DType::BF16));
        }
        Ok(())
    }

    /// The device to train on.
    pub(super) fn autodiff(&self, device: &Device) -> Device {
        let device = device.clone().autodiff();
        match self.batch.checkpointing {
            true => device.gradient_checkpointing(),
            false => device,
        }
    }

    pub(super) fn at_once(&self) -> usize {
        self.batch.at_once.unwrap_or(self.batch.rows)
    }

    /// The batches of a split of this data, in its order or another one.
    pub(super) fn batches(
        &self,
        data: &TokenData,
        split: &str,
        config: &DataConfig,
        sampling: Sampling,
    ) -> Result<Batches, TrainError> {
        // What is measured in order is not cut at random.
        let packing = match sampling {
            Sampling::RandomWindows => Packing::Stream,
            _ => config.packing,
        };
        BatchConfig::new(self.batch.rows, self.batch.length)
            .with_sampling(sampling)
            .with_packing(packing)
            .with_seed(self.seed)
            .init(data.split(split)?)
    }

    /// A batch of the right size that means nothing.
    pub(super) fn made_up(&self, vocab_size: usize) -> Batch {
        let count = self.batch.rows * self.batch.length;
        let ids = |key| -> Vec<i32> {
            let id = |at| (keyed(key, at) % vocab_size as u64) as i32;
            (0..count as u64).map(id).collect()
        };
        Batch {
            inputs: ids(1),
            targets: ids(2),
            mask: None,
            shape: [self.batch.rows, self.batch.length],
        }
    }

    /// The decoder, with the vocabulary of the data or, before it is prepared, of that size; and whether it is.
    pub(super) fn decoder(
        &self,
        origin: &Origin<'_>,
        guess: usize,
    ) -> Result<(DecoderConfig, bool), TrainError> {
        let data = self.data.existing()?;
        let vocab_size = data.as_ref().map_or(guess, |data| data.index().vocab_size);
        let config = origin.decoder(&origin.describe(vocab_size, None))?;
        Ok((config, data.is_some()))
    }

    /// How large the training of this decoder is. `bytes` are beside it.
    pub(super) fn plan(&self, config: &DecoderConfig, prepared: bool, bytes: u64) -> Plan {
        let (linear, rest) = config.parameters();
        Plan {
            parameters: (linear, rest),
            vocab_size: config.vocab_size,
            prepared,
            bytes: bytes + 16 * (linear + rest) + self.activation_bytes(config),
            steps: self.steps,
            tokens: (self.batch.rows * self.batch.length) as u64 * self.steps,
        }
    }

    /// What stays in memory between forward and backward, roughly: a token leaves about 24 rows of the hidden size, 12 of
    /// the feed-forward block and two of attention weights in each layer, and four of logits.
    fn activation_bytes(&self, config: &DecoderConfig) -> u64 {
        let tokens = self.at_once().min(self.batch.rows) * self.batch.length;
        let attention = 2 * config.n_heads * self.batch.length;
        let layer = 24 * config.hidden_size + 12 * config.intermediate_size + attention;
        4 * (tokens * (config.n_layers * layer + 4 * config.vocab_size)) as u64
    }
}
