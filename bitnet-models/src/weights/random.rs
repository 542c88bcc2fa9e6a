//! A checkpoint without a file: random weights of a named size, for measurements and first steps.
//!
//! Every tensor is drawn from a generator seeded by its own name, so that reading it twice, or reading only some, gives
//! the same numbers. Half of the trits are zero. The model says nothing that makes sense; its speed and its size are real.

use std::borrow::Cow;
use std::path::Path;

use bitnet_kernels::packing::words::{CODES_PER_WORD, ZERO_WORD, words_per_row};
use bitnet_kernels::{Granularity, PackedTernary, Scale};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{Checkpoint, ConfigMap, FloatKind, Floats, Matrix, TensorInfo};
use crate::ModelError;
use crate::tokenizer::Vocabulary;

/// A named size.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Its name on the command line.
    pub name: &'static str,
    /// The published model of this size.
    pub like: &'static str,
    architecture: &'static str,
    hidden: usize,
    inter: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    context: usize,
    theta: f64,
    tied: bool,
}

/// Every size, smallest first.
pub static SIZES: &[Size] = &[
    Size {
        name: "tiny",
        like: "none; small enough for a first try",
        architecture: "BitNetForCausalLM",
        hidden: 128,
        inter: 384,
        layers: 4,
        heads: 4,
        kv_heads: 2,
        vocab: 258,
        context: 512,
        theta: 10_000.0,
        tied: true,
    },
    Size {
        name: "700m",
        like: "1bitLLM/bitnet_b1_58-large",
        architecture: "BitnetForCausalLM",
        hidden: 1536,
        inter: 4096,
        layers: 24,
        heads: 16,
        kv_heads: 16,
        vocab: 32_002,
        context: 2048,
        theta: 10_000.0,
        tied: true,
    },
    Size {
        name: "2b4t",
        like: "microsoft/bitnet-b1.58-2B-4T",
        architecture: "BitNetForCausalLM",
        hidden: 2560,
        inter: 6912,
        layers: 30,
        heads: 20,
        kv_heads: 5,
        vocab: 128_256,
        context: 4096,
        theta: 500_000.0,
        tied: true,
    },
    Size {
        name: "3b",
        like: "1bitLLM/bitnet_b1_58-3B",
        architecture: "BitnetForCausalLM",
        hidden: 3200,
        inter: 8640,
        layers: 26,
        heads: 32,
        kv_heads: 32,
        vocab: 32_002,
        context: 2048,
        theta: 10_000.0,
        tied: true,
    },
    Size {
        name: "8b",
        like: "HF1BitLLM/Llama3-8B-1.58-100B-tokens",
        architecture: "LlamaForCausalLM",
        hidden: 4096,
        inter: 14_336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        vocab: 128_256,
        context: 8192,
        theta: 500_000.0,
        tied: false,
    },
];

/// Random weights.
#[derive(Debug)]
pub struct Random {
    config: ConfigMap,
    generation: ConfigMap,
    vocabulary: Option<Vocabulary>,
    seed: u64,
    name: String,
}

impl Random {
    /// Random weights of a named size.
    ///
    /// # Errors
    ///
    /// [`ModelError::Request`] with the names there are.
    pub fn new(name: &str, seed: u64) -> Result<Self, ModelError> {
        let Some(size) = SIZES.iter().find(|size| size.name == name) else {
            let names: Vec<_> = SIZES.iter().map(|size| size.name).collect();
            return Err(ModelError::Request {
                what: "size of random weights",
                found: name.to_owned(),
                expected: names.join(", "),
                way_out: "Name one of these".into(),
            });
        };
        let Value::Object(config) = json!({
            "architectures": [size.architecture],
            "model_type": if size.architecture == "BitNetForCausalLM" { "bitnet" } else { "llama" },
            "hidden_act": if size.architecture == "BitNetForCausalLM" { "relu2" } else { "silu" },
            "hidden_size": size.hidden,
            "intermediate_size": size.inter,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "vocab_size": size.vocab,
            "max_position_embeddings": size.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": size.theta,
            "tie_word_embeddings": size.tied,
            "bos_token_id": size.vocab - 2,
            "eos_token_id": size.vocab - 1,
            "quantization_config": {
                "quant_method": "bitnet",
                "linear_class": "autobitlinear",
                "quantization_mode": "offline",
            },
        }) else {
            unreachable!("an object stands above")
        };
        Ok(Self {
            config,
            generation: ConfigMap::new(),
            vocabulary: (size.vocab == 258).then(bytes_vocabulary),
            seed,
            name: format!("random weights of size {name}"),
        })
    }

