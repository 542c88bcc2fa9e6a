//! A configuration and a vocabulary as GGUF metadata: the keys of the published BitNet files, and those that other
//! models need beside them.

use std::path::Path;

use bitnet_kernels::ActivationQuantizer;
use serde_json::Value as Json;

use super::names::{FAMILIES, Family};
use super::value::{ARRAY, BOOL, F32, I32, TEXT, U32};
use crate::ModelError;
use crate::tokenizer::Vocabulary;
use crate::weights::{Checkpoint, Role, Slot};

/// Token types.
const NORMAL: i32 = 1;
const UNUSED: i32 = 5;

/// Keys and values, encoded one after the other.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u64,
}

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        push_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.key(key, U32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f64) {
        self.key(key, F32);
        self.bytes.extend((value as f32).to_le_bytes());
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.key(key, BOOL);
        self.bytes.push(u8::from(value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, TEXT);
        push_text(&mut self.bytes, value);
    }

    fn array<T>(
        &mut self,
        key: &str,
        kind: u32,
        values: impl ExactSizeIterator<Item = T>,
        push: impl Fn(&mut Vec<u8>, T),
    ) {
        self.key(key, ARRAY);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        values.for_each(|value| push(&mut self.bytes, value));
    }
}

/// A length and the bytes of a text.
pub(super) fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// What the configuration of a source says in the terms of GGUF.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) family: &'static Family,
    /// Heads of q and of k.
    pub(super) heads: [usize; 2],
}

/// Keys of a configuration.
#[derive(Debug, Clone, Copy)]
struct Config<'a> {
    source: &'a dyn Checkpoint,
}

/// Encodes the metadata of a file.
pub(super) fn metadata(
    source: &dyn Checkpoint,
    vocabulary: &Vocabulary,
    vocab_size: usize,
    file_type: u32,
) -> Result<(Export, Metadata), ModelError> {
    let config = Config { source };
    let family = config.family()?;
    let heads = config.size("num_attention_heads")?;
    let kv_heads = config.size_or("num_key_value_heads", heads)?;
    let hidden = config.size("hidden_size")?;
    let head_dim = config.size_or("head_dim", hidden / heads)?;

    let mut out = Metadata::default();
    let key = |name: &str| format!("{}.{name}", family.name);
    out.text("general.architecture", family.name);
    let name = source
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    out.text("general.name", name.strip_suffix(".gguf").unwrap_or(&name));
    for (name, value) in [
        ("vocab_size", vocab_size),
        ("context_length", config.size("max_position_embeddings")?),
        ("embedding_length", hidden),
        ("block_count", config.size("num_hidden_layers")?),
        ("feed_forward_length", config.size("intermediate_size")?),
        ("rope.dimension_count", head_dim),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
    ] {
        out.u32(&key(name), value as u32);
    }
    if head_dim * heads != hidden {
        out.u32(&key("attention.key_length"), head_dim as u32);
        out.u32(&key("attention.value_length"), head_dim as u32);
    }
    if let Some(pooling) = config.pooling()? {
        out.u32(&key("pooling_type"), pooling);
    }
    out.f32(
        &key("attention.layer_norm_rms_epsilon"),
        config.float("rms_norm_eps")?,
    );
    out.f32(&key("rope.freq_base"), config.rope_theta()?);
    config.rope_scaling(&key, &mut out)?;
    out.u32("general.file_type", file_type);
    out.u32("general.quantization_version", 2);
    write_vocabulary(vocabulary, vocab_size, family, source.path(), &mut out)?;
    let heads = [heads, kv_heads];
    Ok((Export { family, heads }, out))
}

