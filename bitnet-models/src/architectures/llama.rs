//! Llama, float or with BitNet quantization: Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E.
//!
//! Falcon-E's three revisions are one architecture: packed (`quantization_config` says so), `bfloat16` (an ordinary
//! Llama, as it says nothing) and `prequantized` (masters that say nothing either; the user must say that they are).

use super::{Architecture, Tensors, common};
use crate::ModelError;
use crate::decoder::DecoderConfig;
use crate::weights::ConfigReader;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["LlamaForCausalLM"],
    models: "HF1BitLLM/Llama3-8B-1.58-100B-tokens, tiiuae/Falcon3-*-1.58bit, tiiuae/Falcon-E-*, float Llama models",
    read,
};

fn read(config: &ConfigReader<'_>, tensors: &Tensors<'_>) -> Result<DecoderConfig, ModelError> {
    common(config, tensors)
}
