//! Ternary-Bonsai: a Qwen3 whose projections, embedding and head are ternary, with a scale for 128 columns.
//!
//! A made model, as a file of the published ones is too large to carry: Q2_0 blocks of 128 written here byte by byte,
//! compared with a forward pass of plain loops in f64 and with the same numbers as an ordinary float Qwen3. Activations
//! are not quantized: nothing in such a file, and no paper, says that they are.

#[path = "../support/checkpoints.rs"]
mod checkpoints;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bitnet_kernels::packing::Packing;
use bitnet_kernels::{ActivationQuantizer, Granularity, TableFormat};
use bitnet_models::Model;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::LoadOptions;
use bitnet_models::weights::{
    self, Arithmetic, Checkpoint, GgufLayout, GgufOptions, PackOptions, Random, write_gguf,
    write_packed,
};
use burn::tensor::{Device, Int, Tensor, TensorData};
use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::builder::{Builder, f32, f32s, u32, write};

const HIDDEN: usize = 256;
const INTER: usize = 384;
const LAYERS: usize = 2;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD: usize = 64;
const VOCAB: usize = 264;
const EPSILON: f64 = 1e-6;
const THETA: f64 = 1e6;
const IDS: [i32; 7] = [3, 141, 59, 26, 263, 0, 59];

/// Logits are below 10; f32 sums of a few hundred products differ from f64 in the sixth digit.
const TOLERANCE: f64 = 5e-5;

/// Every matrix of the model: its names in GGUF and elsewhere, rows, columns.
fn matrices(tied: bool) -> Vec<(String, String, usize, usize)> {
    let mut all = vec![(
        "token_embd".to_owned(),
        "model.embed_tokens".to_owned(),
        VOCAB,
        HIDDEN,
    )];
    if !tied {
        all.push(("output".into(), "lm_head".into(), VOCAB, HIDDEN));
    }
    for i in 0..LAYERS {
        for (gguf, hf, rows, columns) in [
            ("attn_q", "self_attn.q_proj", HEADS * HEAD, HIDDEN),
            ("attn_k", "self_attn.k_proj", KV_HEADS * HEAD, HIDDEN),
            ("attn_v", "self_attn.v_proj", KV_HEADS * HEAD, HIDDEN),
            ("attn_output", "self_attn.o_proj", HIDDEN, HEADS * HEAD),
            ("ffn_gate", "mlp.gate_proj", INTER, HIDDEN),
            ("ffn_up", "mlp.up_proj", INTER, HIDDEN),
            ("ffn_down", "mlp.down_proj", HIDDEN, INTER),
        ] {
            let (gguf, hf) = (format!("blk.{i}.{gguf}"), format!("model.layers.{i}.{hf}"));
            all.push((gguf, hf, rows, columns));
        }
    }
    all
}

/// Every norm: its names and its width.
fn norms() -> Vec<(String, String, usize)> {
    let mut all = vec![("output_norm".to_owned(), "model.norm".to_owned(), HIDDEN)];
    for i in 0..LAYERS {
        for (gguf, hf, width) in [
            ("attn_norm", "input_layernorm", HIDDEN),
            ("attn_q_norm", "self_attn.q_norm", HEAD),
            ("attn_k_norm", "self_attn.k_norm", HEAD),
            ("ffn_norm", "post_attention_layernorm", HIDDEN),
        ] {
            let (gguf, hf) = (format!("blk.{i}.{gguf}"), format!("model.layers.{i}.{hf}"));
            all.push((gguf, hf, width));
        }
    }
    all
}

/// The model as a GGUF file, and its numbers by their names elsewhere.
struct Made {
    gguf: Vec<u8>,
    numbers: HashMap<String, Vec<f32>>,
    tied: bool,
}

impl Made {
    fn new(tied: bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let mut numbers = HashMap::new();
        let mut builder = Builder::new("qwen3");
        builder.tensors.clear();
        builder.remove("tokenizer.ggml.model");
        builder.remove("tokenizer.ggml.tokens");
        for (key, value) in [
            ("embedding_length", HIDDEN),
            ("feed_forward_length", INTER),
            ("block_count", LAYERS),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("attention.key_length", HEAD),
            ("attention.value_length", HEAD),
        ] {
            builder.set(&format!("qwen3.{key}"), u32(value as u32));
        }
        builder.set("qwen3.rope.freq_base", f32(THETA as f32));
        for (gguf, hf, rows, columns) in matrices(tied) {
            let (mut bytes, mut values) = (Vec::new(), Vec::new());
            for _ in 0..rows * columns / 128 {
                let scale = f16::from_f32(random.random_range(0.03..0.15));
                bytes.extend(scale.to_le_bytes());
                for _ in 0..32 {
                    let codes = [(); 4].map(|()| random.random_range(0..3_u8));
                    bytes.push(codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6);
                    values.extend(codes.map(|code| scale.to_f32() * (f32::from(code) - 1.0)));
                }
            }
            let ne = vec![columns as u64, rows as u64];
            builder
                .tensors
                .push((format!("{gguf}.weight"), ne, 42, bytes));
            numbers.insert(format!("{hf}.weight"), values);
        }
        for (gguf, hf, width) in norms() {
            let gamma: Vec<f32> = (0..width).map(|_| random.random_range(0.5..1.5)).collect();
            builder.add(&format!("{gguf}.weight"), &[width as u64], &gamma);
            numbers.insert(format!("{hf}.weight"), gamma);
        }
        let gguf = builder.bytes();
        Self {
            gguf,
            numbers,
            tied,
        }
    }

