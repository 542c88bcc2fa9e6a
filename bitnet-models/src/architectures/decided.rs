//! What was decided when a checkpoint was written, under a key of our own that wins over all others:
//! `"bitnet_burn": {"quantize_weights": bool, "quantize_activations": bool or bits, "sub_norms": bool}`, each of which may
//! be missing. Bits are 8, which `true` means too, or 4.
//!
//! The public keys cannot say that a BitNet is to be read as plain floats, that its inputs stay float or have 4 bits, or
//! that sub-norms were put into a Llama or Qwen3. Other programs ignore the key.

use bitnet_kernels::{ActivationQuantizer, Granularity};
use serde_json::{Value, json};

use super::{Tensors, read_keys};
use crate::ModelError;
use crate::decoder::{DecoderConfig, Masters};
use crate::weights::{Checkpoint, ConfigMap, ConfigReader};

const KEY: &str = "bitnet_burn";
const WEIGHTS: &str = "quantize_weights";
const ACTIVATIONS: &str = "quantize_activations";
const SUB_NORMS: &str = "sub_norms";

/// Applies what `config` says was decided.
pub(super) fn apply(
    config: &ConfigReader<'_>,
    decoder: &mut DecoderConfig,
) -> Result<(), ModelError> {
    let Some(decided) = config.object(KEY)? else {
        return Ok(());
    };
    match decided.optional_bool(WEIGHTS)? {
        Some(true) if decoder.masters == Masters::Float => {
            decoder.masters = Masters::Ternary(Granularity::Tensor);
        }
        Some(false) => decoder.masters = Masters::Float,
        Some(true) | None => {}
    }
    if let Some(value) = decided.value(ACTIVATIONS) {
        let activations = match value {
            Value::Bool(true) => Some(ActivationQuantizer::Int8),
            Value::Bool(false) => Some(ActivationQuantizer::None),
            bits => bits.as_u64().and_then(ActivationQuantizer::from_bits),
        };
        decoder.activations = activations.ok_or_else(|| {
            decided.unsupported(
                ACTIVATIONS,
                "true, false, or the bits 8 or 4",
                "A later version of this program may know more",
            )
        })?;
    }
    decoder.sub_norms |= decided.optional_bool(SUB_NORMS)? == Some(true);
    Ok(())
}

/// Says that there are sub-norms.
pub(super) fn insert_sub_norms(config: &mut ConfigMap) {
    set(config, SUB_NORMS, true);
}

/// Says what happens to the inputs of ternary projections.
pub(super) fn insert_activations(config: &mut ConfigMap, activations: ActivationQuantizer) {
    let value = match activations {
        ActivationQuantizer::Int8 => Value::Bool(true),
        ActivationQuantizer::Int4 => 4.into(),
        ActivationQuantizer::None => Value::Bool(false),
    };
    set(config, ACTIVATIONS, value);
}

fn set(config: &mut ConfigMap, key: &str, value: impl Into<Value>) {
    let decided = config.entry(KEY).or_insert(Value::Null);
    if !decided.is_object() {
        *decided = json!({});
    }
    decided[key] = value.into();
}

/// Takes back what was said about quantization.
pub(super) fn forget_quantization(config: &mut ConfigMap) {
    if let Some(Value::Object(decided)) = config.get_mut(KEY) {
        decided.shift_remove(WEIGHTS);
        decided.shift_remove(ACTIVATIONS);
        if decided.is_empty() {
            config.shift_remove(KEY);
        }
    }
}

/// Adds the key.
pub(crate) fn record(config: &mut ConfigMap, ternary: bool, activations: ActivationQuantizer) {
    set(config, WEIGHTS, ternary);
    insert_activations(config, activations);
}

/// Adds the key if the others are read differently. `checkpoint` has the tensors that will be beside `config`.
pub(crate) fn record_if_needed(
    config: &mut ConfigMap,
    checkpoint: &dyn Checkpoint,
    ternary: bool,
    activations: ActivationQuantizer,
) -> Result<(), ModelError> {
    forget_quantization(config);
    let reader = ConfigReader::of(checkpoint.path(), config);
    let read = read_keys(&reader, &Tensors(checkpoint))?;
    if (read.masters != Masters::Float, read.activations) != (ternary, activations) {
        record(config, ternary, activations);
    }
    Ok(())
}
