//! Qwen3: norms of query and key heads. Float, ternary with group scales (Ternary-Bonsai), or the BitNet embedding model
//! with a norm before every projection.
//!
//! The embedding model has no output head, and its checkpoint does not say that its projections are ternary: the norms
//! before them do, as nothing else has any.

use bitnet_kernels::{ActivationQuantizer, Granularity};

use super::{Architecture, Tensors, common};
use crate::ModelError;
use crate::decoder::{DecoderConfig, Masters};
use crate::weights::ConfigReader;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["Qwen3ForCausalLM", "Qwen3Model"],
    models: "Qwen3, Ternary-Bonsai 1.7B to 8B, microsoft/bitnet-embedding-0.6b",
    read,
};

fn read(config: &ConfigReader<'_>, tensors: &Tensors<'_>) -> Result<DecoderConfig, ModelError> {
    let mut decoder = common(config, tensors)?;
    decoder.head_norms = true;
    decoder.has_head = config
        .strings("architectures")?
        .contains(&"Qwen3ForCausalLM");
    if decoder.projection_norms {
        decoder.masters = Masters::Ternary(Granularity::Tensor);
        decoder.activations = ActivationQuantizer::Int8;
    }
    Ok(decoder)
}