    /// Writes the numbers as an ordinary float Qwen3.
    fn write_float(&self, folder: &Path) {
        let config = json!({
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": INTER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD,
            "vocab_size": VOCAB,
            "max_position_embeddings": 32,
            "rms_norm_eps": EPSILON,
            "rope_theta": THETA,
            "tie_word_embeddings": self.tied,
        });
        std::fs::write(folder.join("config.json"), config.to_string()).expect("a file");
        let matrices = matrices(self.tied)
            .into_iter()
            .map(|(_, hf, rows, columns)| (hf, vec![rows, columns]));
        let norms = norms().into_iter().map(|(_, hf, width)| (hf, vec![width]));
        let tensors: Vec<_> = matrices
            .chain(norms)
            .map(|(hf, shape)| {
                let name = format!("{hf}.weight");
                let bytes = f32s(&self.numbers[&name]);
                (name, shape, bytes)
            })
            .collect();
        let tensors: Vec<checkpoints::Tensor<'_>> = tensors
            .iter()
            .map(|(name, shape, bytes)| (&name[..], "F32", &shape[..], &bytes[..]))
            .collect();
        let file = checkpoints::file(&tensors);
        std::fs::write(folder.join("model.safetensors"), file).expect("a file");
    }

    fn weight(&self, name: &str) -> Vec<f64> {
        let numbers = self.numbers[&format!("{name}.weight")].iter();
        numbers.map(|&number| f64::from(number)).collect()
    }

    /// The logits after each of [`IDS`]: Qwen3 in plain loops.
    fn reference(&self) -> Vec<f64> {
        let embedding = self.weight("model.embed_tokens");
        let mut stream: Vec<Vec<f64>> = IDS
            .iter()
            .map(|&id| embedding[id as usize * HIDDEN..][..HIDDEN].to_vec())
            .collect();
        for layer in 0..LAYERS {
            let weight = |name: &str| self.weight(&format!("model.layers.{layer}.{name}"));
            let normed = normed(&stream, &weight("input_layernorm"));
            let project = |name: &str| times(&weight(&format!("self_attn.{name}")), &normed);
            let (mut q, mut k, v) = (project("q_proj"), project("k_proj"), project("v_proj"));
            for (rows, gamma) in [
                (&mut q, weight("self_attn.q_norm")),
                (&mut k, weight("self_attn.k_norm")),
            ] {
                for (position, row) in rows.iter_mut().enumerate() {
                    for head in row.chunks_exact_mut(HEAD) {
                        head.copy_from_slice(&rms_norm(head, &gamma));
                        rotate(head, position);
                    }
                }
            }
            let attended: Vec<Vec<f64>> = (0..IDS.len())
                .map(|at| {
                    (0..HEADS)
                        .flat_map(|head| attend(&q[at], &k[..=at], &v[..=at], head))
                        .collect()
                })
                .collect();
            add(&mut stream, times(&weight("self_attn.o_proj"), &attended));
            let normed = self::normed(&stream, &weight("post_attention_layernorm"));
            let mut inner = times(&weight("mlp.gate_proj"), &normed);
            let up = times(&weight("mlp.up_proj"), &normed);
            for (gate, up) in inner.iter_mut().flatten().zip(up.iter().flatten()) {
                *gate *= up / (1.0 + (-*gate).exp());
            }
            add(&mut stream, times(&weight("mlp.down_proj"), &inner));
        }
        let head = if self.tied {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        let normed = normed(&stream, &self.weight("model.norm"));
        times(&self.weight(head), &normed).concat()
    }
}

/// x / √(mean(x²) + ε) · γ.
fn rms_norm(x: &[f64], gamma: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let root = (mean + EPSILON).sqrt();
    x.iter()
        .zip(gamma)
        .map(|(x, gamma)| x / root * gamma)
        .collect()
}

fn normed(rows: &[Vec<f64>], gamma: &[f64]) -> Vec<Vec<f64>> {
    rows.iter().map(|row| rms_norm(row, gamma)).collect()
}

/// W · x of each x.
fn times(weight: &[f64], rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    let product = |x: &Vec<f64>| weight.chunks_exact(x.len()).map(|w| dot(w, x)).collect();
    rows.iter().map(product).collect()
}

fn add(stream: &mut [Vec<f64>], rows: Vec<Vec<f64>>) {
    for (x, y) in stream.iter_mut().flatten().zip(rows.into_iter().flatten()) {
        *x += y;
    }
}

/// Rotary encoding of pairs (i, i + d/2) by position · θ^(-2i/d).
fn rotate(head: &mut [f64], position: usize) {
    for i in 0..HEAD / 2 {
        let angle = position as f64 * THETA.powf(-2.0 * i as f64 / HEAD as f64);
        let (a, b) = (head[i], head[i + HEAD / 2]);
        head[i] = a * angle.cos() - b * angle.sin();
        head[i + HEAD / 2] = b * angle.cos() + a * angle.sin();
    }
}

/// softmax(q · kᵀ / √d) · v of one head of the last position.
fn attend(q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>], head: usize) -> Vec<f64> {
    let shared = head / (HEADS / KV_HEADS) * HEAD;
    let q = &q[head * HEAD..][..HEAD];
    let score = |k: &Vec<f64>| {
        let dot: f64 = q.iter().zip(&k[shared..]).map(|(q, k)| q * k).sum();
        (dot / (HEAD as f64).sqrt()).exp()
    };
    let scores: Vec<f64> = k.iter().map(score).collect();
    let total: f64 = scores.iter().sum();
    let mean = |i: usize| {
        scores
            .iter()
            .zip(v)
            .map(|(s, v)| s / total * v[shared + i])
            .sum()
    };
    (0..HEAD).map(mean).collect()
}

