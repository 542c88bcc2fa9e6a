//! Model families: which decoder a configuration describes.
//!
//! A family is one file that reads a `config.json` (or what a GGUF file was translated to) into a [`DecoderConfig`], and
//! one line in [`ARCHITECTURES`]. The architecture string selects it, never `model_type`: 1bitLLM's models call
//! themselves `llama`. A key that asks for something the decoder does not do is refused, not ignored.

mod bitnet;
mod bitnet_1bitllm;
pub(crate) mod decided;
mod llama;
mod qwen3;

use bitnet_kernels::{ActivationQuantizer, Granularity};
use serde_json::{Value, json};

use crate::ModelError;
use crate::decoder::{Activation, Biases, DecoderConfig, Masters, PROJECTIONS};
use crate::layers::{RopeConfig, RopeScaling};
use crate::weights::{Checkpoint, ConfigMap, ConfigReader};

/// A model family.
#[derive(Debug)]
pub struct Architecture {
    /// The strings in `architectures` that select it.
    pub names: &'static [&'static str],
    /// Published models of this family.
    pub models: &'static str,
    read: fn(&ConfigReader<'_>, &Tensors<'_>) -> Result<DecoderConfig, ModelError>,
}

/// Every family.
pub static ARCHITECTURES: &[&Architecture] = &[
    &bitnet::ARCHITECTURE,
    &bitnet_1bitllm::ARCHITECTURE,
    &llama::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
];

/// What a user can overrule in a configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Overrides {
    /// Float projections are masters to be quantized (`Some(true)`), or are the weights (`Some(false)`). For master
    /// checkpoints that do not say what they are, such as the `prequantized` revision of Falcon-E.
    pub ternary: Option<bool>,
    /// What happens to the input of projections.
    pub activations: Option<ActivationQuantizer>,
}

/// Reads the configuration of a checkpoint.
///
/// # Errors
///
/// [`ModelError::Config`]: an unknown architecture, a missing key, a value that the decoder cannot do.
pub fn read(
    checkpoint: &dyn Checkpoint,
    overrides: Overrides,
) -> Result<DecoderConfig, ModelError> {
    let mut config = read_keys(&ConfigReader::new(checkpoint), &Tensors(checkpoint))?;
    if let Some(ternary) = overrides.ternary {
        config.masters = if ternary {
            Masters::Ternary(Granularity::Tensor)
        } else {
            Masters::Float
        };
        config.activations = match config.activations {
            _ if !ternary => ActivationQuantizer::None,
            ActivationQuantizer::None => ActivationQuantizer::Int8,
            quantizer => quantizer,
        };
        config.float_projections.clear();
    }
    if let Some(activations) = overrides.activations {
        config.activations = activations;
    }
    Ok(config)
}

/// The keys of `config.json` for masters that are trained as ternary projections with such inputs, or as float ones; with
/// `sub_norms`, such norms are among them whatever the family. Everything else is as in `source`.
pub fn describe_masters(
    source: &ConfigMap,
    ternary: Option<ActivationQuantizer>,
    sub_norms: bool,
) -> ConfigMap {
    let mut config = source.clone();
    decided::forget_quantization(&mut config);
    // 8 bits are what the other keys say by themselves.
    if let Some(activations) = ternary.filter(|&kind| kind != ActivationQuantizer::Int8) {
        decided::insert_activations(&mut config, activations);
    }
    if sub_norms {
        decided::insert_sub_norms(&mut config);
    }
    let quantization = config.entry("quantization_config").or_insert(Value::Null);
    if !quantization.is_object() {
        *quantization = json!({});
    }
    quantization["quant_method"] = "bitnet".into();
    quantization["linear_class"] = "autobitlinear".into();
    quantization["quantization_mode"] = "online".into();
    // Some families are ternary by themselves; this is how the format names exceptions. Without the key, it is the head.
    if let Some(quantization) = quantization.as_object_mut() {
        quantization.shift_remove("modules_to_not_convert");
        if ternary.is_none() {
            let names = PROJECTIONS
                .iter()
                .filter_map(|name| name.rsplit('.').next());
            let all: Vec<&str> = names.chain(["lm_head"]).collect();
            quantization.insert("modules_to_not_convert".into(), json!(all));
        }
    }
    config
}

