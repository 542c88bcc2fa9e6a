//! Damaged and foreign files are refused with the thing, what was found, what was expected and the way out.

use bitnet_models::tokenizer::Tokenizer;
use bitnet_models::weights::{Checkpoint, Gguf};
use proptest::prelude::*;

use crate::builder::{Builder, array, f32, f32s, i32, string, text, u32, write};

type Damage = fn(&mut Builder);

/// What is done to a `llama` file, and what the message must say.
static DAMAGES: &[(Damage, &[&str])] = &[
    (
        |b| {
            b.add("rope_freqs.weight", &[64, 128], &[2.0; 8192]);
        },
        &["`rope_freqs.weight`", "shape [128, 64]", "at most 4096"],
    ),
    (
        |b| b.magic = *b"GGML",
        &["magic", "`GGML`", "`GGUF`", "no GGUF file"],
    ),
    (
        |b| b.version = 1,
        &["version", "found 1", "2 or 3", "Convert the model again"],
    ),
    (|b| b.version = 4, &["version", "found 4", "2 or 3"]),
    (
        |b| b.version = 3_u32.swap_bytes(),
        &["byte order", "big endian", "little endian", "Convert"],
    ),
    (
        |b| b.tensor_count = Some(u64::MAX),
        &["tensor count", "18446744073709551615", "at most"],
    ),
    (
        |b| b.tensor_count = Some(1 << 20),
        &["tensor count", "1048576", "at most"],
    ),
    (
        |b| b.tensor_count = Some(10),
        &["found", "expected", "download or convert"],
    ),
    (
        |b| b.key_count = Some(u64::MAX),
        &["key count", "18446744073709551615", "at most"],
    ),
    (|b| b.key_count = Some(12), &["key 11"]),
    (
        |b| {
            let twice = b.keys[1].clone();
            b.keys.push(twice);
        },
        &["key 10", "`llama.context_length` again", "each key once"],
    ),
    (
        |b| b.keys[0].0 = "\u{1}".to_owned(),
        &[
            "config key `general.architecture`",
            "found nothing",
            "one of bitnet-b1.58",
        ],
    ),
    (
        |b| {
            b.set(
                "x",
                [
                    &8_u32.to_le_bytes()[..],
                    &2_u64.to_le_bytes(),
                    &[0xc3, 0x28],
                ]
                .concat(),
            );
        },
        &["key `x`", "a bad byte at", "UTF-8"],
    ),
    (
        |b| {
            b.set(
                "x",
                [
                    8_u32.to_le_bytes().to_vec(),
                    u64::MAX.to_le_bytes().to_vec(),
                ]
                .concat(),
            );
        },
        &[
            "key `x`",
            "18446744073709551615",
            "at most",
            "rest of the file",
        ],
    ),
    (
        |b| {
            b.set("x", 13_u32.to_le_bytes().to_vec());
        },
        &["key `x`", "value type 13", "0 to 12"],
    ),
    (
        |b| {
            b.set("x", [7, 0, 0, 0, 2].to_vec());
        },
        &["key `x`", "the bool 2", "0 or 1"],
    ),
    (
        |b| {
            b.set("x", array(4, 1 << 40, &[]));
        },
        &["key `x`", "1099511627776", "at most"],
    ),
    (
        |b| {
            b.set("x", array(77, 1, &[0]));
        },
        &["key `x`", "element type 77", "0 to 12"],
    ),
    (
        |b| {
            let mut nested = array(0, 1, &[1]);
            for _ in 0..100 {
                nested = array(9, 1, &nested[4..]);
            }
            b.set("x", nested);
        },
        &["key `x`", "nested deeper", "at most 3 levels"],
    ),
    (
        |b| {
            b.set("general.alignment", u32(0));
        },
        &["general.alignment", "found 0", "power of two"],
    ),
    (
        |b| {
            b.set("general.alignment", u32(48));
        },
        &["general.alignment", "found 48", "power of two"],
    ),
    (
        |b| {
            b.set("general.alignment", text("32"));
        },
        &["general.alignment", "\"32\"", "power of two"],
    ),
    (
        |b| b.tensors[1].0 = "token_embd.weight".into(),
        &["tensor 1", "`token_embd.weight` again"],
    ),
    (
        |b| b.tensors[1].0 = "model.embed_tokens.weight".into(),
        &[
            "tensor `model.embed_tokens.weight`",
            "a second tensor",
            "expected one",
        ],
    ),
    (
        |b| b.tensors[0].1 = vec![64, 0],
        &["tensor `token_embd.weight`", "[64, 0]", "none of them 0"],
    ),
    (
        |b| b.tensors[0].1 = vec![1 << 33, 1 << 33],
        &["tensor `token_embd.weight`", "address space"],
    ),
    (
        |b| b.tensors[0].1 = vec![1; 5],
        &["tensor `token_embd.weight`", "5 dimensions", "at most 4"],
    ),
    (
        |b| b.tensors[0].1 = vec![64, 7],
        &["`token_embd.weight`", "room for 1536 bytes", "1792 bytes"],
    ),
    (
        |b| b.tensors[0].1 = vec![64, 5],
        &["`token_embd.weight`", "room for 1536 bytes", "1280 bytes"],
    ),
    (
        |b| b.offsets = vec![(1, 1540)],
        &[
            "tensor `output_norm.weight`",
            "offset 1540",
            "multiple of 32",
        ],
    ),
    (
        |b| b.offsets = vec![(1, 1 << 40)],
        &[
            "`output_norm.weight`",
            "offset 1099511627776",
            "inside the file",
        ],
    ),
    (
        |b| b.offsets = vec![(1, !31)],
        &["`output_norm.weight`", "offset 1844", "inside the file"],
    ),
    (
        |b| b.offsets = vec![(1, 0)],
        &["`output_norm.weight`", "starts too", "a place of its own"],
    ),
    (
        |b| b.offsets = vec![(1, 64)],
        &["`token_embd.weight`", "room for 64 bytes", "1536 bytes"],
    ),
    (
        // Quantized in two slices: two scales, 32 bytes too many.
        |b| {
            let q = b.tensor("blk.0.attn_q.weight");
            (q.2, q.3) = (36, vec![0; 64 * 64 / 4 + 64]);
        },
        &[
            "`blk.0.attn_q.weight`",
            "room for 1088 bytes",
            "1056 bytes",
            "I2_S",
            "one thread",
        ],
    ),
    (
        |b| {
            let q = b.tensor("blk.0.attn_q.weight");
            (q.2, q.3) = (35, vec![0; 66 * 16]);
        },
        &[
            "`blk.0.attn_q.weight`",
            "tq2_0",
            "64 x 64",
            "multiple of 256",
        ],
    ),
    (
        |b| {
            let q = b.tensor("blk.0.attn_q.weight");
            (q.2, q.3) = (14, vec![0; 210 * 16]);
        },
        &["`blk.0.attn_q.weight`", "Q6_K", "multiple of 256"],
    ),
    (
        |b| {
            b.set("general.architecture", text("mamba"));
        },
        &[
            "general.architecture",
            "`mamba`",
            "bitnet-b1.58, bitnet-25, bitnet, llama, qwen3",
        ],
    ),
    (
        |b| {
            b.set("general.architecture", u32(1));
        },
        &["general.architecture", "found 1", "text"],
    ),
    (
        |b| {
            b.remove("llama.embedding_length");
        },
        &[
            "`llama.embedding_length`",
            "found nothing",
            "Convert the model again",
        ],
    ),
    (
        |b| {
            b.set("llama.attention.head_count", u32(0));
        },
        &["`llama.attention.head_count`", "found 0", "from 1 to"],
    ),
    (
        |b| {
            b.set("llama.attention.head_count", array(4, 1, &[2, 0, 0, 0]));
        },
        &["`llama.attention.head_count`", "1 values [2]", "an integer"],
    ),
    (
        |b| {
            b.set("llama.block_count", u32(1 << 30));
        },
        &[
            "`llama.block_count`",
            "1073741824, with tensors of 1 layers",
            "number of layers",
        ],
    ),
    (
        |b| {
            b.set("llama.context_length", i32(-1));
        },
        &["`llama.context_length`", "found -1", "not negative"],
    ),
    (
        |b| {
            b.set("llama.attention.layer_norm_rms_epsilon", f32(f32::NAN));
        },
        &["layer_norm_rms_epsilon`", "found NaN", "finite"],
    ),
    (
        |b| {
            b.set("llama.rope.dimension_count", u32(16));
        },
        &["`llama.rope.dimension_count`", "found 16", "expected 32"],
    ),
    (
        |b| {
            b.set("tokenizer.ggml.eos_token_id", u32(6));
        },
        &["`tokenizer.ggml.eos_token_id`", "found 6", "an id below 6"],
    ),
    (
        |b| {
            b.set("tokenizer.ggml.scores", array(6, 5, &f32s(&[0.0; 5])));
        },
        &[
            "`tokenizer.ggml.scores`",
            "5 values",
            "6, one for each token",
        ],
    ),
    (
        |b| {
            b.set("tokenizer.ggml.tokens", array(4, 6, &[0; 24]));
        },
        &[
            "`tokenizer.ggml.tokens`",
            "6 values [0, 0, 0, …]",
            "another type",
        ],
    ),
    (
        |b| {
            b.set("tokenizer.ggml.tokens", text("a b c"));
        },
        &["`tokenizer.ggml.tokens`", "\"a b c\"", "an array"],
    ),
    (
        |b| {
            b.set("llama.pooling_type", u32(9));
        },
        &["`llama.pooling_type`", "found 9", "from 0 to 4"],
    ),
];

