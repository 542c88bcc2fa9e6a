//! Where the first weights of a run come from: nowhere, or a checkpoint with float weights.
//!
//! A [`Start`] is such a checkpoint with what the recipe changes: its description, and norms that it has not. It is a
//! checkpoint itself, so that nothing but the loader reads it, one tensor at a time.

use std::borrow::Cow;
use std::path::Path;

use bitnet_kernels::ActivationQuantizer;
use bitnet_models::ModelError;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, DecoderConfig};
use bitnet_models::weights::{
    self, Checkpoint, ConfigMap, FloatKind, Floats, Matrix, Role, TensorInfo,
};
use burn::tensor::Device;

use super::{FreshModel, Masters, ModelConfig, StartModel, trainable};
use crate::TrainError;
use crate::data::shards::TokenData;
use crate::data::tokenizer::TokenizerBundle;

/// Where weights come from.
#[derive(Debug)]
pub enum Origin<'a> {
    /// Made up.
    Fresh(&'a FreshModel),
    /// A checkpoint.
    Start(Box<Start>),
}

impl<'a> Origin<'a> {
    /// That of a configuration. Opens files, and reads no weights.
    ///
    /// # Errors
    ///
    /// A checkpoint that is none, or without float weights.
    pub fn open(config: &'a ModelConfig) -> Result<Self, TrainError> {
        Ok(match config {
            ModelConfig::Fresh(model) => Self::Fresh(model),
            ModelConfig::Start(model) => Self::Start(Box::new(Start::open(model)?)),
        })
    }

    /// The tokenizer that comes with the weights.
    ///
    /// # Errors
    ///
    /// Damaged files.
    pub fn tokenizer(&self) -> Result<Option<TokenizerBundle>, TrainError> {
        match self {
            Self::Fresh(_) => Ok(None),
            Self::Start(start) => TokenizerBundle::of(&*start.checkpoint),
        }
    }

    /// The keys of the model's `config.json`. `vocab_size` is for fresh weights; a checkpoint has its own.
    pub fn describe(&self, vocab_size: usize, bundle: Option<&TokenizerBundle>) -> ConfigMap {
        match self {
            Self::Fresh(model) => {
                model.describe(vocab_size, bundle.map(TokenizerBundle::tokenizer))
            }
            Self::Start(start) => start.description.clone(),
        }
    }

    /// The decoder that a description says.
    ///
    /// # Errors
    ///
    /// Sizes that no decoder can have.
    pub fn decoder(&self, description: &ConfigMap) -> Result<DecoderConfig, TrainError> {
        match self {
            Self::Fresh(_) => {
                let masters = Masters::fresh(&[], description, Path::new("the recipe"), 0.0, 0);
                Ok(architectures::read(&masters, Overrides::default())?)
            }
            Self::Start(start) => Ok(start.config.clone()),
        }
    }

    /// Whether sub-norms are put into a model that had none.
    pub const fn inserts_sub_norms(&self) -> bool {
        matches!(self, Self::Start(start) if start.inserts)
    }

    /// Proves that data is that of the model's tokenizer.
    ///
    /// # Errors
    ///
    /// Data of another vocabulary; the message names both.
    pub fn check(&self, data: &TokenData) -> Result<(), TrainError> {
        let Self::Start(start) = self else {
            return Ok(());
        };
        check_vocabulary(&*start.checkpoint, &start.config, data)
    }

    /// The model, on its device.
    ///
    /// # Errors
    ///
    /// Weights that are missing, damaged, or not finite.
    pub fn load(
        &self,
        description: &ConfigMap,
        seed: u64,
        device: &Device,
    ) -> Result<Decoder, TrainError> {
        Ok(match self {
            Self::Fresh(model) => {
                let slots = self.decoder(description)?.slots();
                let (folder, std) = (Path::new("the recipe"), model.init_std);
                let masters = Masters::fresh(&slots, description, folder, std, seed);
                trainable(&masters, device)?
            }
            Self::Start(start) => trainable(&**start, device)?,
        })
    }
}