/// What the keys of a configuration say of a model with these tensors.
fn read_keys(
    reader: &ConfigReader<'_>,
    tensors: &Tensors<'_>,
) -> Result<DecoderConfig, ModelError> {
    let names = reader.strings("architectures")?;
    let known = ARCHITECTURES
        .iter()
        .find(|known| names.iter().any(|name| known.names.contains(name)));
    let Some(architecture) = known else {
        let all: Vec<_> = ARCHITECTURES
            .iter()
            .flat_map(|known| known.names.iter().copied())
            .collect();
        return Err(reader.unsupported(
            "architectures",
            &all.join(", "),
            "This model is of another family. Only BitNet, Llama and Qwen3 decoders run here",
        ));
    };
    let mut config = (architecture.read)(reader, tensors)?;
    decided::apply(reader, &mut config)?;
    Ok(config)
}

/// Which tensors a checkpoint has, for what its configuration does not say.
struct Tensors<'a>(&'a dyn Checkpoint);

impl Tensors<'_> {
    fn any(&self, suffix: &str) -> bool {
        let mut tensors = self.0.tensors().iter();
        tensors.any(|tensor| tensor.name.ends_with(suffix))
    }
}

/// What all families have, under the keys that all of them use. Families change what differs.
fn common(config: &ConfigReader<'_>, tensors: &Tensors<'_>) -> Result<DecoderConfig, ModelError> {
    let hidden_size = config.usize("hidden_size")?;
    let n_heads = config.usize("num_attention_heads")?;
    let n_kv_heads = config
        .optional_usize("num_key_value_heads")?
        .unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(config.unsupported(
            "num_key_value_heads",
            &format!("a divisor of num_attention_heads, {n_heads}"),
            "The configuration is damaged",
        ));
    }
    let head_dim = match config.optional_usize("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
        None => {
            return Err(config.unsupported(
                "head_dim",
                &format!("a size, as {n_heads} heads do not divide a hidden size of {hidden_size}"),
                "The configuration is damaged",
            ));
        }
    };
    if !head_dim.is_multiple_of(2) {
        return Err(config.unsupported(
            "head_dim",
            "an even size, as rotary encoding turns pairs",
            "The configuration is damaged",
        ));
    }
    let slides = config.optional_bool("use_sliding_window")?.unwrap_or(true);
    if slides && config.value("sliding_window").is_some() {
        return Err(config.unsupported(
            "sliding_window",
            "null, as attention here sees everything before a token",
            "Models with sliding layers are not supported",
        ));
    }
    let (masters, activations, float_projections) = quantization(config)?;
    let bias = |key| Ok::<_, ModelError>(config.optional_bool(key)?.unwrap_or(false));
    let attention_bias = bias("attention_bias")?;
    Ok(DecoderConfig {
        architecture: config
            .strings("architectures")?
            .first()
            .map_or_else(String::new, |&name| name.to_owned()),
        vocab_size: config.usize("vocab_size")?,
        hidden_size,
        intermediate_size: config.usize("intermediate_size")?,
        n_layers: config.usize("num_hidden_layers")?,
        n_heads,
        n_kv_heads,
        head_dim,
        max_positions: config
            .optional_usize("max_position_embeddings")?
            .unwrap_or(2048),
        norm_epsilon: epsilon(config)?,
        rope: rope(config, head_dim)?,
        activation: activation(config)?,
        tied_head: config
            .optional_bool("tie_word_embeddings")?
            .unwrap_or(false),
        has_head: true,
        sub_norms: false,
        head_norms: false,
        projection_norms: tensors.any("_proj.norm.weight"),
        biases: Biases {
            qkv: attention_bias,
            o: attention_bias,
            mlp: bias("mlp_bias")?,
        },
        activations,
        masters,
        float_projections,
    })
}

/// `rms_norm_eps`, which keeps a norm of zeros from dividing by zero.
fn epsilon(config: &ConfigReader<'_>) -> Result<f64, ModelError> {
    let epsilon = config.f64("rms_norm_eps")?;
    let single = epsilon as f32;
    if single.is_finite() && single > 0.0 {
        return Ok(epsilon);
    }
    let way_out = "The configuration is damaged";
    Err(config.unsupported("rms_norm_eps", "a number above 0", way_out))
}

fn activation(config: &ConfigReader<'_>) -> Result<Activation, ModelError> {
    match config.string("hidden_act")? {
        "silu" | "swish" => Ok(Activation::Silu),
        "relu2" => Ok(Activation::Relu2),
        _ => Err(config.unsupported(
            "hidden_act",
            "silu or relu2",
            "Models with another nonlinearity are not supported",
        )),
    }
}

