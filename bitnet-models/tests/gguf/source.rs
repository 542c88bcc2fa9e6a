//! Fixtures: GGUF files, and the safetensors checkpoints they were made from, read without the code under test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bitnet_kernels::packing::{Layout, hf::Hf};
use bitnet_kernels::quantize::ternarize;
use bitnet_kernels::{Granularity, Scale, WeightQuantizer};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

/// A path below the fixtures: those of `BITNET_FIXTURES`, or the copies beside this test.
pub(crate) fn fixture(path: &str) -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let root = std::env::var("BITNET_FIXTURES").unwrap_or_else(|_| default.to_owned());
    PathBuf::from(root).join(path)
}

/// Every GGUF fixture with the folder it was made from.
pub(crate) fn files() -> Vec<(PathBuf, PathBuf)> {
    let list = std::fs::read(fixture("gguf/expected.json")).expect("expected.json");
    let list: Vec<Map<String, Value>> = serde_json::from_slice(&list).expect("a list of files");
    let files = list.iter().map(|entry| {
        let text = |key: &str| entry[key].as_str().expect("text").to_owned();
        (
            fixture(&format!("gguf/{}", text("file"))),
            fixture(&text("source")),
        )
    });
    let files: Vec<_> = files.collect();
    assert!(!files.is_empty());
    files
}

/// A safetensors checkpoint, whole in memory, names with `model.`.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Source {
    pub(crate) fn open(folder: &std::path::Path) -> Self {
        let config = std::fs::read(folder.join("config.json")).expect("config.json");
        let config: Map<String, Value> = serde_json::from_slice(&config).expect("an object");
        let mut tensors = BTreeMap::new();
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if !(name.starts_with("model") && name.ends_with(".safetensors")) {
                continue;
            }
            let bytes = std::fs::read(&path).expect("a file");
            for (name, view) in SafeTensors::deserialize(&bytes)
                .expect("safetensors")
                .tensors()
            {
                // 1bitLLM's own names of the sub-norms.
                let name = name
                    .replace("inner_attn_ln", "attn_sub_norm")
                    .replace("ffn_layernorm", "ffn_sub_norm");
                let inner = name.strip_prefix("model.").unwrap_or(&name);
                let name = match inner == "lm_head.weight" {
                    true => inner.to_owned(),
                    false => format!("model.{inner}"),
                };
                let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                tensors.insert(name, tensor);
            }
        }
        Self { config, tensors }
    }

    pub(crate) fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().expect("a number") as usize
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let (dtype, _, bytes) = &self.tensors[name];
        widen(*dtype, bytes)
    }

    /// Trits and scale of a projection with `d_in` columns: unpacked, or quantized from its master.
    pub(crate) fn ternary(&self, name: &str, d_out: usize) -> (Vec<i8>, f32) {
        let (dtype, shape, bytes) = &self.tensors[name];
        let d_in = shape[1];
        if *dtype == Dtype::U8 {
            let scale = self.floats(&format!("{name}_scale"))[0];
            let class = &self.config["quantization_config"].get("linear_class");
            let multiplies = class.is_some_and(|class| class == "autobitlinear");
            let trits = Hf.unpack(bytes, d_out, d_in).expect("codes").trits;
            return (trits, if multiplies { scale } else { 1.0 / scale });
        }
        let values = widen(*dtype, bytes);
        let (quantizer, granularity) = (WeightQuantizer::default(), Granularity::Tensor);
        let packed = ternarize(&values, d_out, d_in, quantizer, granularity).expect("a master");
        match packed.scale() {
            Scale::Tensor(scale) => (packed.trits(), *scale),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let two = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => two.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => two.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}
