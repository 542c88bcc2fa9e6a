//! BitNet b1.58 2B4T: sub-norms, squared ReLU, every projection ternary.
//!
//! Source: arXiv 2504.12285 and the published `config.json`. Packed and master checkpoints differ in one key only, which
//! the weight format reads; without `quantization_config` the masters are quantized all the same, as nothing else makes
//! sense for this architecture.

use bitnet_kernels::{ActivationQuantizer, Granularity};

use super::{Architecture, Tensors, common};
use crate::ModelError;
use crate::decoder::{DecoderConfig, Masters};
use crate::weights::ConfigReader;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["BitNetForCausalLM"],
    models: "microsoft/bitnet-b1.58-2B-4T, its bf16 masters and its GGUF",
    read,
};

fn read(config: &ConfigReader<'_>, tensors: &Tensors<'_>) -> Result<DecoderConfig, ModelError> {
    let quantized = config.value("quantization_config").is_some();
    let mut decoder = common(config, tensors)?;
    decoder.sub_norms = true;
    // The model class has its own default, unlike Llama's.
    decoder.tied_head = config.optional_bool("tie_word_embeddings")?.unwrap_or(true);
    if !quantized {
        decoder.masters = Masters::Ternary(Granularity::Tensor);
        decoder.activations = ActivationQuantizer::Int8;
    }
    if decoder.n_heads * decoder.head_dim != decoder.hidden_size {
        return Err(config.unsupported(
            "head_dim",
            "hidden_size / num_attention_heads: the norm of the joined heads has hidden_size entries",
            "The configuration is damaged",
        ));
    }
    Ok(decoder)
}