#[test]
fn the_undamaged_file_opens() {
    let (_folder, path) = Builder::new("llama").write();
    assert_eq!(Gguf::open(&path).unwrap().config()["vocab_size"], 6);
}

#[test]
fn every_damage_is_named() {
    for (index, (damage, parts)) in DAMAGES.iter().enumerate() {
        let mut builder = Builder::new("llama");
        damage(&mut builder);
        let (_folder, path) = builder.write();
        let message = match Gguf::open(&path) {
            Ok(_) => panic!("damage {index} was not seen: {parts:?}"),
            Err(error) => error.to_string(),
        };
        for part in parts.iter().chain(&["model.gguf: ", "expected", ". "]) {
            // Errors of a layout have their own words for what is expected.
            let exempt = *part == "expected" && message.contains("tq2_0");
            assert!(
                exempt || message.contains(part),
                "damage {index}, {part:?}: {message}"
            );
        }
    }
}

#[test]
fn values_that_mean_nothing_are_refused_when_they_are_read() {
    let name = "blk.0.attn_v.weight";
    let read = |builder: &Builder| {
        let (_folder, path) = builder.write();
        let gguf = Gguf::open(&path).unwrap();
        let matrix = gguf.matrix("model.layers.0.self_attn.v_proj.weight", 32, 64);
        matrix
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let mut builder = Builder::new("bitnet");
    let codes = vec![0b11; 32 * 64 / 4 + 32];
    (builder.tensor(name).2, builder.tensor(name).3) = (36, codes);
    assert!(
        read(&builder).contains("`blk.0.attn_v.weight`: i2_s: code 3 at row 1"),
        "{}",
        read(&builder)
    );

    let mut codes = vec![0; 32 * 64 / 4];
    codes.extend(f32s(&[f32::INFINITY; 8]));
    builder.tensor(name).3 = codes;
    assert!(
        read(&builder).contains("a scale must be finite"),
        "{}",
        read(&builder)
    );

    // Q5_K, which this crate does not have.
    (builder.tensor(name).2, builder.tensor(name).3) = (13, vec![0; 1408]);
    let message = read(&builder);
    assert!(
        message.contains("the encoding type 13") && message.contains("Q6_K"),
        "{message}"
    );

    let mut builder = Builder::new("bitnet");
    builder.add("blk.0.attn_v.scale", &[2], &[1.0, 2.0]);
    assert!(read(&builder).contains("`blk.0.attn_v.scale`: found 2 numbers, expected one"));
}

#[test]
fn shapes_and_names_are_proven() {
    let (_folder, path) = Builder::new("llama").write();
    let gguf = Gguf::open(&path).unwrap();
    let message = gguf
        .floats("model.norm.weight", &[65])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`output_norm.weight`: found shape [64], expected [65]"),
        "{message}"
    );
    let name = "model.layers.1.mlp.up_proj.weight";
    let message = gguf.matrix(name, 128, 64).unwrap_err().to_string();
    assert!(
        message.contains("`blk.1.ffn_up.weight`: found nothing"),
        "{message}"
    );
}