/// Proves that data is that of a checkpoint's tokenizer, or at least has no ids beyond its embedding.
///
/// # Errors
///
/// Data of another vocabulary; the message names both.
pub fn check_vocabulary(
    checkpoint: &dyn Checkpoint,
    config: &DecoderConfig,
    data: &TokenData,
) -> Result<(), TrainError> {
    let bundle = TokenizerBundle::of(checkpoint)?;
    let (rows, used) = (config.vocab_size, data.index().vocab_size);
    let same = bundle
        .as_ref()
        .is_none_or(|bundle| data.expect_tokenizer(bundle).is_ok());
    if same && used <= rows {
        return Ok(());
    }
    let size = bundle.map_or(rows, |bundle| bundle.tokenizer().vocab_size());
    Err(TrainError::File {
        path: data.folder().to_path_buf(),
        what: "vocabulary of the data".to_owned(),
        found: format!("another one, of {used} tokens"),
        expected: format!("that of {}, of {size} tokens", checkpoint.path().display()),
        way_out: "Name another `data.folder`, to prepare the data with this tokenizer".to_owned(),
    })
}

/// A checkpoint to start from.
#[derive(Debug)]
pub struct Start {
    checkpoint: Box<dyn Checkpoint>,
    description: ConfigMap,
    config: DecoderConfig,
    inserts: bool,
}

impl Start {
    fn open(model: &StartModel) -> Result<Self, TrainError> {
        let checkpoint = weights::open(&model.from)?;
        let refused = |what: &str, found: &str, expected: &str, way_out: &str| TrainError::File {
            path: model.from.clone(),
            what: what.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
            way_out: way_out.to_owned(),
        };
        let own = architectures::read(&*checkpoint, Overrides::default())?;
        if !own.has_head {
            return Err(refused(
                "the model",
                "no output head",
                "one that predicts tokens",
                "It makes embeddings. Start from another model",
            ));
        }
        for slot in own.slots() {
            let (Role::Linear {
                d_out: rows,
                d_in: columns,
            }
            | Role::Table { rows, columns }) = slot.role
            else {
                continue;
            };
            if checkpoint.granularity(&slot.name, rows, columns)?.is_some() {
                return Err(refused(
                    &format!("tensor `{}`", slot.name),
                    "packed ternary weights",
                    "float masters",
                    "Start from the masters of this model (often called bf16 or prequantized), as packed weights \
                     cannot be trained",
                ));
            }
        }
        let inserts = model.sub_norms && !own.sub_norms;
        let bits = model.activation_bits;
        let activations = match bits.and_then(ActivationQuantizer::from_bits) {
            Some(activations) => activations,
            None if own.activations == ActivationQuantizer::None => ActivationQuantizer::default(),
            None => own.activations,
        };
        let ternary = model.ternary.then_some(activations);
        let description = architectures::describe_masters(checkpoint.config(), ternary, inserts);
        let mut start = Self {
            checkpoint,
            description,
            config: own,
            inserts,
        };
        start.config = architectures::read(&start, Overrides::default())?;
        Ok(start)
    }
}

impl Checkpoint for Start {
    fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    fn format(&self) -> &'static str {
        self.checkpoint.format()
    }

    fn config(&self) -> &ConfigMap {
        &self.description
    }

    fn generation(&self) -> &ConfigMap {
        self.checkpoint.generation()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.checkpoint.tensors()
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        if self.inserts && name.ends_with("_sub_norm.weight") {
            let ones = 1f32.to_le_bytes().repeat(shape.iter().product());
            return Ok(Floats {
                kind: FloatKind::F32,
                shape: shape.to_vec(),
                bytes: Cow::Owned(ones),
            });
        }
        self.checkpoint.floats(name, shape)
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        self.checkpoint.matrix(name, d_out, d_in)
    }
}