/// Refuses what a file does not say and our reader would take for something else: projections of which some stay float,
/// floats that are dequantized trits, and inputs that are treated in another way than the architecture implies.
pub(super) fn check_quantization(
    source: &dyn Checkpoint,
    slots: &[Slot],
    family: &Family,
    activations: ActivationQuantizer,
) -> Result<(), ModelError> {
    let projections = slots
        .iter()
        .filter(|slot| slot.name.ends_with("_proj.weight"));
    let (ternary, float): (Vec<_>, Vec<_>) =
        projections.partition(|slot| matches!(slot.role, Role::Linear { .. }));
    let config = Config { source };
    if !float.is_empty() && (family.bitnet || !ternary.is_empty()) {
        let found = format!("a float projection, {}", float[0].name);
        return Err(config.bad("quantization_config", found, "all projections ternary"));
    }
    if let Some(Slot {
        name,
        role: Role::Table { rows, columns },
    }) = float.first()
        && super::trits_of_floats(&source.floats(name, &[*rows, *columns])?, family).is_some()
    {
        let found = format!("floats that are all -m, 0 or m, in {name}");
        let expected = "masters or ternary weights: read again, these floats would be ternary";
        return Err(config.bad("quantization_config", found, expected));
    }
    let any = |end: &str| slots.iter().any(|slot| slot.name.ends_with(end));
    if !family.bitnet && any("attn_sub_norm.weight") {
        let expected = format!("none, as GGUF implies for {}", family.name);
        return Err(config.bad("bitnet_burn.sub_norms", "sub-norms", expected));
    }
    let has_norms = any("_proj.norm.weight");
    let plain_inputs = ternary.is_empty() || (family.name == "qwen3" && !has_norms);
    let implied = if plain_inputs {
        ActivationQuantizer::None
    } else {
        ActivationQuantizer::Int8
    };
    if activations == implied {
        return Ok(());
    }
    Err(config.bad(
        "activations",
        format!("{activations:?}"),
        format!("{implied:?}, which GGUF implies for this architecture"),
    ))
}

impl Config<'_> {
    /// The family with the class and the activation of the source; of two names for one the first.
    fn family(self) -> Result<&'static Family, ModelError> {
        let class = self
            .value("architectures")
            .and_then(|list| list.get(0)?.as_str());
        let class = match class {
            Some("Qwen3Model") => "Qwen3ForCausalLM",
            class => class.unwrap_or("nothing"),
        };
        let Some(family) = FAMILIES.iter().find(|family| family.class == class) else {
            let mut known: Vec<_> = FAMILIES.iter().map(|family| family.class).collect();
            known.dedup();
            return Err(self.bad(
                "architectures",
                class,
                format!("one of {}", known.join(", ")),
            ));
        };
        let act = self.value("hidden_act").and_then(Json::as_str);
        match act.filter(|&act| act != family.hidden_act) {
            None => Ok(family),
            Some(act) => {
                let expected = format!(
                    "`{}`, as GGUF implies for {}",
                    family.hidden_act, family.name
                );
                Err(self.bad("hidden_act", act, expected))
            }
        }
    }

    fn rope_theta(self) -> Result<f64, ModelError> {
        let nested = self
            .value("rope_parameters")
            .and_then(|rope| rope.get("rope_theta"));
        match nested.and_then(Json::as_f64) {
            Some(theta) => Ok(theta),
            None => self.float("rope_theta"),
        }
    }

    fn rope_scaling(
        self,
        key: &impl Fn(&str) -> String,
        out: &mut Metadata,
    ) -> Result<(), ModelError> {
        if self.value("rope_frequency_divisors").is_some() {
            let expected = "no divisors, which this writer does not have";
            return Err(self.bad("rope_frequency_divisors", "numbers", expected));
        }
        let spelled = ["rope_scaling", "rope_parameters"];
        let Some((name, scaling)) = spelled
            .iter()
            .find_map(|&name| Some((name, self.value(name)?)))
        else {
            return Ok(());
        };
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
        let kind = kind.and_then(Json::as_str).unwrap_or("default");
        match kind {
            "default" => return Ok(()),
            "linear" | "yarn" => out.text(&key("rope.scaling.type"), kind),
            _ => return Err(self.bad(name, kind, "`default`, `linear` or `yarn`")),
        }
        for (name, key_name) in [
            ("factor", "factor"),
            ("attention_factor", "attn_factor"),
            ("beta_fast", "yarn_beta_fast"),
            ("beta_slow", "yarn_beta_slow"),
        ] {
            if let Some(value) = scaling.get(name).and_then(Json::as_f64) {
                out.f32(&key(&format!("rope.scaling.{key_name}")), value);
            }
        }
        let original = scaling
            .get("original_max_position_embeddings")
            .and_then(Json::as_u64);
        if let Some(length) = original {
            out.u32(&key("rope.scaling.original_context_length"), length as u32);
        }
        Ok(())
    }

    /// `pooling_type` as a number; an embedding model without it takes the last token.
    fn pooling(self) -> Result<Option<u32>, ModelError> {
        match self.value("pooling_type").and_then(Json::as_str) {
            Some(name) => match super::config::POOLING.iter().position(|kind| *kind == name) {
                Some(number) => Ok(Some(number as u32)),
                None => {
                    let expected = format!("one of {}", super::config::POOLING.join(", "));
                    Err(self.bad("pooling_type", name, expected))
                }
            },
            None => {
                let class = self
                    .value("architectures")
                    .and_then(|list| list.get(0)?.as_str());
                let last = super::config::POOLING
                    .iter()
                    .position(|kind| *kind == "last");
                Ok(last
                    .filter(|_| class == Some("Qwen3Model"))
                    .map(|last| last as u32))
            }
        }
    }

    fn value(&self, key: &str) -> Option<&Json> {
        self.source
            .config()
            .get(key)
            .filter(|value| !value.is_null())
    }

    fn size(self, key: &str) -> Result<usize, ModelError> {
        let value = self.value(key);
        let size = value
            .and_then(Json::as_u64)
            .and_then(|size| u32::try_from(size).ok());
        size.filter(|&size| size > 0)
            .map(|size| size as usize)
            .ok_or_else(|| {
                let found = value.map_or_else(|| "nothing".to_owned(), Json::to_string);
                self.bad(key, found, "a number from 1 to 2^32")
            })
    }

    fn size_or(self, key: &str, default: usize) -> Result<usize, ModelError> {
        if self.value(key).is_some() {
            self.size(key)
        } else {
            Ok(default)
        }
    }

    fn float(self, key: &str) -> Result<f64, ModelError> {
        let value = self.value(key);
        value.and_then(Json::as_f64).ok_or_else(|| {
            let found = value.map_or_else(|| "nothing".to_owned(), Json::to_string);
            self.bad(key, found, "a number")
        })
    }

    fn bad(self, key: &str, found: impl Into<String>, expected: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: self.source.path().to_path_buf(),
            key: key.to_owned(),
            found: found.into(),
            expected: expected.into(),
            way_out: "Such a model cannot be written as GGUF: write safetensors".to_owned(),
        }
    }
}

