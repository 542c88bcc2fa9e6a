//! Architectures and tensor names: GGUF's on the left, those of Hugging Face on the right.
//!
//! The tables are the whole translation; both directions read them. A name that no table knows stays as it is, so it
//! can be listed.

/// An architecture that this crate can run, as GGUF names it.
#[derive(Debug)]
pub(super) struct Family {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `architectures` of a `config.json`.
    pub(super) class: &'static str,
    pub(super) model_type: &'static str,
    pub(super) hidden_act: &'static str,
    /// A BitNet by definition: float projections are masters or dequantized trits.
    pub(super) bitnet: bool,
    /// Written by bitnet.cpp alone.
    pub(super) bitnet_cpp: bool,
    /// Rows of q and k are in interleaved order.
    pub(super) interleaved: bool,
}

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "bitnet-b1.58",
        class: "BitNetForCausalLM",
        model_type: "bitnet",
        hidden_act: "relu2",
        bitnet: true,
        bitnet_cpp: true,
        interleaved: false,
    },
    Family {
        name: "bitnet-25",
        class: "BitNetForCausalLM",
        model_type: "bitnet",
        hidden_act: "relu2",
        bitnet: true,
        bitnet_cpp: true,
        interleaved: false,
    },
    Family {
        name: "bitnet",
        class: "BitnetForCausalLM",
        model_type: "llama",
        hidden_act: "silu",
        bitnet: true,
        bitnet_cpp: false,
        interleaved: false,
    },
    Family {
        name: "llama",
        class: "LlamaForCausalLM",
        model_type: "llama",
        hidden_act: "silu",
        bitnet: false,
        bitnet_cpp: false,
        interleaved: true,
    },
    Family {
        name: "qwen3",
        class: "Qwen3ForCausalLM",
        model_type: "qwen3",
        hidden_act: "silu",
        bitnet: false,
        bitnet_cpp: false,
        interleaved: false,
    },
];

/// Tensors outside the layers.
static MODEL: &[(&str, &str)] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Tensors of a layer, after `blk.{i}.` and `model.layers.{i}.`.
static LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_sub_norm", "self_attn.attn_sub_norm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_q_norm_in", "self_attn.q_proj.norm"),
    ("attn_k_norm_in", "self_attn.k_proj.norm"),
    ("attn_v_norm_in", "self_attn.v_proj.norm"),
    ("attn_output_norm_in", "self_attn.o_proj.norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_sub_norm", "mlp.ffn_sub_norm"),
    ("ffn_gate_norm_in", "mlp.gate_proj.norm"),
    ("ffn_up_norm_in", "mlp.up_proj.norm"),
    ("ffn_down_norm_in", "mlp.down_proj.norm"),
];

/// What a tensor is to its module.
static SUFFIXES: &[(&str, &str)] = &[
    ("weight", "weight"),
    ("bias", "bias"),
    ("scale", "weight_scale"),
];

impl Family {
    /// The Hugging Face name of a tensor in a file of this architecture.
    pub(super) fn to_hf(&self, name: &str) -> Option<String> {
        let (stem, suffix) = name.rsplit_once('.')?;
        let suffix = left(SUFFIXES, suffix)?;
        if let Some(module) = left(MODEL, stem) {
            return Some(format!("{module}.{suffix}"));
        }
        let (layer, stem) = layer(stem, "blk.")?;
        let module = left(LAYER, stem)?;
        Some(format!("model.layers.{layer}.{module}.{suffix}"))
    }

    /// The name in a file of this architecture of a tensor with a Hugging Face name, with or without `model.`.
    pub(super) fn to_gguf(&self, name: &str) -> Option<String> {
        let (module, suffix) = name.rsplit_once('.')?;
        let suffix = right(SUFFIXES, suffix)?;
        let inner = module.strip_prefix("model.").unwrap_or(module);
        if let Some(stem) = right(MODEL, module).or_else(|| right(MODEL, &format!("model.{inner}")))
        {
            return Some(format!("{stem}.{suffix}"));
        }
        let (layer, module) = layer(inner, "layers.")?;
        let stem = right(LAYER, module)?;
        Some(format!("blk.{layer}.{stem}.{suffix}"))
    }
}

/// Splits `{prefix}{layer}.{rest}`. One layer has one spelling.
pub(super) fn layer<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (digits, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let layer: usize = digits.parse().ok()?;
    (layer.to_string() == digits).then_some((layer, rest))
}

fn left(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(left, _)| *left == name)
        .map(|(_, right)| *right)
}

fn right(table: &[(&'static str, &str)], name: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(_, right)| *right == name)
        .map(|(left, _)| *left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_both_translations() {
        for family in FAMILIES {
            for (stem, _) in LAYER.iter().chain(MODEL) {
                for (suffix, _) in SUFFIXES {
                    let layer = if left(MODEL, stem).is_some() {
                        ""
                    } else {
                        "blk.10."
                    };
                    let name = format!("{layer}{stem}.{suffix}");
                    let hf = family.to_hf(&name).unwrap();
                    assert_eq!(family.to_gguf(&hf), Some(name.clone()), "{hf}");
                    let bare = hf.strip_prefix("model.").unwrap_or(&hf);
                    assert_eq!(family.to_gguf(bare), Some(name), "{bare}");
                }
            }
        }
    }

    #[test]
    fn unknown_and_misspelled_names_have_no_translation() {
        for name in [
            "rope_freqs.weight",
            "blk.00.attn_q.weight",
            "blk.-1.attn_q.weight",
            "blk.0.attn_q",
            "x",
        ] {
            assert_eq!(FAMILIES[0].to_hf(name), None, "{name}");
        }
    }
}