#[test]
fn rows_that_do_not_divide_into_heads_are_refused() {
    let mut builder = Builder::new("llama");
    builder.set("llama.attention.head_count_kv", u32(3));
    let (_folder, path) = builder.write();
    let gguf = Gguf::open(&path).unwrap();
    let error = gguf
        .matrix("model.layers.0.self_attn.k_proj.weight", 32, 64)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("an even number for each of 3 heads"),
        "{error}"
    );
}

#[test]
fn a_piece_whose_splits_would_take_hours_is_refused() {
    let mut builder = Builder::new("llama");
    let tokens = ["l", &"l".repeat(1 << 20)].map(string).concat();
    builder.set("tokenizer.ggml.model", text("llama"));
    builder.set("tokenizer.ggml.tokens", array(8, 2, &tokens));
    builder.set("tokenizer.ggml.scores", array(6, 2, &f32s(&[0.0, 0.0])));
    let (_folder, path) = builder.write();
    let gguf = Gguf::open(&path).unwrap();
    let error = Tokenizer::from_vocabulary(gguf.vocabulary().unwrap()).unwrap_err();
    let words = "found a piece of 1048576 bytes";
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn no_file_is_no_panic() {
    let (_folder, path) = write(&[]);
    assert!(Gguf::open(&path).is_err());
    let missing = path.with_file_name("missing.gguf");
    assert!(
        Gguf::open(&missing)
            .unwrap_err()
            .to_string()
            .contains("cannot open")
    );
}

/// Opens the bytes and reads all there is. What is refused is refused; nothing may panic.
fn read_all(bytes: &[u8]) {
    let (_folder, path) = write(bytes);
    let Ok(gguf) = Gguf::open(&path) else { return };
    for info in gguf.tensors() {
        let floats = gguf.floats(&info.name, &info.shape);
        if let Ok(floats) = floats {
            // Widened, a byte of the file becomes at most two numbers.
            assert!(floats.bytes.len() <= 8 * bytes.len());
        }
        if let [d_out, d_in] = info.shape[..] {
            let _ = gguf.matrix(&info.name, d_out, d_in);
        }
    }
    let _ = format!("{:?}", gguf.metadata());
}

/// Small files with every encoding in them.
fn samples() -> Vec<Vec<u8>> {
    let mut builder = Builder::new("llama");
    for (name, kind, len) in [
        ("blk.0.attn_q.weight", 36, 64 * 64 / 4 + 32),
        ("blk.0.attn_k.weight", 42, 32 * 18),
        ("blk.0.attn_v.weight", 8, 64 * 34),
        ("blk.0.attn_output.weight", 135, 64 * 20),
        ("blk.0.ffn_gate.weight", 2, 256 * 18),
    ] {
        (builder.tensor(name).2, builder.tensor(name).3) = (kind, vec![0x15; len]);
    }
    let mut bitnet = Builder::new("bitnet");
    bitnet.set(
        "x",
        array(
            9,
            2,
            &[&array(8, 1, &string("a"))[4..], &array(7, 1, &[1])[4..]].concat(),
        ),
    );
    vec![builder.bytes(), bitnet.bytes()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn flipped_bytes_and_cuts_never_panic(
        which in 0..2_usize,
        flips in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 0..6),
        // Most of the file is data; the directory is where a flip has meaning.
        front in any::<bool>(),
        cut in prop::option::of(0.0..1.0_f64),
    ) {
        let mut bytes = samples().swap_remove(which);
        let range = if front { 1400.min(bytes.len()) } else { bytes.len() };
        for (at, value) in flips {
            bytes[(at * range as f64) as usize] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        read_all(&bytes);
    }
}
