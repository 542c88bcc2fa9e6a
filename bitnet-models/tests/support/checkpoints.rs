//! Finds the fixture checkpoints, and makes small ones, whole or damaged.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};

use bitnet_models::ModelError;
use bitnet_models::weights::{Checkpoint, Matrix, Role, Slot};
use safetensors::{Dtype, SafeTensors};

/// Folders under `models/` of the fixtures that hold weights; `BITNET_FIXTURES` names another set.
pub(crate) fn folders() -> Vec<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let root = std::env::var("BITNET_FIXTURES").unwrap_or_else(|_| default.to_owned());
    let mut folders = Vec::new();
    collect(&Path::new(&root).join("models"), &mut folders);
    folders.sort_unstable();
    assert!(!folders.is_empty(), "{root}: no models");
    folders
}

fn collect(folder: &Path, folders: &mut Vec<PathBuf>) {
    let weights = ["model.safetensors", "model.safetensors.index.json"];
    if weights.iter().any(|name| folder.join(name).exists()) {
        folders.push(folder.to_path_buf());
    }
    let entries = std::fs::read_dir(folder).expect("a folder of fixtures");
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            collect(&path, folders);
        }
    }
}

/// A tensor as the library `safetensors` reads it: name, type, shape and bytes.
pub(crate) type Raw = (String, Dtype, Vec<usize>, Vec<u8>);

/// Every tensor of the weight files of a folder, by name.
pub(crate) fn raw(folder: &Path) -> Vec<Raw> {
    let mut tensors = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of weights") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if !name.starts_with("model") || !name.ends_with(".safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("weights");
        let file = SafeTensors::deserialize(&bytes).expect("a whole file");
        tensors.extend(file.iter().map(|(name, view)| -> Raw {
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            (name.into(), dtype, shape, view.data().into())
        }));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

/// The slots of a model with these tensors: projections are ternary layers.
pub(crate) fn slots(checkpoint: &dyn Checkpoint) -> Vec<Slot> {
    let weights = checkpoint
        .tensors()
        .iter()
        .filter(|info| info.name.ends_with(".weight"));
    weights
        .map(|info| Slot {
            name: info.name.clone(),
            role: match info.shape[..] {
                [d_out, d_in] if info.name.ends_with("_proj.weight") => {
                    Role::Linear { d_out, d_in }
                }
                [rows, columns] => Role::Table { rows, columns },
                [length] => Role::Vector(length),
                _ => panic!("{}: {:?}", info.name, info.shape),
            },
        })
        .collect()
}

/// The fixture folders whose weights are packed, or are not.
pub(crate) fn folders_packed(packed: bool) -> Vec<PathBuf> {
    let mut folders = folders();
    folders.retain(|folder| {
        let checkpoint = bitnet_models::weights::open(folder).expect("a whole checkpoint");
        packed
            == checkpoint
                .tensors()
                .iter()
                .any(|info| info.encoding == "U8")
    });
    folders
}

/// Reads every tensor and counts the numbers.
pub(crate) fn read_all(checkpoint: &dyn Checkpoint) -> Result<usize, ModelError> {
    let mut numbers = 0;
    for info in checkpoint.tensors() {
        numbers += match (&info.shape[..], info.name.ends_with(".weight")) {
            (&[d_out, d_in], true) => match checkpoint.matrix(&info.name, d_out, d_in)? {
                Matrix::Ternary(packed) => packed.trits().len(),
                Matrix::Float(floats) => floats.to_f32().len(),
            },
            (shape, _) => checkpoint.floats(&info.name, shape)?.to_f32().len(),
        };
    }
    Ok(numbers)
}

/// One tensor of a file to be made: name, type, shape, bytes.
pub(crate) type Tensor<'a> = (&'a str, &'a str, &'a [usize], &'a [u8]);

/// A safetensors file of these tensors, one after the other.
pub(crate) fn file(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let (start, end) = (data.len(), data.len() + bytes.len());
        entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
        ));
        data.extend_from_slice(bytes);
    }
    raw_file(&format!("{{{}}}", entries.join(",")), &data)
}

/// A safetensors file with this header, whatever it says.
pub(crate) fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// A configuration of packed weights, whose scale divides.
pub(crate) const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"hidden_size":8,"quantization_config":{"quant_method":"bitnet"}}"#;

/// Four packed rows of eight columns, all -1, 0 or 1.
pub(crate) const CODES: [u8; 8] = [0b00_01_10_00, 1, 2, 4, 8, 16, 32, 0b10_10_10_10];
/// 2 as bf16.
pub(crate) const TWO: [u8; 2] = [0x00, 0x40];

/// A small checkpoint: a packed matrix with its scale, a table and a norm.
pub(crate) const TENSORS: &[Tensor<'_>] = &[
    ("model.embed_tokens.weight", "F32", &[2, 3], &[0; 24]),
    ("model.layers.0.mlp.up_proj.weight", "U8", &[1, 8], &CODES),
    (
        "model.layers.0.mlp.up_proj.weight_scale",
        "BF16",
        &[1],
        &TWO,
    ),
    ("model.norm.weight", "F16", &[3], &[0; 6]),
];
