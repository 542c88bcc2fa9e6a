//! Tensor names of the published families, translated to one set: `model.layers.0.self_attn.q_proj.weight`.
//!
//! Outwards the names are those of Hugging Face's Llama and BitNet classes, with the `model.` prefix on everything but
//! the output head, and `<projection>.norm.weight` for a norm in front of one projection.

/// A part of a name that a family spells in its own way.
struct Rename {
    /// The spelling in its files.
    file: &'static str,
    /// Ours.
    ours: &'static str,
}

/// `BitnetForCausalLM` of 1bitLLM; the sub-norms have no projection in their names.
const INNER_NORMS: &[Rename] = &[
    Rename {
        file: ".self_attn.inner_attn_ln.",
        ours: ".self_attn.attn_sub_norm.",
    },
    Rename {
        file: ".mlp.ffn_layernorm.",
        ours: ".mlp.ffn_sub_norm.",
    },
];

/// `AutoBitLinear` of transformers with `use_rms_norm`.
const INPUT_NORMS: &[Rename] = &[Rename {
    file: "_proj.rms_norm.",
    ours: "_proj.norm.",
}];

/// Names of the bare model class, which leave the prefix out.
const UNPREFIXED: &[&str] = &["layers.", "embed_tokens.", "norm."];
const PREFIX: &str = "model.";

/// Our name for a tensor of a file; `None` for buffers that are computed, not stored.
pub(super) fn from_file(name: &str) -> Option<String> {
    if name.ends_with(".inv_freq") {
        return None;
    }
    let mut ours = if UNPREFIXED.iter().any(|start| name.starts_with(start)) {
        format!("{PREFIX}{name}")
    } else if name.starts_with("model.lm_head.") {
        name[PREFIX.len()..].to_owned()
    } else {
        name.to_owned()
    };
    for rename in INNER_NORMS.iter().chain(INPUT_NORMS) {
        ours = ours.replace(rename.file, rename.ours);
    }
    Some(ours)
}

/// The name under which transformers, or the family's own code, looks for a tensor of ours.
pub(super) fn to_file(name: &str, architecture: &str, use_rms_norm: bool) -> String {
    let inner = if architecture == "BitnetForCausalLM" {
        INNER_NORMS
    } else {
        &[]
    };
    let input = if use_rms_norm { INPUT_NORMS } else { &[] };
    let renames = inner.iter().chain(input);
    renames.fold(name.to_owned(), |name, rename| {
        name.replace(rename.ours, rename.file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_becomes_ours_and_ours_stays() {
        let cases = [
            ("norm.weight", "model.norm.weight"),
            ("embed_tokens.weight", "model.embed_tokens.weight"),
            (
                "layers.0.mlp.up_proj.norm.weight",
                "model.layers.0.mlp.up_proj.norm.weight",
            ),
            (
                "model.layers.1.mlp.up_proj.rms_norm.weight",
                "model.layers.1.mlp.up_proj.norm.weight",
            ),
            (
                "model.layers.1.self_attn.inner_attn_ln.weight",
                "model.layers.1.self_attn.attn_sub_norm.weight",
            ),
            (
                "model.layers.1.mlp.ffn_layernorm.weight",
                "model.layers.1.mlp.ffn_sub_norm.weight",
            ),
            ("model.lm_head.weight", "lm_head.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ];
        for (file, ours) in cases {
            assert_eq!(from_file(file).as_deref(), Some(ours), "{file}");
            assert_eq!(from_file(ours).as_deref(), Some(ours));
        }
        assert_eq!(
            from_file("model.layers.0.self_attn.rotary_emb.inv_freq"),
            None
        );
    }

    #[test]
    fn names_go_back_to_the_family_that_has_its_own() {
        let inner = "model.layers.1.mlp.ffn_layernorm.weight";
        let ours = from_file(inner).unwrap();
        assert_eq!(to_file(&ours, "BitnetForCausalLM", false), inner);
        assert_eq!(to_file(&ours, "BitNetForCausalLM", true), ours);
        let input = "model.layers.1.mlp.up_proj.rms_norm.weight";
        let ours = from_file(input).unwrap();
        assert_eq!(to_file(&ours, "BitNetForCausalLM", true), input);
        assert_eq!(to_file(&ours, "Qwen3Model", false), ours);
    }
}
