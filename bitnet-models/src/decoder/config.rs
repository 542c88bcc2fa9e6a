//! `DecoderConfig`: everything that tells one supported transformer from another.
//!
//! Plain data, read from a checkpoint by its architecture, written into our own files, made up for experiments. What a
//! value may be is proven where it is read, so that no layer checks again.

use bitnet_kernels::{ActivationQuantizer, Granularity};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use bitnet_kernels::Activation;

use crate::ModelError;
use crate::architectures::decided;
use crate::layers::RopeConfig;
use crate::weights::{Checkpoint, ConfigMap, Role, Slot};

/// What becomes of projection weights that a checkpoint holds as floats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Masters {
    /// They are the weights: an ordinary linear layer.
    Float,
    /// They are masters, quantized to this many scales.
    Ternary(Granularity),
}

/// A decoder-only transformer with ternary or float projections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Name of the architecture, as `config.json` gives it.
    pub architecture: String,
    /// Number of token embeddings.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads, each shared by `n_heads / n_kv_heads` consecutive query heads.
    pub n_kv_heads: usize,
    /// Width of a head; `n_heads · head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// Longest context that the model was made for.
    pub max_positions: usize,
    /// Epsilon of every norm.
    pub norm_epsilon: f64,
    /// Rotary encoding.
    pub rope: RopeConfig,
    /// Nonlinearity of the gate.
    pub activation: Activation,
    /// Whether the output head is the embedding.
    pub tied_head: bool,
    /// Whether there is an output head at all (embedding models have none).
    pub has_head: bool,
    /// Norm of the joined heads before the output projection, and of the gated values before the down projection.
    pub sub_norms: bool,
    /// Norm of each query and key head, before its rotation.
    pub head_norms: bool,
    /// Norm of each projection's own input.
    pub projection_norms: bool,
    /// Bias of the q, k and v projections, of the o projection, of the feed-forward projections.
    pub biases: Biases,
    /// What happens to the input of each projection.
    pub activations: ActivationQuantizer,
    /// What becomes of float weights of projections.
    pub masters: Masters,
    /// Parts of names of projections that stay float whatever `masters` says.
    pub float_projections: Vec<String>,
}

/// Which projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Biases {
    /// q, k and v.
    pub qkv: bool,
    /// o.
    pub o: bool,
    /// gate, up and down.
    pub mlp: bool,
}

/// Names of the projections of a layer, below `model.layers.{i}.`, in the order of their use.
pub const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

impl DecoderConfig {
    /// Rows and columns of a projection of [`PROJECTIONS`], and whether it has a bias.
    ///
    /// # Panics
    ///
    /// Panics on another name.
    pub fn projection(&self, name: &str) -> (usize, usize, bool) {
        let (hidden, inter) = (self.hidden_size, self.intermediate_size);
        let q = self.n_heads * self.head_dim;
        let kv = self.n_kv_heads * self.head_dim;
        match name {
            "self_attn.q_proj" => (q, hidden, self.biases.qkv),
            "self_attn.k_proj" | "self_attn.v_proj" => (kv, hidden, self.biases.qkv),
            "self_attn.o_proj" => (hidden, q, self.biases.o),
            "mlp.gate_proj" | "mlp.up_proj" => (inter, hidden, self.biases.mlp),
            "mlp.down_proj" => (hidden, inter, self.biases.mlp),
            _ => panic!("`{name}` is no projection; PROJECTIONS lists them"),
        }
    }

