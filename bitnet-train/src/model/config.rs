//! `[model]` of a recipe: sizes, or a checkpoint to start from.
//!
//! Invariant: one or the other. With `from`, sizes are the checkpoint's, and giving any is an error.

use std::path::PathBuf;

use bitnet_kernels::ActivationQuantizer;
use bitnet_models::architectures;
use bitnet_models::tokenizer::Tokenizer;
use bitnet_models::weights::ConfigMap;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use toml::Table;

/// What learns.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ModelConfig {
    /// Fresh weights.
    Fresh(FreshModel),
    /// Those of a checkpoint.
    Start(StartModel),
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(deserializer)?;
        match table.contains_key("from") {
            true => table.try_into().map(Self::Start),
            false => table.try_into().map(Self::Fresh),
        }
        .map_err(D::Error::custom)
    }
}

impl ModelConfig {
    /// Whether projections are ternary.
    pub const fn ternary(&self) -> bool {
        match self {
            Self::Fresh(model) => model.ternary,
            Self::Start(model) => model.ternary,
        }
    }

    /// The bits of the inputs of ternary projections, if they were given.
    pub const fn activation_bits(&self) -> Option<u64> {
        match self {
            Self::Fresh(model) => model.activation_bits,
            Self::Start(model) => model.activation_bits,
        }
    }

    /// Which part of activations is dropped while training.
    pub const fn dropout(&self) -> f64 {
        match self {
            Self::Fresh(model) => model.dropout,
            Self::Start(model) => model.dropout,
        }
    }
}

/// The model of a checkpoint: anything that holds float masters or float weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartModel {
    /// The checkpoint. Description and tokenizer are its own.
    pub from: PathBuf,
    /// Puts a norm before the output and the down projection where the model has none (SubLN, arXiv 2510.13998). It grows
    /// with the blend, so that a run with a blend begins with the function of the checkpoint.
    #[serde(default)]
    pub sub_norms: bool,
    /// Whether projections become ternary.
    #[serde(default = "yes")]
    pub ternary: bool,
    /// Bits of the inputs of ternary projections: 8 or 4; those of the checkpoint if not given, or else 8.
    pub activation_bits: Option<u64>,
    /// Which part of activations is dropped while training.
    #[serde(default)]
    pub dropout: f64,
}

/// A decoder with sub-norms and squared ReLU, as BitNet b1.58 2B4T (arXiv 2504.12285), of any size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshModel {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; as many as query heads if not given.
    pub n_kv_heads: Option<usize>,
    /// Longest context that the model will be used with.
    pub context: usize,
    /// Whether the output head is the embedding.
    #[serde(default = "yes")]
    pub tied_head: bool,
    /// Base of the rotary encoding.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// Epsilon of every norm.
    #[serde(default = "norm_epsilon")]
    pub norm_epsilon: f64,
    /// Standard deviation of fresh weights.
    #[serde(default = "init_std")]
    pub init_std: f64,
    /// Whether projections are ternary. Without, the same code trains the float twin of the model.
    #[serde(default = "yes")]
    pub ternary: bool,
    /// Bits of the inputs of ternary projections: 8 or 4; 8 if not given.
    pub activation_bits: Option<u64>,
    /// Which part of activations is dropped while training.
    #[serde(default)]
    pub dropout: f64,
}

const fn yes() -> bool {
    true
}

fn rope_theta() -> f64 {
    10_000.0
}

fn norm_epsilon() -> f64 {
    1e-5
}

fn init_std() -> f64 {
    0.02
}

impl FreshModel {
    /// The keys of a `config.json`.
    pub fn describe(&self, vocab_size: usize, tokenizer: Option<&Tokenizer>) -> ConfigMap {
        let Value::Object(mut map) = json!({
            "architectures": ["BitNetForCausalLM"],
            "model_type": "bitnet",
            "hidden_act": "relu2",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads.unwrap_or(self.n_heads),
            "vocab_size": vocab_size,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied_head,
            "initializer_range": self.init_std,
        }) else {
            unreachable!("an object stands above")
        };
        if let Some(tokenizer) = tokenizer {
            if let Some(id) = tokenizer.bos_id() {
                map.insert("bos_token_id".into(), id.into());
            }
            if let Some(&id) = tokenizer.eos_ids().first() {
                map.insert("eos_token_id".into(), id.into());
            }
        }
        let bits = self.activation_bits;
        let activations = bits.and_then(ActivationQuantizer::from_bits);
        let ternary = self.ternary.then(|| activations.unwrap_or_default());
        architectures::describe_masters(&map, ternary, false)
    }
}