fn load(path: &Path) -> Model {
    Model::load(path, &Device::flex()).unwrap_or_else(|error| panic!("{error}"))
}

fn logits(model: &Model) -> Vec<f32> {
    let ids = TensorData::new(IDS.to_vec(), [1, IDS.len()]);
    let ids = Tensor::<2, Int>::from_data(ids, &Device::flex());
    let logits = model.decoder().forward(ids).into_data();
    logits.iter::<f32>().collect()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs();
        let (token, position) = (at % VOCAB, at / VOCAB);
        assert!(
            off <= TOLERANCE,
            "{what}: {found} for {expected}, token {token} after {position}"
        );
    }
}

#[test]
fn logits_are_those_of_plain_loops_and_of_the_float_model() {
    for tied in [true, false] {
        let made = Made::new(tied);
        let expected = made.reference();
        let largest = expected
            .iter()
            .fold(0.0_f64, |largest, x| largest.max(x.abs()));
        assert!((1.0..10.0).contains(&largest), "{largest}");

        let (_folder, path) = write(&made.gguf);
        assert_close(&logits(&load(&path)), &expected, "gguf");

        let folder = tempfile::tempdir().unwrap();
        made.write_float(folder.path());
        let options = LoadOptions::exact();
        let float = Model::load_with(folder.path(), &Device::flex(), &options, &mut |_, _| ());
        assert_close(&logits(&float.unwrap()), &expected, "float");
    }
}

#[test]
fn every_matrix_stays_ternary_in_memory_tables_too() {
    let (_folder, path) = write(&Made::new(false).gguf);
    let model = load(&path);
    let decoder = model.decoder();
    let head = decoder.lm_head.as_ref().unwrap();
    for table in [&decoder.model.embed_tokens, head] {
        assert_eq!(table.format(), "ternary");
        // Two bits, and an f32 for 128 of them.
        assert_eq!(8 * table.bytes(), VOCAB * HIDDEN * 9 / 4);
    }
    for projection in decoder
        .model
        .layers
        .iter()
        .flat_map(|layer| layer.projections())
    {
        let granularity = projection.weight().granularity();
        assert_eq!(granularity, Granularity::Group(128));
        assert_eq!(projection.bits_per_weight(), 2.25);
    }
}

#[test]
fn conversions_keep_the_logits() {
    let made = Made::new(false);
    let (folder, path) = write(&made.gguf);
    let found = logits(&load(&path));
    let checkpoint: Arc<dyn Checkpoint> = Arc::from(weights::open(&path).unwrap());
    let config = architectures::read(&*checkpoint, Overrides::default()).unwrap();

    // Base 3 with scales for groups becomes words while it is loaded.
    for ternary in Packing::ALL {
        let options = PackOptions {
            table: TableFormat::Int8,
            screen: false,
            ternary,
            arithmetic: Arithmetic::F32,
            tokenizer: None,
            tokenizer_config: None,
            overwrite: false,
        };
        let packed = folder.path().join(format!("{ternary:?}.bpk"));
        write_packed(&packed, &checkpoint, &config, &options, |_, _| ()).unwrap();
        assert_eq!(logits(&load(&packed)), found, "{ternary:?}");
    }

    // Blocks of 64 for the projections, F16 for the tables: both hold the same numbers.
    let random = Random::new("tiny", 0).unwrap();
    let (vocabulary, again) = (random.vocabulary().unwrap(), folder.path().join("q2.gguf"));
    let slots = config.slots();
    let options = GgufOptions::new(GgufLayout::Q2).with_activations(ActivationQuantizer::None);
    write_gguf(
        &*checkpoint,
        &slots,
        vocabulary,
        &again,
        &options,
        &mut |_, _| (),
    )
    .unwrap();
    let options = LoadOptions::exact();
    let again = Model::load_with(&again, &Device::flex(), &options, &mut |_, _| ());
    assert_close(&logits(&again.unwrap()), &made.reference(), "q2_0");
}