/// `quantization_config`: absent means float; `quant_method: bitnet` means BitLinear everywhere but in the modules that it
/// names. The scale's direction is the weight format's business.
fn quantization(
    config: &ConfigReader<'_>,
) -> Result<(Masters, ActivationQuantizer, Vec<String>), ModelError> {
    let Some(quantization) = config.object("quantization_config")? else {
        return Ok((Masters::Float, ActivationQuantizer::None, Vec::new()));
    };
    if quantization.optional_string("quant_method")? != Some("bitnet") {
        return Err(quantization.unsupported(
            "quant_method",
            "bitnet",
            "Only ternary (BitNet) quantization is supported. Use the unquantized or the BitNet checkpoint",
        ));
    }
    if quantization.optional_bool("use_rms_norm")?.unwrap_or(false) {
        let outer = config.f64("rms_norm_eps")?;
        if quantization.optional_f64("rms_norm_eps")?.unwrap_or(1e-6) != outer {
            return Err(quantization.unsupported(
                "rms_norm_eps",
                &format!("{outer}, that of the model"),
                "Norms of projections with an epsilon of their own are not supported",
            ));
        }
    }
    let skipped = quantization.strings("modules_to_not_convert")?;
    Ok((
        Masters::Ternary(Granularity::Tensor),
        ActivationQuantizer::Int8,
        skipped.into_iter().map(str::to_owned).collect(),
    ))
}

/// `rope_theta` and `rope_scaling`, or the newer `rope_parameters` that joins them.
fn rope(config: &ConfigReader<'_>, head_dim: usize) -> Result<RopeConfig, ModelError> {
    let joined = config.object("rope_parameters")?;
    let theta = match &joined {
        Some(joined) => joined.optional_f64("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => config.optional_f64("rope_theta")?.unwrap_or(10_000.0),
    };
    if !(theta.is_finite() && theta > 1.0) {
        return Err(config.unsupported(
            "rope_theta",
            "a number above 1",
            "The configuration is damaged",
        ));
    }
    if let Some(list) = config.value("rope_frequency_divisors") {
        return Ok(RopeConfig {
            theta,
            scaling: RopeScaling::Factors(divisors(config, list, head_dim)?),
        });
    }
    let scaling = match joined {
        Some(joined) => Some(joined),
        None => config.object("rope_scaling")?,
    };
    let scaling = match scaling {
        None => RopeScaling::None,
        Some(scaling) => rope_scaling(config, &scaling)?,
    };
    Ok(RopeConfig { theta, scaling })
}

/// Our own key, from the tensor `rope_freqs.weight` of a GGUF file.
fn divisors(
    config: &ConfigReader<'_>,
    list: &Value,
    head_dim: usize,
) -> Result<Vec<f32>, ModelError> {
    let number = |value: &Value| value.as_f64().map(|value| value as f32);
    let list: Option<Vec<f32>> = list
        .as_array()
        .and_then(|list| list.iter().map(number).collect());
    let fits = |list: &Vec<f32>| {
        list.len() == head_dim / 2 && list.iter().all(|f| f.is_finite() && *f > 0.0)
    };
    list.filter(fits).ok_or_else(|| {
        config.unsupported(
            "rope_frequency_divisors",
            &format!("{} numbers above 0, one per rotated pair", head_dim / 2),
            "The file is damaged",
        )
    })
}

fn rope_scaling(
    config: &ConfigReader<'_>,
    scaling: &ConfigReader<'_>,
) -> Result<RopeScaling, ModelError> {
    let kind = match scaling.optional_string("rope_type")? {
        Some(kind) => Some(kind),
        None => scaling.optional_string("type")?,
    };
    let positive =
        |key: &'static str, default: Option<f64>| match scaling.optional_f64(key)?.or(default) {
            Some(value) if value > 0.0 => Ok(value),
            _ => Err(scaling.unsupported(key, "a number above 0", "The configuration is damaged")),
        };
    let original = || {
        let outer = config.optional_f64("max_position_embeddings")?;
        positive("original_max_position_embeddings", outer)
    };
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear {
            factor: positive("factor", None)?,
        }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: positive("factor", None)?,
            low_freq_factor: positive("low_freq_factor", None)?,
            high_freq_factor: positive("high_freq_factor", None)?,
            original: original()?,
        }),
        Some("yarn") => {
            let factor = positive("factor", None)?;
            let computed = if factor > 1.0 {
                0.1 * factor.ln() + 1.0
            } else {
                1.0
            };
            Ok(RopeScaling::Yarn {
                factor,
                original: original()?,
                beta_fast: positive("beta_fast", Some(32.0))?,
                beta_slow: positive("beta_slow", Some(1.0))?,
                attention_factor: positive("attention_factor", Some(computed))?,
            })
        }
        Some(_) => Err(scaling.unsupported(
            "rope_type",
            "default, linear, llama3 or yarn",
            "Models with another rotary scaling are not supported",
        )),
    }
}