/// The tokenizer's keys. Readers take the number of tokens for the rows of the embedding, so rows without a token get
/// one that is never used.
fn write_vocabulary(
    vocabulary: &Vocabulary,
    rows: usize,
    family: &Family,
    path: &Path,
    out: &mut Metadata,
) -> Result<(), ModelError> {
    let tokens = &vocabulary.tokens;
    if tokens.is_empty() || tokens.len() > rows {
        return Err(ModelError::File {
            path: path.to_path_buf(),
            what: "vocabulary".to_owned(),
            found: format!("{} tokens", tokens.len()),
            expected: format!("at least 1 and at most {rows}, the rows of the embedding"),
            way_out: "Give the tokenizer that belongs to the model".to_owned(),
        });
    }
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    out.text(&key("model"), &vocabulary.model);
    // The published file lacks it, and readers without it split text by another rule than the model's.
    let llama_3 = family.bitnet_cpp && vocabulary.model == "gpt2";
    if let Some(pre) = vocabulary.pre.as_deref().or(llama_3.then_some("llama-bpe")) {
        out.text(&key("pre"), pre);
    }
    out.array(&key("tokens"), TEXT, 0..rows, |bytes, id| {
        match tokens.get(id) {
            Some(token) => push_text(bytes, token),
            None => push_text(bytes, &format!("[PAD{id}]")),
        }
    });
    if !vocabulary.scores.is_empty() {
        out.array(&key("scores"), F32, 0..rows, |bytes, id| {
            let score = vocabulary.scores.get(id).unwrap_or(&0.0);
            bytes.extend(score.to_le_bytes());
        });
    }
    if !vocabulary.token_types.is_empty() || tokens.len() < rows {
        out.array(&key("token_type"), I32, 0..rows, |bytes, id| {
            let missing = if id < tokens.len() { NORMAL } else { UNUSED };
            let kind = vocabulary.token_types.get(id).unwrap_or(&missing);
            bytes.extend(kind.to_le_bytes());
        });
    }
    if !vocabulary.merges.is_empty() {
        let merges = vocabulary.merges.iter();
        out.array(&key("merges"), TEXT, merges, |bytes, merge| {
            push_text(bytes, merge)
        });
    }
    for (name, id) in [
        ("bos", vocabulary.bos_id),
        ("eos", vocabulary.eos_id),
        ("eot", vocabulary.eot_id),
        ("padding", vocabulary.pad_id),
        ("unknown", vocabulary.unknown_id),
    ] {
        if let Some(id) = id {
            out.u32(&key(&format!("{name}_token_id")), id);
        }
    }
    for (name, flag) in [
        ("add_bos_token", vocabulary.add_bos),
        ("add_eos_token", vocabulary.add_eos),
        ("add_space_prefix", vocabulary.add_space_prefix),
    ] {
        if let Some(flag) = flag {
            out.bool(&key(name), flag);
        }
    }
    if let Some(template) = &vocabulary.chat_template {
        out.text("tokenizer.chat_template", template);
    }
    Ok(())
}
