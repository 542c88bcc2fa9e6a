//! Checkpoints of every published family: opened by folder, file or index, read in full, compared with a second reader.
//!
//! The fixtures are all folders under `models/` that hold weights; nothing here knows their sizes.

#[path = "support/checkpoints.rs"]
mod checkpoints;

use std::path::Path;

use bitnet_models::weights::{self, Matrix};
use checkpoints::{folders, raw, read_all};
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter().copied();
    match dtype {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&b| f32::from_le_bytes(b))
            .collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn every_tensor_of_every_family_reads_as_the_library_reads_it() {
    for folder in folders() {
        let checkpoint = weights::open(&folder).unwrap();
        let raw = raw(&folder);
        assert_eq!(
            checkpoint.tensors().len(),
            raw.len(),
            "{}",
            folder.display()
        );
        for info in checkpoint.tensors() {
            let (name, dtype, shape, bytes) = raw
                .iter()
                .find(|(name, ..)| *name == info.file_name)
                .unwrap();
            assert_eq!(
                (info.encoding.clone(), info.bytes),
                (dtype.to_string(), bytes.len()),
                "{name}"
            );
            if *dtype != Dtype::U8 {
                assert_eq!(&info.shape, shape, "{name}");
                let floats = checkpoint.floats(&info.name, shape).unwrap();
                // Bits, so that a NaN would be one.
                let bits =
                    |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(floats.to_f32()), bits(widen(*dtype, bytes)), "{name}");
            }
        }
    }
}

#[test]
fn packed_bytes_and_both_scale_conventions_read_as_the_formula_says() {
    let (mut multiplied, mut divided) = (0, 0);
    for folder in folders() {
        let checkpoint = weights::open(&folder).unwrap();
        let multiplies = json(&folder.join("config.json"))["quantization_config"]["linear_class"]
            == "autobitlinear";
        let raw = raw(&folder);
        for (name, _, shape, bytes) in raw.iter().filter(|(_, dtype, ..)| *dtype == Dtype::U8) {
            let (rows, d_in) = (shape[0], shape[1]);
            let Matrix::Ternary(packed) = checkpoint.matrix(name, 4 * rows, d_in).unwrap() else {
                panic!("{name} is packed")
            };
            let expected: Vec<i8> = (0..4 * rows * d_in)
                .map(|at| {
                    let (row, column) = (at / d_in, at % d_in);
                    (bytes[row % rows * d_in + column] >> (row / rows * 2) & 3) as i8 - 1
                })
                .collect();
            assert_eq!(packed.trits(), expected, "{name}");
            let (_, dtype, _, scale) = raw
                .iter()
                .find(|(other, ..)| *other == format!("{name}_scale"))
                .unwrap();
            let scale = widen(*dtype, scale)[0];
            let expected = if multiplies { scale } else { 1.0 / scale };
            assert_eq!(packed.scale().values(), [expected], "{name}");
            *(if multiplies {
                &mut multiplied
            } else {
                &mut divided
            }) += 1;
        }
    }
    assert!(
        multiplied > 0 && divided > 0,
        "the fixtures have both conventions"
    );
}

#[test]
fn names_are_those_of_one_set_whatever_the_family_calls_them() {
    let (mut inner, mut bare) = (false, false);
    for folder in folders() {
        let checkpoint = weights::open(&folder).unwrap();
        let config = checkpoint.config();
        let has = |name: &str| checkpoint.tensors().iter().any(|info| info.name == name);
        for name in [
            "model.norm.weight",
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
        ] {
            assert!(has(name), "{name} in {}", folder.display());
        }
        assert_eq!(
            has("lm_head.weight"),
            config["tie_word_embeddings"] == false
        );
        let file_has = |end: &str| {
            checkpoint
                .tensors()
                .iter()
                .any(|info| info.file_name.ends_with(end))
        };
        if file_has("inner_attn_ln.weight") {
            assert!(has("model.layers.0.self_attn.attn_sub_norm.weight"));
            assert!(has("model.layers.0.mlp.ffn_sub_norm.weight"));
            inner = true;
        }
        if checkpoint
            .tensors()
            .iter()
            .any(|info| info.file_name == "norm.weight")
        {
            assert!(has("model.layers.0.self_attn.q_proj.norm.weight"));
            bare = true;
        }
    }
    assert!(inner && bare, "the fixtures have both spellings");
}

#[test]
fn a_folder_opens_by_each_of_its_files_alike() {
    for folder in folders() {
        let expected = weights::open(&folder).unwrap();
        let names = [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
        ]
        .map(str::to_owned);
        let shards = expected.tensors().iter().map(|info| info.file.clone());
        for name in names.into_iter().chain(shards) {
            let path = folder.join(name);
            if path.exists() {
                let opened = weights::open(&path).unwrap();
                assert_eq!(opened.tensors(), expected.tensors(), "{}", path.display());
                assert_eq!(opened.config(), expected.config());
                assert_eq!(opened.path(), folder);
            }
        }
    }
}

#[test]
fn the_last_of_two_equal_keys_counts_as_in_python() {
    let mut twice = 0;
    for folder in folders() {
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        if text.matches("\"quantization_config\"").count() == 2 {
            let last = text.rsplit("\"quantization_config\":").next().unwrap();
            let last: Value =
                serde_json::from_str(last.trim_end().strip_suffix('}').unwrap()).unwrap();
            let checkpoint = weights::open(&folder).unwrap();
            assert_eq!(checkpoint.config()["quantization_config"], last);
            twice += 1;
        }
    }
    assert!(twice > 0, "a published configuration has a key twice");
}

#[test]
fn generation_defaults_are_there_or_empty() {
    for folder in folders() {
        let checkpoint = weights::open(&folder).unwrap();
        let path = folder.join("generation_config.json");
        let expected = if path.exists() {
            json(&path)
        } else {
            Value::Object(Default::default())
        };
        assert_eq!(&Value::Object(checkpoint.generation().clone()), &expected);
        assert!(checkpoint.vocabulary().is_none());
        assert_eq!(checkpoint.format(), "safetensors");
    }
}

#[test]
fn everything_reads_through_the_interface_alone() {
    for folder in folders() {
        let checkpoint = weights::open(&folder).unwrap();
        let numbers = read_all(checkpoint.as_ref()).unwrap();
        let listed: usize = checkpoint
            .tensors()
            .iter()
            .map(|info| info.shape.iter().product::<usize>())
            .sum();
        assert_eq!(numbers, listed);
    }
}
