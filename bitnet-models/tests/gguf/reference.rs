//! Files of the reference tools hold what the checkpoints hold that they were made from.

use bitnet_kernels::Scale;
use bitnet_models::weights::{Checkpoint, FloatKind, Floats, Gguf, Matrix};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::source::{Source, files, fixture, widen};

pub(crate) fn values(floats: &Floats<'_>) -> Vec<f32> {
    let dtype = match floats.kind {
        FloatKind::F32 => Dtype::F32,
        FloatKind::F16 => Dtype::F16,
        FloatKind::BF16 => Dtype::BF16,
    };
    widen(dtype, &floats.bytes)
}

/// Two encodings of one number: f16 rounds to 11 bits, and below 2^-14 to multiples of 2^-24.
fn same_in_f16(found: f32, expected: f32) -> bool {
    (found - expected).abs() <= (expected.abs() / 2048.0).max(1.0 / (1 << 25) as f32)
}

#[test]
fn configurations_are_those_of_the_sources() {
    for (file, folder) in files() {
        let (gguf, source) = (Gguf::open(&file).unwrap(), Source::open(&folder));
        let name = file.display();
        for key in [
            "architectures",
            "hidden_act",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "rms_norm_eps",
            "rope_theta",
            "tie_word_embeddings",
            "vocab_size",
            "bos_token_id",
            "model_type",
        ] {
            assert_eq!(gguf.config()[key], source.config[key], "{name}: {key}");
        }
        let head_dim = match source.config.get("head_dim") {
            Some(head_dim) => head_dim.clone(),
            None => json!(source.size("hidden_size") / source.size("num_attention_heads")),
        };
        assert_eq!(gguf.config()["head_dim"], head_dim, "{name}");
        assert_eq!(gguf.config()["rope_scaling"], Value::Null, "{name}");
        let expected = json!({
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
        });
        assert_eq!(gguf.config()["quantization_config"], expected, "{name}");
        assert_eq!(gguf.format(), "gguf");
        assert_eq!(gguf.path(), file);
    }
}

#[test]
fn an_embedding_model_says_how_it_pools() {
    let pooled: Vec<_> = files()
        .into_iter()
        .filter_map(|(file, _)| {
            Gguf::open(&file)
                .unwrap()
                .config()
                .get("pooling_type")
                .cloned()
        })
        .collect();
    assert_eq!(pooled, ["last"]);
}

#[test]
fn projections_have_the_trits_and_scales_of_the_sources() {
    for (file, folder) in files() {
        let (gguf, source) = (Gguf::open(&file).unwrap(), Source::open(&folder));
        let mut compared = 0;
        for info in gguf
            .tensors()
            .iter()
            .filter(|info| info.name.ends_with("_proj.weight"))
        {
            let [d_out, d_in] = info.shape[..] else {
                panic!("{info:?}")
            };
            let Matrix::Ternary(found) = gguf.matrix(&info.name, d_out, d_in).unwrap() else {
                panic!("{info:?} is float")
            };
            let (trits, scale) = source.ternary(&info.name, d_out);
            assert_eq!(found.trits(), trits, "{}: {}", file.display(), info.name);
            let Scale::Tensor(factor) = *found.scale() else {
                panic!("{info:?}: {:?}", found.scale().granularity())
            };
            assert!(same_in_f16(factor, scale), "{info:?}: {factor} for {scale}");
            compared += 1;
        }
        assert_eq!(
            compared,
            7 * source.size("num_hidden_layers"),
            "{}",
            file.display()
        );
    }
}

#[test]
fn floats_are_those_of_the_sources() {
    for (file, folder) in files() {
        let (gguf, source) = (Gguf::open(&file).unwrap(), Source::open(&folder));
        for info in gguf
            .tensors()
            .iter()
            .filter(|info| !info.name.ends_with("_proj.weight"))
        {
            let found = gguf.floats(&info.name, &info.shape).unwrap();
            assert_eq!(found.shape, source.tensors[&info.name].1, "{info:?}");
            let pairs = values(&found).into_iter().zip(source.floats(&info.name));
            for (found, expected) in pairs {
                let same = match info.encoding.as_str() {
                    "F32" => found == expected,
                    _ => same_in_f16(found, expected),
                };
                assert!(same, "{}: {info:?}: {found} for {expected}", file.display());
            }
            if let [d_out, d_in] = info.shape[..] {
                let Matrix::Float(floats) = gguf.matrix(&info.name, d_out, d_in).unwrap() else {
                    panic!("{info:?} is ternary")
                };
                assert_eq!(floats.bytes, found.bytes, "{info:?}");
            }
        }
        let names: Vec<_> = gguf.tensors().iter().map(|info| &info.name).collect();
        for name in source
            .tensors
            .keys()
            .filter(|name| !name.ends_with("_scale"))
        {
            assert!(names.contains(&name), "{}: {name}", file.display());
        }
    }
}

#[test]
fn vocabularies_are_those_of_the_tokenizers() {
    for (file, folder) in files() {
        let gguf = Gguf::open(&file).unwrap();
        let tokenizer = std::fs::read(folder.join("tokenizer.json")).unwrap();
        let tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
        let vocabulary = gguf.vocabulary().unwrap();
        let text = |id: u64| vocabulary.tokens[id as usize].as_str();
        for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
            assert_eq!(text(id.as_u64().unwrap()), token);
        }
        for added in tokenizer["added_tokens"].as_array().unwrap() {
            let id = added["id"].as_u64().unwrap();
            assert_eq!(text(id), added["content"].as_str().unwrap());
            assert_eq!(vocabulary.token_types[id as usize], 3);
        }
        let merges: Vec<_> = tokenizer["model"]["merges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| {
                format!(
                    "{} {}",
                    pair[0].as_str().unwrap(),
                    pair[1].as_str().unwrap()
                )
            })
            .collect();
        assert_eq!(vocabulary.merges, merges, "{}", file.display());
        assert_eq!(vocabulary.model, "gpt2");
        assert_eq!(vocabulary.scores, vec![0.0; vocabulary.tokens.len()]);
        let config = gguf.config();
        assert_eq!(
            vocabulary.bos_id.map(u64::from),
            config["bos_token_id"].as_u64()
        );
        assert_eq!(
            vocabulary.eos_id.map(u64::from),
            config["eos_token_id"].as_u64()
        );
    }
}

#[test]
fn only_the_official_form_lacks_a_pre_tokenizer() {
    for (file, _) in files() {
        let gguf = Gguf::open(&file).unwrap();
        let vocabulary = gguf.vocabulary().unwrap();
        let metadata = gguf.metadata().unwrap();
        let keys: Vec<_> = metadata.iter().map(|(key, _)| *key).collect();
        let pre = keys.contains(&"tokenizer.ggml.pre");
        assert_eq!(vocabulary.pre.as_deref(), pre.then_some("llama-bpe"));
        assert_eq!(keys[0], "general.architecture");
    }
    let official = Gguf::open(&fixture("gguf/tiny-2b4t-i2_s.gguf")).unwrap();
    assert_eq!(official.vocabulary().unwrap().pre, None);
    assert_eq!(official.vocabulary().unwrap().add_bos, Some(true));
    assert!(official.vocabulary().unwrap().chat_template.is_some());
}
