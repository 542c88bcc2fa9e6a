//! Memory while loading: never more than what the loaded model keeps and one tensor, in every format.
//!
//! The only test of its program, as every allocation of the process is counted. Pages of mapped files are not heap.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_kernels::packing::Packing;
use bitnet_kernels::{PackedTernary, Scale, TableFormat};
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::LoadOptions;
use bitnet_models::tokenizer::Vocabulary;
use bitnet_models::weights::{
    Arithmetic, Checkpoint, ConfigMap, ExportOptions, FloatKind, Floats, GgufLayout, GgufOptions,
    Matrix, PackOptions, Random, TensorInfo, Variant, export, write_gguf, write_packed,
};
use bitnet_models::{Model, ModelError};
use burn::tensor::Device;
use peak_alloc::PeakAlloc;
use serde_json::json;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const HIDDEN: usize = 768;
const INTER: usize = 3072;
const VOCAB: usize = 4096;
const LAYERS: usize = 3;

/// Room for what is neither the model nor a tensor: the directory of a file, names, the tokenizer.
const SMALL: usize = 1 << 20;

/// A BitNet with a head of its own, so that a table is the last thing to be loaded: 26 million trits and two tables of
/// 6 MB.
#[derive(Debug)]
struct Made {
    config: ConfigMap,
    vocabulary: Vocabulary,
    /// One matrix for each shape.
    matrices: HashMap<[usize; 2], PackedTernary>,
    table: Vec<u8>,
}

impl Made {
    fn new() -> Self {
        let config = json!({
            "architectures": ["BitNetForCausalLM"],
            "model_type": "bitnet",
            "hidden_act": "relu2",
            "hidden_size": HIDDEN,
            "intermediate_size": INTER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "vocab_size": VOCAB,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": false,
            "quantization_config": {
                "quant_method": "bitnet",
                "linear_class": "autobitlinear",
                "quantization_mode": "offline",
            },
        });
        let kv = HIDDEN / 3;
        let shapes = [
            [HIDDEN, HIDDEN],
            [kv, HIDDEN],
            [INTER, HIDDEN],
            [HIDDEN, INTER],
        ];
        let matrix = |[d_out, d_in]: [usize; 2]| {
            let trits: Vec<i8> = (0..d_out * d_in).map(|at| (at % 7 % 3) as i8 - 1).collect();
            PackedTernary::from_trits(&trits, Scale::Tensor(0.5), d_out, d_in).expect("trits")
        };
        let row: Vec<f32> = (0..HIDDEN).map(|at| at as f32 / 512.0 - 0.75).collect();
        Self {
            config: config.as_object().expect("an object").clone(),
            vocabulary: Random::new("tiny", 0)
                .expect("a size")
                .vocabulary()
                .expect("a vocabulary")
                .clone(),
            matrices: shapes
                .into_iter()
                .map(|shape| (shape, matrix(shape)))
                .collect(),
            table: FloatKind::BF16.encode(&row).repeat(VOCAB),
        }
    }
}

impl Checkpoint for Made {
    fn path(&self) -> &Path {
        Path::new("made")
    }

    fn format(&self) -> &'static str {
        "made"
    }

    fn config(&self) -> &ConfigMap {
        &self.config
    }

    fn generation(&self) -> &ConfigMap {
        &self.config
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        Some(&self.vocabulary)
    }

    fn tensors(&self) -> &[TensorInfo] {
        &[]
    }

    fn floats(&self, _: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        let (kind, shape) = (FloatKind::BF16, shape.to_vec());
        Ok(match shape[..] {
            [len] => Floats::new(kind, shape, kind.encode(&vec![1.0; len])),
            _ => Floats::new(kind, shape, &self.table[..]),
        })
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        match self.matrices.get(&[d_out, d_in]) {
            Some(packed) => Ok(Matrix::Ternary(packed.clone())),
            None => self.floats(name, &[d_out, d_in]).map(Matrix::Float),
        }
    }
}

/// Writes the model in every format. Beside each path, the bytes that the largest matrix takes on its way: a byte a trit,
/// and four a master. Tables are read where they lie.
fn files(folder: &Path) -> Vec<(PathBuf, usize)> {
    let made: Arc<dyn Checkpoint> = Arc::new(Made::new());
    let config = architectures::read(&*made, Overrides::default()).expect("a configuration");
    let slots = config.slots();
    let at = |name: &str| folder.join(name);
    for (name, variant) in [("packed", Variant::Packed), ("master", Variant::Master)] {
        let options = ExportOptions::new(variant);
        export(&*made, &slots, &at(name), &options, &mut |_, _| ()).expect("a folder");
    }
    let vocabulary = made.vocabulary().expect("a vocabulary");
    for (name, layout) in [
        ("i2_s.gguf", GgufLayout::I2S),
        ("f16.gguf", GgufLayout::F16),
    ] {
        let options = GgufOptions::new(layout);
        let path = at(name);
        write_gguf(&*made, &slots, vocabulary, &path, &options, &mut |_, _| ()).expect("a file");
    }
    let options = PackOptions {
        table: TableFormat::Int8,
        screen: false,
        ternary: Packing::Words,
        arithmetic: Arithmetic::F32,
        tokenizer: None,
        tokenizer_config: None,
        overwrite: false,
    };
    write_packed(&at("model.bpk"), &made, &config, &options, |_, _| ()).expect("a file");
    let largest = HIDDEN * INTER;
    vec![
        (at("packed"), largest),
        (at("master"), 4 * largest),
        (at("i2_s.gguf"), largest),
        (at("f16.gguf"), largest),
        (at("model.bpk"), 0),
    ]
}

#[test]
fn loading_takes_what_the_model_keeps_and_one_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let device = Device::flex();
    for options in [LoadOptions::default(), LoadOptions::exact()] {
        for (path, tensor) in &files {
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            let model = Model::load_with(path, &device, &options, &mut |_, _| ()).unwrap();
            let (peak, after) = (MEMORY.peak_usage(), MEMORY.current_usage());
            assert!(
                peak <= after + tensor + SMALL,
                "{}, tables {:?}: {} bytes beyond the {} that are kept, for tensors of {tensor}",
                path.display(),
                options.table,
                peak - after,
                after - before,
            );
            drop(model);
        }
    }
}