    fn generator(&self, name: &str) -> ChaCha8Rng {
        // FNV-1a, 64 bits: a number for a name, the same on every machine.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        ChaCha8Rng::seed_from_u64(self.seed ^ hash)
    }
}

impl Checkpoint for Random {
    fn path(&self) -> &Path {
        Path::new(&self.name)
    }

    fn format(&self) -> &'static str {
        "random"
    }

    fn config(&self) -> &ConfigMap {
        &self.config
    }

    fn generation(&self) -> &ConfigMap {
        &self.generation
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &[]
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        let count: usize = shape.iter().product();
        let mut generator = self.generator(name);
        let bytes = if shape.len() == 1 {
            half::bf16::ONE.to_le_bytes().repeat(count) // a norm
        } else {
            // Uniform in -0.03 .. 0.03, from 16 random bits each.
            let mut draw = || {
                let unit = f32::from(generator.random::<i16>()) / 32768.0;
                half::bf16::from_f32(unit * 0.03).to_le_bytes()
            };
            (0..count).flat_map(|_| draw()).collect()
        };
        Ok(Floats {
            kind: FloatKind::BF16,
            shape: shape.to_vec(),
            bytes: Cow::Owned(bytes),
        })
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        if is_table(name) {
            return self.floats(name, &[d_out, d_in]).map(Matrix::Float);
        }
        let mut generator = self.generator(name);
        let mut row = vec![0; words_per_row(d_in)];
        let mut words = Vec::with_capacity(d_out * row.len());
        for _ in 0..d_out {
            for (at, word) in row.iter_mut().enumerate() {
                let bits: u32 = generator.random();
                // 3 means nothing: its upper bit goes, so that codes 0, 1, 2 come with 1/4, 1/2, 1/4.
                let codes = bits & !((bits & 0x5555_5555) << 1);
                let used = d_in.saturating_sub(at * CODES_PER_WORD).min(CODES_PER_WORD);
                *word = (0..CODES_PER_WORD).fold(codes, |word, column| {
                    let bit = 8 * (column % 4) + 2 * (column / 4);
                    if column < used {
                        word
                    } else {
                        word & !(3 << bit) | (ZERO_WORD & (3 << bit))
                    }
                });
            }
            words.extend_from_slice(&row);
        }
        // Keeps the size of a row's output near that of its input: half of the trits count.
        let scale = (2.0 / d_in as f32).sqrt();
        PackedTernary::new(words, Scale::Tensor(scale), d_out, d_in)
            .map(Matrix::Ternary)
            .map_err(ModelError::ternary(self.path(), name))
    }

    fn granularity(
        &self,
        name: &str,
        _d_out: usize,
        _d_in: usize,
    ) -> Result<Option<Granularity>, ModelError> {
        Ok((!is_table(name)).then_some(Granularity::Tensor))
    }
}

fn is_table(name: &str) -> bool {
    name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight")
}

/// One token per byte, and a beginning and an end.
fn bytes_vocabulary() -> Vocabulary {
    // The printable alphabet of byte-level BPE: printable Latin-1 stands for itself, the rest for 256 and up.
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    let mut next = 256;
    let letter = |byte: u8| {
        let code = if printable(byte) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).map_or_else(String::new, String::from)
    };
    let mut tokens: Vec<String> = (0..=255).map(letter).collect();
    tokens.extend(["<|begin_of_text|>".to_owned(), "<|end_of_text|>".to_owned()]);
    let mut token_types = vec![1; 256];
    token_types.extend([3, 3]);
    Vocabulary {
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens,
        token_types,
        bos_id: Some(256),
        eos_id: Some(257),
        add_bos: Some(true),
        ..Vocabulary::default()
    }
}
