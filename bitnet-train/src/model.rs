//! The model that is trained: a 2B4T decoder of any size, with float masters.
//!
//! [`Masters`] are its weights on the host, fresh or of a trained decoder, as a checkpoint: what loads a model is what
//! saves it. Invariant: the parameters of [`trainable`] models are numbered in reading order, in every process alike.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bitnet_models::ModelError;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, LoadOptions};
use bitnet_models::tokenizer::Tokenizer;
use bitnet_models::weights::{
    Checkpoint, ConfigMap, FloatKind, Floats, Matrix, Role, Slot, TensorInfo,
};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::data::keyed;

/// The size of a decoder with sub-norms and squared ReLU, as BitNet b1.58 2B4T (arXiv 2504.12285).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
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

impl ModelConfig {
    /// The keys of a `config.json`.
    pub fn describe(&self, vocab_size: usize, tokenizer: Option<&Tokenizer>) -> ConfigMap {
        let mut quantization = json!({
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "online",
        });
        if !self.ternary {
            // The architecture is ternary by itself; this is how its format names exceptions.
            let all = ["q", "k", "v", "o", "gate", "up", "down"].map(|name| format!("{name}_proj"));
            quantization["modules_to_not_convert"] = json!(all);
        }
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
            "quantization_config": quantization,
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
        map
    }
}

/// A decoder with trainable f32 parameters.
///
/// # Errors
///
/// The checkpoint's.
pub fn trainable(checkpoint: &dyn Checkpoint, device: &Device) -> Result<Decoder, ModelError> {
    let config = architectures::read(checkpoint, Overrides::default())?;
    let options = LoadOptions::trainable();
    let decoder = Decoder::load(&config, checkpoint, &options, device, &mut |_, _| ())?;
    Ok(decoder.map(&mut Numbering(0)))
}

struct Numbering(u64);

impl ModuleMapper for Numbering {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(ParamId::from(self.0), tensor, mapper)
    }
}

/// Sets how far every projection is quantized.
pub fn set_blend(decoder: &mut Decoder, lambda: f64) {
    for layer in &mut decoder.model.layers {
        let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
        for projection in [
            &mut attention.q_proj,
            &mut attention.k_proj,
            &mut attention.v_proj,
            &mut attention.o_proj,
            &mut mlp.gate_proj,
            &mut mlp.up_proj,
            &mut mlp.down_proj,
        ] {
            projection.set_blend(lambda);
        }
    }
}

/// Float weights in memory.
#[derive(Debug)]
pub struct Masters {
    config: ConfigMap,
    generation: ConfigMap,
    /// Where the tokenizer lies.
    folder: PathBuf,
    /// f32, little endian, by Hugging Face name.
    weights: HashMap<String, Vec<u8>>,
}

impl Masters {
    /// Of a decoder, with the configuration it was made with and a folder that holds its tokenizer.
    pub fn of(decoder: &Decoder, config: &ConfigMap, folder: &Path) -> Self {
        let mut collector = Collector::default();
        decoder.visit(&mut collector);
        Self::new(config, folder, collector.weights)
    }

    /// Fresh ones: norms of one, everything else from a normal distribution. Numbers depend on the seed, the name and the
    /// place alone.
    pub fn fresh(slots: &[Slot], config: &ConfigMap, folder: &Path, std: f64, seed: u64) -> Self {
        let weights = slots.iter().map(|slot| {
            let key = keyed(seed, xxh3_64(slot.name.as_bytes()));
            let normal = |count: usize| -> Vec<f32> {
                (0..count as u64)
                    .map(|at| (std * gaussian(key, at)) as f32)
                    .collect()
            };
            let values = match slot.role {
                Role::Vector(len) => vec![1.0; len],
                Role::Linear { d_out, d_in } => normal(d_out * d_in),
                Role::Table { rows, columns } => normal(rows * columns),
            };
            (slot.name.clone(), bytes(&values))
        });
        Self::new(config, folder, weights.collect())
    }

    fn new(config: &ConfigMap, folder: &Path, weights: HashMap<String, Vec<u8>>) -> Self {
        let mut generation = ConfigMap::new();
        for key in ["bos_token_id", "eos_token_id"] {
            if let Some(id) = config.get(key) {
                generation.insert(key.into(), id.clone());
            }
        }
        Self {
            config: config.clone(),
            generation,
            folder: folder.to_path_buf(),
            weights,
        }
    }

    /// The first of these tensors that has a number that is not finite.
    pub fn first_not_finite<'s>(&self, slots: &'s [Slot]) -> Option<&'s str> {
        let damaged = |bytes: &Vec<u8>| {
            let (numbers, _) = bytes.as_chunks();
            numbers
                .iter()
                .any(|&number| !f32::from_le_bytes(number).is_finite())
        };
        let mut names = slots.iter().map(|slot| slot.name.as_str());
        names.find(|name| self.weights.get(*name).is_some_and(damaged))
    }
}

impl Checkpoint for Masters {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn format(&self) -> &'static str {
        "masters"
    }

    fn config(&self) -> &ConfigMap {
        &self.config
    }

    fn generation(&self) -> &ConfigMap {
        &self.generation
    }

    fn tensors(&self) -> &[TensorInfo] {
        &[]
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        let count = shape.iter().product::<usize>();
        let held = self.weights.get(name);
        match held.filter(|bytes| bytes.len() == 4 * count) {
            Some(bytes) => Ok(Floats {
                kind: FloatKind::F32,
                shape: shape.to_vec(),
                bytes: Cow::Borrowed(bytes),
            }),
            None => Err(ModelError::Tensor {
                path: self.folder.clone(),
                name: name.to_owned(),
                found: held.map_or_else(|| "none".into(), |held| format!("{} bytes", held.len())),
                expected: format!("{shape:?}"),
                way_out: "The configuration is that of another model".into(),
            }),
        }
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        self.floats(name, &[d_out, d_in]).map(Matrix::Float)
    }
}

/// All float parameters by the names of the published checkpoints.
#[derive(Default)]
struct Collector {
    path: Vec<String>,
    weights: HashMap<String, Vec<u8>>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _: &str) {
        // Burn's norms say gamma where the checkpoints say weight.
        let name = if name == "gamma" { "weight" } else { name };
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values: Vec<f32> = param.val().into_data().iter().collect();
        self.weights.insert(self.path.join("."), bytes(&values));
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A number from the standard normal distribution, by the formula of Box and Muller (1958).
fn gaussian(key: u64, place: u64) -> f64 {
    // 53 bits each, in 0..1; the first never 0.
    let unit = |place| (keyed(key, place) >> 11) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (1.0 - unit(2 * place), unit(2 * place + 1));
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_weights_have_mean_zero_and_variance_one_times_their_deviation() {
        let numbers: Vec<f64> = (0..100_000).map(|at| gaussian(5, at)).collect();
        let mean = numbers.iter().sum::<f64>() / 1e5;
        let variance = numbers.iter().map(|x| x * x).sum::<f64>() / 1e5;
        // Three standard errors.
        assert!(
            mean.abs() < 0.01 && (variance - 1.0).abs() < 0.0135,
            "{mean}, {variance}"
        );
    }
}
