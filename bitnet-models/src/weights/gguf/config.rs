//! Metadata of a GGUF file as the keys of a `config.json`, and its tokenizer as a [`Vocabulary`].
//!
//! Beside the keys of Hugging Face there are three of our own:
//! `bitnet_burn.quantize_activations` = false: ternary weights, float activations (Ternary-Bonsai);
//! `rope_frequency_divisors`: what `rope_freqs.weight` holds, one number for each pair of a head, `θ_i / divisor_i`;
//! `pooling_type`: `none`, `mean`, `cls`, `last` or `rank`, of an embedding model.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::container::Container;
use super::names::{FAMILIES, Family};
use super::value::{Array, Value};
use crate::ModelError;
use crate::tokenizer::Vocabulary;
use crate::weights::ConfigMap;

/// Names of the pooling types, by their numbers.
pub(super) const POOLING: [&str; 5] = ["none", "mean", "cls", "last", "rank"];

/// Looks up keys, and says what is wrong with them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) container: &'a Container<'a>,
    pub(super) path: &'a Path,
}

/// What the tensors say about the configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// Rows of the embedding.
    pub(super) vocab_size: Option<usize>,
    /// Rows of the first q projection.
    pub(super) q_rows: Option<usize>,
    /// One more than the highest number of a layer with tensors.
    pub(super) layers: usize,
    /// A head of its own.
    pub(super) has_head: bool,
    /// A norm before each projection: a BitNet embedding model.
    pub(super) has_input_norms: bool,
    /// How the projections are stored; `None` if they are ordinary floats.
    pub(super) quantization: Option<Projections>,
    /// `rope_freqs.weight`.
    pub(super) rope_divisors: Option<Vec<f32>>,
}

/// Projections of a BitNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Projections {
    /// Trits and scales.
    Ternary,
    /// Floats to be quantized at load.
    Master,
}

