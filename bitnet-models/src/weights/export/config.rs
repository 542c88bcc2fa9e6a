//! The configuration of an exported folder: the source's keys, with the quantization that the variant has.
//!
//! transformers reads packed layers of class `autobitlinear` (the scale multiplies, mode `offline`) or `bitlinear` (it
//! divides), and masters as `autobitlinear` in mode `online`. Published Llama checkpoints are `bitlinear`, all others
//! `autobitlinear`; a packed source keeps its class.

use safetensors::Dtype;
use serde_json::{Value, json};

use super::Variant;
use crate::ModelError;
use crate::weights::json::ConfigReader;
use crate::weights::{Checkpoint, ConfigMap, names};

const QUANTIZATION: &str = "quantization_config";
const MULTIPLIES: &str = "autobitlinear";
const DIVIDES: &str = "bitlinear";

/// What the source's configuration means for the files to be written.
pub(super) struct Target<'a> {
    config: &'a ConfigMap,
    architecture: &'a str,
    linear_class: &'a str,
    use_rms_norm: bool,
}

impl<'a> Target<'a> {
    pub(super) fn new(checkpoint: &'a dyn Checkpoint) -> Result<Self, ModelError> {
        let reader = ConfigReader::new(checkpoint);
        let architectures = reader.strings("architectures")?;
        let architecture = architectures.first().copied().unwrap_or_default();
        let mut linear_class = if architecture.starts_with("Llama") {
            DIVIDES
        } else {
            MULTIPLIES
        };
        let mut use_rms_norm = false;
        if let Some(quantization) = reader.object(QUANTIZATION)? {
            use_rms_norm = quantization.optional_bool("use_rms_norm")? == Some(true);
            if quantization.optional_string("quantization_mode")? != Some("online") {
                linear_class = quantization
                    .optional_string("linear_class")?
                    .unwrap_or(DIVIDES);
            }
        }
        Ok(Self {
            config: checkpoint.config(),
            architecture,
            linear_class,
            use_rms_norm,
        })
    }

    /// Whether `weight_scale` multiplies.
    pub(super) fn scale_multiplies(&self) -> bool {
        self.linear_class == MULTIPLIES
    }

    /// The name that the family's own code looks for.
    pub(super) fn file_name(&self, name: &str) -> String {
        names::to_file(name, self.architecture, self.use_rms_norm)
    }

    /// The source's keys, changed to what was written. `dtype` holds all its floats.
    pub(super) fn config(&self, variant: Variant, dtype: Dtype) -> ConfigMap {
        let mut config = self.config.clone();
        let (class, mode) = match variant {
            Variant::Packed => (self.linear_class, "offline"),
            Variant::Master => (MULTIPLIES, "online"),
            Variant::Dequantized(_) => {
                config.shift_remove(QUANTIZATION);
                config.shift_remove("is_bitnet_config");
                set_dtype(&mut config, dtype);
                return config;
            }
        };
        let quantization = config.entry(QUANTIZATION).or_insert(Value::Null);
        if !quantization.is_object() {
            *quantization = json!({});
        }
        quantization["quant_method"] = "bitnet".into();
        quantization["linear_class"] = class.into();
        quantization["quantization_mode"] = mode.into();
        set_dtype(&mut config, dtype);
        config
    }
}

/// Names the type to load as, under the key that the source has.
fn set_dtype(config: &mut ConfigMap, dtype: Dtype) {
    let name = match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        _ => "bfloat16",
    };
    let key = if config.contains_key("dtype") {
        "dtype"
    } else {
        "torch_dtype"
    };
    config.insert(key.into(), name.into());
}
