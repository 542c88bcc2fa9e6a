//! The 1bitLLM reproductions: sub-norms under other names, SiLU, masters quantized on the fly.
//!
//! The architecture string has a lower-case n, and `model_type` says `llama`. `input_bits` and `weight_bits` are what makes
//! these models ternary; there is no `quantization_config`. A GGUF file of them holds ternary weights.

use bitnet_kernels::{ActivationQuantizer, Granularity};

use super::{Architecture, Tensors, common};
use crate::ModelError;
use crate::decoder::{DecoderConfig, Masters};
use crate::weights::ConfigReader;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["BitnetForCausalLM"],
    models: "1bitLLM/bitnet_b1_58-large, -xl and -3B",
    read,
};

fn read(config: &ConfigReader<'_>, tensors: &Tensors<'_>) -> Result<DecoderConfig, ModelError> {
    for (key, bits) in [("input_bits", 8), ("weight_bits", 1)] {
        if config.optional_usize(key)?.unwrap_or(bits) != bits {
            return Err(config.unsupported(
                key,
                &bits.to_string(),
                "Only ternary weights with 8-bit inputs are supported",
            ));
        }
    }
    let mut decoder = common(config, tensors)?;
    decoder.sub_norms = true;
    decoder.masters = Masters::Ternary(Granularity::Tensor);
    decoder.activations = ActivationQuantizer::Int8;
    Ok(decoder)
}