impl<'a> Metadata<'a> {
    /// The architecture of the file.
    pub(super) fn family(self) -> Result<&'static Family, ModelError> {
        let key = "general.architecture";
        let expected = || {
            let names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
            format!("one of {}", names.join(", "))
        };
        let name = self
            .text(key)?
            .ok_or_else(|| self.bad(key, "nothing", expected()))?;
        let family = FAMILIES.iter().find(|family| family.name == name);
        family.ok_or_else(|| self.bad(key, format!("`{name}`"), expected()))
    }

    pub(super) fn config(
        self,
        family: &Family,
        evidence: &Evidence,
    ) -> Result<ConfigMap, ModelError> {
        let prefix = family.name;
        let key = |name: &str| format!("{prefix}.{name}");
        let need = |name: &str| -> Result<usize, ModelError> {
            let key = key(name);
            let found = self.size(&key)?;
            found.ok_or_else(|| self.bad(&key, "nothing", "a number of at least 1"))
        };
        let hidden = need("embedding_length")?;
        let layers = need("block_count")?;
        if layers > evidence.layers {
            let found = format!("{layers}, with tensors of {} layers", evidence.layers);
            return Err(self.bad(
                &key("block_count"),
                found,
                "the number of layers in the file",
            ));
        }
        let heads = need("attention.head_count")?;
        let kv_heads = self.size(&key("attention.head_count_kv"))?.unwrap_or(heads);
        let head_dim = self.head_dim(&key, hidden, heads, evidence)?;
        let eps = key("attention.layer_norm_rms_epsilon");
        let eps = self
            .float(&eps)?
            .ok_or_else(|| self.bad(&eps, "nothing", "a number"))?;
        let tokens = self
            .array("tokenizer.ggml.tokens")?
            .map(|tokens| tokens.len());
        let vocab_size = match evidence.vocab_size {
            Some(rows) => Some(rows),
            None => self.size(&key("vocab_size"))?.or(tokens),
        };

        let pooling = self.pooling(&key("pooling_type"))?;
        let embeds = family.name == "qwen3" && (pooling.is_some() || evidence.has_input_norms);
        let class = if embeds { "Qwen3Model" } else { family.class };
        let mut config = Map::new();
        let mut set = |name: &str, value: Json| config.insert(name.to_owned(), value);
        set("architectures", json!([class]));
        set("model_type", json!(family.model_type));
        set("hidden_act", json!(family.hidden_act));
        set("hidden_size", json!(hidden));
        set("intermediate_size", json!(need("feed_forward_length")?));
        set("num_hidden_layers", json!(layers));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(kv_heads));
        set("head_dim", json!(head_dim));
        set("max_position_embeddings", json!(need("context_length")?));
        set("rms_norm_eps", json!(eps));
        set(
            "rope_theta",
            json!(self.float(&key("rope.freq_base"))?.unwrap_or(10000.0)),
        );
        set("rope_scaling", self.rope_scaling(&key)?);
        set("tie_word_embeddings", json!(!evidence.has_head));
        if let Some(vocab_size) = vocab_size {
            set("vocab_size", json!(vocab_size));
        }
        for (name, key) in [
            ("bos_token_id", "tokenizer.ggml.bos_token_id"),
            ("eos_token_id", "tokenizer.ggml.eos_token_id"),
            ("pad_token_id", "tokenizer.ggml.padding_token_id"),
        ] {
            if let Some(id) = self.unsigned(key)? {
                set(name, json!(id));
            }
        }
        if let Some(pooling) = pooling {
            set("pooling_type", json!(pooling));
        }
        if let Some(divisors) = &evidence.rope_divisors {
            set("rope_frequency_divisors", json!(divisors));
        }
        if let Some(projections) = evidence.quantization {
            let mode = match projections {
                Projections::Ternary => "offline",
                Projections::Master => "online",
            };
            let quantization = json!({
                "quant_method": "bitnet",
                "linear_class": "autobitlinear",
                "quantization_mode": mode,
            });
            // Qwen3 in BitNet's manner has a norm before each projection; without them it is quantized in weights alone.
            if family.name == "qwen3" && !evidence.has_input_norms {
                set("bitnet_burn", json!({ "quantize_activations": false }));
            }
            set("quantization_config", quantization);
        }
        Ok(config)
    }

    fn head_dim(
        self,
        key: &impl Fn(&str) -> String,
        hidden: usize,
        heads: usize,
        evidence: &Evidence,
    ) -> Result<usize, ModelError> {
        let head_dim = match (self.size(&key("attention.key_length"))?, evidence.q_rows) {
            (Some(head_dim), _) => head_dim,
            (None, Some(rows)) => rows / heads,
            (None, None) => hidden / heads,
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            let found = self.size(&key(name))?;
            if let Some(found) = found.filter(|&found| found != head_dim) {
                let expected = format!("{head_dim}, the size of a head");
                return Err(self.bad(&key(name), found.to_string(), expected));
            }
        }
        Ok(head_dim)
    }

    fn rope_scaling(self, key: &impl Fn(&str) -> String) -> Result<Json, ModelError> {
        let kind = self.text(&key("rope.scaling.type"))?.unwrap_or("none");
        let factor = match self.float(&key("rope.scaling.factor"))? {
            Some(factor) => Some(factor),
            // The old spelling of linear scaling.
            None => self.float(&key("rope.scale_linear"))?,
        };
        let kind = match (kind, factor) {
            ("none", None) => return Ok(Json::Null),
            ("none" | "linear", factor) if factor.is_none_or(|factor| factor == 1.0) => {
                return Ok(Json::Null);
            }
            ("none", Some(_)) => "linear",
            (kind, _) => kind,
        };
        let mut scaling = Map::new();
        scaling.insert("rope_type".to_owned(), json!(kind));
        for (name, value) in [
            ("factor", factor),
            (
                "attention_factor",
                self.float(&key("rope.scaling.attn_factor"))?,
            ),
            (
                "beta_fast",
                self.float(&key("rope.scaling.yarn_beta_fast"))?,
            ),
            (
                "beta_slow",
                self.float(&key("rope.scaling.yarn_beta_slow"))?,
            ),
        ] {
            if let Some(value) = value {
                scaling.insert(name.to_owned(), json!(value));
            }
        }
        if let Some(length) = self.size(&key("rope.scaling.original_context_length"))? {
            scaling.insert("original_max_position_embeddings".to_owned(), json!(length));
        }
        Ok(Json::Object(scaling))
    }

    fn pooling(self, key: &str) -> Result<Option<&'static str>, ModelError> {
        let Some(number) = self.unsigned(key)? else {
            return Ok(None);
        };
        let kind = usize::try_from(number)
            .ok()
            .and_then(|number| POOLING.get(number));
        match kind {
            Some(kind) => Ok(Some(kind)),
            None => Err(self.bad(key, number.to_string(), "a number from 0 to 4")),
        }
    }

    /// The tokenizer; `None` if the file has no tokens.
    pub(super) fn vocabulary(self) -> Result<Option<Vocabulary>, ModelError> {
        let Some(tokens) = self.array("tokenizer.ggml.tokens")? else {
            return Ok(None);
        };
        let id = |name: &str| -> Result<Option<u32>, ModelError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = self.unsigned(&key)? else {
                return Ok(None);
            };
            let known = u32::try_from(id)
                .ok()
                .filter(|&id| (id as usize) < tokens.len());
            match known {
                Some(id) => Ok(Some(id)),
                None => {
                    let expected = format!("an id below {}, the number of tokens", tokens.len());
                    Err(self.bad(&key, id.to_string(), expected))
                }
            }
        };
        let model = self.text("tokenizer.ggml.model")?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Some(Vocabulary {
            model: owned(model)
                .ok_or_else(|| self.bad("tokenizer.ggml.model", "nothing", "a name"))?,
            pre: owned(self.text("tokenizer.ggml.pre")?),
            tokens: self.all("tokenizer.ggml.tokens", None, text)?,
            scores: self.all("tokenizer.ggml.scores", Some(tokens.len()), |value| {
                value.as_float().map(|score| score as f32)
            })?,
            token_types: self.all("tokenizer.ggml.token_type", Some(tokens.len()), |value| {
                match value {
                    Value::Signed(kind) => i32::try_from(kind).ok(),
                    Value::Unsigned(kind) => i32::try_from(kind).ok(),
                    _ => None,
                }
            })?,
            merges: self.all("tokenizer.ggml.merges", None, text)?,
            bos_id: id("bos")?,
            eos_id: id("eos")?,
            eot_id: id("eot")?,
            pad_id: id("padding")?,
            unknown_id: id("unknown")?,
            add_bos: self.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: self.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: self.bool("tokenizer.ggml.add_space_prefix")?,
            chat_template: owned(self.text("tokenizer.chat_template")?),
        }))
    }

    /// Every element of an array, which is empty if the key is absent.
    fn all<T>(
        self,
        key: &str,
        len: Option<usize>,
        element: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Vec<T>, ModelError> {
        let Some(array) = self.array(key)? else {
            return Ok(Vec::new());
        };
        if let Some(len) = len.filter(|&len| len != array.len()) {
            let found = format!("{} values", array.len());
            return Err(self.bad(key, found, format!("{len}, one for each token")));
        }
        let all: Option<Vec<T>> = array.iter().map(element).collect();
        all.ok_or_else(|| {
            let found = Value::Array(array).to_string();
            self.bad(key, found, "values of another type")
        })
    }

    /// The heads of q and k: what their rows are divided by.
    pub(super) fn heads(self, family: &Family) -> Result<[usize; 2], ModelError> {
        let key = |name: &str| format!("{}.attention.{name}", family.name);
        let heads = self.size(&key("head_count"))?.unwrap_or(1);
        Ok([heads, self.size(&key("head_count_kv"))?.unwrap_or(heads)])
    }

    /// A number that is at least 1 and at most 2^31: a dimension or a count.
    fn size(self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(number) = self.unsigned(key)? else {
            return Ok(None);
        };
        match usize::try_from(number) {
            Ok(size) if (1..=1 << 31).contains(&size) => Ok(Some(size)),
            _ => Err(self.bad(key, number.to_string(), "a number from 1 to 2^31")),
        }
    }

    fn unsigned(self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(key, "an integer that is not negative", |value| {
            value.as_unsigned()
        })
    }

    fn float(self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a finite number", |value| {
            value.as_float().filter(|value| value.is_finite())
        })
    }

    fn bool(self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", |value| value.as_bool())
    }

    fn text(self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "text", text_ref)
    }

    fn array(self, key: &str) -> Result<Option<Array<'a>>, ModelError> {
        self.typed(key, "an array", |value| value.as_array())
    }

    fn typed<T>(
        self,
        key: &str,
        expected: &str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.container.value(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.bad(key, value.to_string(), expected)),
        }
    }

    pub(super) fn bad(
        self,
        key: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ModelError {
        ModelError::Config {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
            found: found.into(),
            expected: expected.into(),
            way_out: "Convert the model again, from its original checkpoint".to_owned(),
        }
    }
}

fn text_ref(value: Value<'_>) -> Option<&str> {
    value.as_text()
}

fn text(value: Value<'_>) -> Option<String> {
    value.as_text().map(str::to_owned)
}