    /// Every tensor that a checkpoint of this model holds, with its shape, in the order of their use.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut push = |name: String, role| slots.push(Slot { name, role });
        let (hidden, table) = (
            self.hidden_size,
            Role::Table {
                rows: self.vocab_size,
                columns: self.hidden_size,
            },
        );
        push("model.embed_tokens.weight".into(), table);
        for layer in 0..self.n_layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            push(at("input_layernorm.weight"), Role::Vector(hidden));
            for name in PROJECTIONS {
                let (d_out, d_in, bias) = self.projection(name);
                match name {
                    "self_attn.o_proj" if self.sub_norms => {
                        push(at("self_attn.attn_sub_norm.weight"), Role::Vector(d_in));
                    }
                    "mlp.gate_proj" => {
                        push(at("post_attention_layernorm.weight"), Role::Vector(hidden));
                    }
                    "mlp.down_proj" if self.sub_norms => {
                        push(at("mlp.ffn_sub_norm.weight"), Role::Vector(d_in));
                    }
                    _ => {}
                }
                if self.projection_norms {
                    push(at(&format!("{name}.norm.weight")), Role::Vector(d_in));
                }
                push(at(&format!("{name}.weight")), Role::Linear { d_out, d_in });
                if bias {
                    push(at(&format!("{name}.bias")), Role::Vector(d_out));
                }
            }
            if self.head_norms {
                for name in ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] {
                    push(at(name), Role::Vector(self.head_dim));
                }
            }
        }
        push("model.norm.weight".into(), Role::Vector(hidden));
        if self.has_head && !self.tied_head {
            push("lm_head.weight".into(), table);
        }
        slots
    }

    /// Name of the output head's weight, if there is a head; of the embedding, if that is the head.
    pub fn head(&self) -> Option<&'static str> {
        self.has_head.then_some(match self.tied_head {
            true => "model.embed_tokens.weight",
            false => "lm_head.weight",
        })
    }

    /// Whether a float weight of this projection is quantized.
    pub fn is_ternary(&self, name: &str) -> Option<Granularity> {
        match self.masters {
            Masters::Ternary(granularity)
                if !self
                    .float_projections
                    .iter()
                    .any(|part| name.contains(part)) =>
            {
                Some(granularity)
            }
            _ => None,
        }
    }

    /// The same for a writer, to which a projection that stays float is a table.
    ///
    /// # Errors
    ///
    /// The checkpoint's.
    pub fn slots_to_write(&self, checkpoint: &dyn Checkpoint) -> Result<Vec<Slot>, ModelError> {
        let mut slots = self.slots();
        for slot in &mut slots {
            if let Role::Linear { d_out, d_in } = slot.role
                && self.is_ternary(&slot.name).is_none()
                && checkpoint.granularity(&slot.name, d_out, d_in)?.is_none()
            {
                let (rows, columns) = (d_out, d_in);
                slot.role = Role::Table { rows, columns };
            }
        }
        Ok(slots)
    }

    /// The keys of `config.json` for a packed form of a checkpoint that had the keys of `source`: what its quantization
    /// has become, everything else as it was.
    pub fn describe(&self, source: &ConfigMap) -> ConfigMap {
        let mut map = source.clone();
        let ternary = self.masters != Masters::Float;
        decided::record(&mut map, ternary, self.activations);
        if !ternary {
            map.shift_remove("quantization_config");
            return map;
        }
        let mut quantization = ConfigMap::new();
        for (key, value) in [
            ("quant_method", "bitnet"),
            ("linear_class", "autobitlinear"),
            ("quantization_mode", "offline"),
        ] {
            quantization.insert(key.into(), value.into());
        }
        if !self.float_projections.is_empty() {
            let skipped = json!(self.float_projections);
            quantization.insert("modules_to_not_convert".into(), skipped);
        }
        if let Some(Value::Object(before)) = source.get("quantization_config") {
            for key in ["use_rms_norm", "rms_norm_eps"] {
                if let Some(value) = before.get(key) {
                    quantization.insert(key.into(), value.clone());
                }
            }
        }
        map.insert("quantization_config".into(), quantization.into());
        map
    }

    /// Number of weights: of the projections, and of everything else.
    pub fn parameters(&self) -> (u64, u64) {
        let (mut linear, mut rest) = (0, 0);
        for slot in self.slots() {
            match slot.role {
                Role::Linear { d_out, d_in } => linear += (d_out * d_in) as u64,
                Role::Table { rows, columns } => rest += (rows * columns) as u64,
                Role::Vector(len) => rest += len as u64,
            }
        }
        (linear, rest)
    }
}
