//! Reads fixture checkpoints with what the reference libraries computed from them.

use std::path::PathBuf;

use bitnet_models::decoder::{Decoder, LoadOptions};
use bitnet_models::{Model, ModelError};
use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// The fixture root: `BITNET_FIXTURES`, or the copies in the repository.
pub(crate) fn root() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    std::env::var_os("BITNET_FIXTURES").map_or_else(|| default.into(), PathBuf::from)
}

/// Every folder below `models/` that holds expected values, by its path below the root.
pub(crate) fn models() -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root().join("models")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a fixture folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.ends_with("expected.safetensors") {
                let relative = folder.strip_prefix(root()).expect("below the root");
                found.push(relative.to_str().expect("a plain name").to_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no models below {}", root().display());
    found
}

/// Loads a fixture exactly as its expected values were made.
pub(crate) fn load(path: &str, device: &Device) -> Result<Model, ModelError> {
    load_with(path, device, LoadOptions::exact())
}

/// The one fixture whose configuration does not say that its floats are masters.
pub(crate) fn load_with(
    path: &str,
    device: &Device,
    mut options: LoadOptions,
) -> Result<Model, ModelError> {
    if path.ends_with("prequantized") {
        options.overrides.ternary = Some(true);
    }
    Model::load_with(root().join(path), device, &options, &mut |_, _| ())
}

/// Expected values.
pub(crate) struct Expected(Vec<u8>);

impl Expected {
    pub(crate) fn of(path: &str) -> Self {
        let file = root().join(path).join("expected.safetensors");
        Self(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("a safetensors file")
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).expect(name).shape().to_vec()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let tensor = tensors
            .tensor(name)
            .unwrap_or_else(|_| panic!("no `{name}`"));
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        let (numbers, _) = tensor.data().as_chunks();
        numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }

    pub(crate) fn ints(&self, name: &str) -> Vec<i64> {
        let tensors = self.tensors();
        let tensor = tensors
            .tensor(name)
            .unwrap_or_else(|_| panic!("no `{name}`"));
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        let (numbers, _) = tensor.data().as_chunks();
        numbers
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes))
            .collect()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.ints(name).into_iter();
        ids.map(|id| u32::try_from(id).expect("an id")).collect()
    }

    /// `prefix` of every tensor named `<prefix>.input_ids`, but for padded batches.
    pub(crate) fn prompts(&self) -> Vec<String> {
        let tensors = self.tensors();
        let names = tensors.names();
        let prompts = names
            .iter()
            .filter_map(|name| name.strip_suffix(".input_ids"));
        let mut prompts: Vec<_> = prompts
            .filter(|p| *p != "leftpad")
            .map(str::to_owned)
            .collect();
        prompts.sort();
        assert!(!prompts.is_empty());
        prompts
    }
}

pub(crate) fn ids_tensor(ids: &[u32], device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let len = ids.len();
    Tensor::from_data(TensorData::new(ids, [1, len]), device)
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

/// Largest difference; NaN and lengths that differ are failures.
pub(crate) fn largest_difference(found: &[f32], expected: &[f32], what: &str) -> f32 {
    assert_eq!(found.len(), expected.len(), "{what}");
    assert!(found.iter().all(|x| !x.is_nan()), "{what}: NaN");
    let differences = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    differences.fold(0.0, f32::max)
}

pub(crate) fn assert_within(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let difference = largest_difference(found, expected, what);
    assert!(difference <= tolerance, "{what}: off by {difference}");
}

/// All logits, or hidden states of a model without a head, of one sequence.
pub(crate) fn outputs(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    let hidden = decoder.hidden(ids_tensor(ids, &decoder.device()));
    if decoder.config().has_head {
        values(decoder.logits(hidden))
    } else {
        values(hidden)
    }
}
