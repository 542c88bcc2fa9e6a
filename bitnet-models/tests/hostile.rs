//! Damaged and hostile checkpoints: an error that names file, place, found and expected; never a panic, never memory
//! beyond a small multiple of the files.

#[path = "support/checkpoints.rs"]
mod checkpoints;

use std::path::Path;

use bitnet_models::ModelError;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::weights::{self, Matrix};
use checkpoints::{CONFIG, TENSORS, TWO, Tensor, file, raw_file, read_all};
use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Files of a folder, by name.
type Files = Vec<(String, Vec<u8>)>;

fn whole() -> Files {
    vec![
        ("config.json".into(), CONFIG.into()),
        ("model.safetensors".into(), file(TENSORS)),
    ]
}

/// The whole checkpoint with other files.
fn with(replaced: &[(&str, &[u8])]) -> Files {
    let mut files = whole();
    for (name, contents) in replaced {
        files.retain(|(other, _)| other != name);
        files.push(((*name).into(), (*contents).into()));
    }
    files
}

/// The whole checkpoint with another header of its weights, over 32 bytes of data.
fn header(header: &str) -> Files {
    with(&[("model.safetensors", &raw_file(header, &[0; 32]))])
}

/// The whole checkpoint with one tensor replaced.
fn tensor(replaced: Tensor<'_>) -> Files {
    let mut tensors = TENSORS.to_vec();
    let at = tensors.iter().position(|(name, ..)| *name == replaced.0);
    tensors[at.expect("a tensor of the whole checkpoint")] = replaced;
    with(&[("model.safetensors", &file(&tensors))])
}

/// The whole checkpoint in two shards, with this map of names in its index.
fn shards(map: &str) -> Files {
    let index = format!(r#"{{"metadata":{{"total_size":-1e300}},"weight_map":{map}}}"#);
    vec![
        ("config.json".into(), CONFIG.into()),
        ("model.safetensors.index.json".into(), index.into()),
        ("a.safetensors".into(), file(&TENSORS[..2])),
        ("b.safetensors".into(), file(&TENSORS[2..])),
    ]
}

const EMBED: &str = "model.embed_tokens.weight";
const UP: &str = "model.layers.0.mlp.up_proj.weight";
const SCALE: &str = "model.layers.0.mlp.up_proj.weight_scale";

fn write(files: &Files) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    for (name, contents) in files {
        std::fs::write(folder.path().join(name), contents).expect("room for small files");
    }
    folder
}

/// Opens a folder and reads all that the model of [`CONFIG`] has.
fn load(folder: &Path) -> Result<usize, ModelError> {
    let checkpoint = weights::open(folder)?;
    checkpoint.floats("model.norm.weight", &[3])?;
    checkpoint.matrix(EMBED, 2, 3)?;
    checkpoint.matrix(UP, 4, 8)?;
    read_all(checkpoint.as_ref())
}

/// Damaged files, and what the error must say of them.
fn damaged() -> Vec<(Files, Vec<&'static str>)> {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        header(&format!(
            r#"{{"{EMBED}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#
        ))
    };
    let two = |first: &str, second: &str| {
        let entry = |name: &str, offsets: &str| {
            format!(r#""{name}":{{"dtype":"U8","shape":[16],"data_offsets":{offsets}}}"#)
        };
        header(&format!("{{{},{}}}", entry("a", first), entry("b", second)))
    };
    let truncated = |by: usize| {
        let bytes = file(TENSORS);
        with(&[("model.safetensors", &bytes[..bytes.len() - by])])
    };
    let config = |text: &str| with(&[("config.json", text.as_bytes())]);
    let scale = |bytes: &[u8]| tensor((SCALE, "BF16", &[1], bytes));
    let quantization = |text: &str| {
        config(&format!(
            r#"{{"architectures":["LlamaForCausalLM"],"quantization_config":{text}}}"#
        ))
    };
    let mut without_config = whole();
    without_config.remove(0);
    let huge = 1_u64 << 61;
    let wrapping: Vec<_> = (0..8_u64)
        .map(|i| {
            let (start, end) = (i.wrapping_mul(huge - 1), (i + 1).wrapping_mul(huge - 1));
            format!(
                r#""t{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
                huge - 1
            )
        })
        .collect();
    vec![
        // The header and its length.
        (
            with(&[("model.safetensors", b"")]),
            vec!["its size: found 0 bytes", "at least 8"],
        ),
        (
            with(&[("model.safetensors", &[1, 0, 0])]),
            vec!["its size: found 3 bytes"],
        ),
        (
            with(&[("model.safetensors", &[0xff; 40])]),
            vec![
                "the header length: found 18446744073709551615 bytes",
                "at most 32",
            ],
        ),
        (
            with(&[(
                "model.safetensors",
                b"\x21\0\0\0\0\0\0\0{                               ",
            )]),
            vec!["the header length: found 33 bytes", "at most 32"],
        ),
        (
            with(&[(
                "model.safetensors",
                b"version https://git-lfs.github.com/spec/v1",
            )]),
            vec!["the header length"],
        ),
        (
            header("[1]"),
            vec!["the header: found", "a JSON object of tensors"],
        ),
        (
            header(r#"{"a":"#),
            vec![
                "the header: found tensor `a`: EOF",
                "dtype, shape and data_offsets",
            ],
        ),
        (
            with(&[("model.safetensors", b"\x02\0\0\0\0\0\0\0\xff}")]),
            vec!["the header: found"],
        ),
        (header(&"[".repeat(5000)), vec!["the header: found"]),
        (
            header(&format!(r#"{{"__metadata__":{}"#, "[".repeat(5000))),
            vec!["the header: found EOF"],
        ),
        // What it says of tensors.
        (
            one("F7", "[8]", "[0,32]"),
            vec!["the header: found tensor `model.embed_tokens.weight`: unknown variant `F7`"],
        ),
        (
            one("F32", "[-8]", "[0,32]"),
            vec!["tensor `model.embed_tokens.weight`", "-8"],
        ),
        (
            one("F32", "[8]", "[0,32,4]"),
            vec!["tensor `model.embed_tokens.weight`"],
        ),
        (
            one("F32", "[8]", "[4,32]"),
            vec![
                "`model.embed_tokens.weight`: found data offsets 4..32",
                "a start at 0",
            ],
        ),
        (
            one("F32", "[8]", "[32,0]"),
            vec!["found data offsets 32..0", "within the 32 bytes of data"],
        ),
        (
            one("F32", "[8]", "[0,36]"),
            vec!["found data offsets 0..36", "within the 32 bytes"],
        ),
        (
            one("F32", "[7]", "[0,32]"),
            vec!["found 32 bytes", "28 whole bytes for F32 [7]"],
        ),
        (
            one("F16", "[8]", "[0,32]"),
            vec!["found 32 bytes", "16 whole bytes for F16 [8]"],
        ),
        (
            one("F4", "[63]", "[0,32]"),
            vec!["found 32 bytes", "32 whole bytes for F4 [63]"],
        ),
        (
            one("F32", "[7]", "[0,28]"),
            vec!["the data: found 32 bytes", "28 bytes for its tensors"],
        ),
        (
            one("F32", "[4294967296,4294967296]", "[0,32]"),
            vec!["F32 [4294967296, 4294967296]", "fits the address space"],
        ),
        (
            header(&format!("{{{}}}", wrapping.join(","))),
            vec!["`t0`: found data offsets", "within the 32 bytes"],
        ),
        (
            two("[0,16]", "[8,24]"),
            vec!["`b`: found data offsets 8..24", "a start at 16"],
        ),
        (
            two("[0,16]", "[20,36]"),
            vec!["`b`: found data offsets 20..36"],
        ),
        (
            two("[0,16]", "[0,16]"),
            vec!["found data offsets 0..16", "a start at 16"],
        ),
        (
            header(
                r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[32],"data_offsets":[0,32]}}"#,
            ),
            vec!["the header: found `a` twice", "every name once"],
        ),
        (
            header(r#"{"":{"dtype":"U8","shape":[32],"data_offsets":[0,32]}}"#),
            vec!["a named range"],
        ),
        (
            header(
                r#"{"norm.weight":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},"model.norm.weight":{"dtype":"U8","shape":[16],"data_offsets":[16,32]}}"#,
            ),
            vec![
                "tensor `model.norm.weight`: found a second tensor that means `model.norm.weight`",
            ],
        ),
        (
            truncated(1),
            vec![
                "tensor `model.norm.weight`: found data offsets 34..40",
                "39 bytes of data",
            ],
        ),
        (truncated(40), vec!["model.safetensors"]),
        // Tensors that do not fit the model.
        (
            tensor((EMBED, "F32", &[3, 2], &[0; 24])),
            vec![
                "`model.embed_tokens.weight`: found F32 [3, 2]",
                "F32, F16 or BF16 [2, 3]",
            ],
        ),
        (
            tensor((EMBED, "I32", &[2, 3], &[0; 24])),
            vec!["found I32 [2, 3]", "F32, F16 or BF16 [2, 3]"],
        ),
        (
            with(&[("model.safetensors", &file(&TENSORS[..3]))]),
            vec![
                "tensor `model.norm.weight`: found no such tensor among 3",
                "floats [3]",
            ],
        ),
        (
            tensor((UP, "U8", &[2, 4], &[0; 8])),
            vec!["found U8 [2, 4]", "U8 [1, 8] for packed [4, 8]"],
        ),
        (
            tensor((UP, "U8", &[1, 8], &[0, 0, 0, 0b11_00, 0, 0, 0, 0])),
            vec!["up_proj.weight`: hf: code 3 at row 1, column 3"],
        ),
        (
            with(&[(
                "model.safetensors",
                &file(&[TENSORS[0], TENSORS[1], TENSORS[3]]),
            )]),
            vec![
                "`model.layers.0.mlp.up_proj.weight_scale`: found no such tensor",
                "the scale of a packed matrix",
            ],
        ),
        (
            scale(&[0x00, 0x00]),
            vec!["weight_scale`: found 0", "a finite number above 0"],
        ),
        (scale(&[0x00, 0xc0]), vec!["weight_scale`: found -2"]),
        (scale(&[0xc0, 0x7f]), vec!["weight_scale`: found NaN"]),
        (scale(&[0x80, 0x7f]), vec!["weight_scale`: found inf"]),
        (
            scale(&[0x01, 0x00]),
            vec!["weight_scale`", "as its reciprocal"],
        ),
        (
            tensor((SCALE, "BF16", &[2], &[0, 64, 0, 64])),
            vec!["weight_scale`: found BF16 [2]", "[1]"],
        ),
        (
            tensor((SCALE, "U8", &[1], &[2])),
            vec!["weight_scale`: found U8 [1]", "F32, F16 or BF16 [1]"],
        ),
        // The configuration.
        (
            without_config,
            vec![
                "the configuration: found no config.json",
                "beside the weights",
            ],
        ),
        (
            config(""),
            vec!["config.json: its contents: found EOF", "one JSON object"],
        ),
        (
            config("[]"),
            vec!["config.json: its contents", "one JSON object"],
        ),
        (
            config("{\"a\":\u{feff}1}"),
            vec!["config.json: its contents"],
        ),
        (
            config(&"[".repeat(100_000)),
            vec!["config.json: its contents"],
        ),
        (
            config(&" ".repeat((1 << 20) + 1)),
            vec!["config.json: its size: found more than 1048576 bytes"],
        ),
        (
            config("{}"),
            vec![
                "config key `architectures`: found nothing",
                "the model class",
            ],
        ),
        (
            config(r#"{"architectures":[]}"#),
            vec!["config key `architectures`: found []"],
        ),
        (
            config(r#"{"architectures":"Llama"}"#),
            vec![
                "config key `architectures`: found \"Llama\"",
                "a list of texts",
            ],
        ),
        (
            config(r#"{"architectures":["LlamaForCausalLM"]}"#),
            vec![
                "config key `quantization_config`: found nothing",
                "as the weights are packed",
            ],
        ),
        (
            quantization("3"),
            vec!["config key `quantization_config`: found 3", "an object"],
        ),
        (
            quantization(r#"{"linear_class":"other"}"#),
            vec![
                "`quantization_config.linear_class`: found \"other\"",
                "autobitlinear",
                "bitlinear",
            ],
        ),
        (
            quantization(r#"{"quant_method":"gptq"}"#),
            vec![
                "`quantization_config.quant_method`: found \"gptq\"",
                "\"bitnet\"",
            ],
        ),
        (
            with(&[("generation_config.json", b"nul")]),
            vec!["generation_config.json: its contents"],
        ),
        // The index and its shards.
        (
            shards("{}"),
            vec!["index.json: weight_map: found no tensor"],
        ),
        (
            shards("[]"),
            vec!["index.json: its contents", "tensor names and file names"],
        ),
        (shards(r#"{"a":1}"#), vec!["index.json: its contents"]),
        (
            shards(&format!(r#"{{"{EMBED}":"c.safetensors"}}"#)),
            vec![
                "the shard of `model.embed_tokens.weight`: found no file `c.safetensors`",
                "every shard beside the index",
            ],
        ),
        (
            shards(&format!(r#"{{"{EMBED}":"../a.safetensors"}}"#)),
            vec!["found `../a.safetensors`", "a file in the same folder"],
        ),
        (
            shards(&format!(r#"{{"{EMBED}":"/etc/passwd"}}"#)),
            vec!["found `/etc/passwd`", "a file in the same folder"],
        ),
        (
            shards(&format!(r#"{{"{EMBED}":"x/../a.safetensors"}}"#)),
            vec!["found `x/../a.safetensors`"],
        ),
        (
            shards(&format!(r#"{{"{EMBED}":"C:\\a.safetensors"}}"#)),
            vec!["found `C:\\a.safetensors`"],
        ),
        (
            shards(&format!(r#"{{"{EMBED}":""}}"#)),
            vec!["found ``", "a file in the same folder"],
        ),
        (
            shards(&format!(r#"{{"{EMBED}":"."}}"#)),
            vec!["found `.`", "a file in the same folder"],
        ),
        (
            shards(&format!(r#"{{"{EMBED}":"model.safetensors.index.json"}}"#)),
            vec!["model.safetensors.index.json: the header length"],
        ),
        (
            shards(&format!(
                r#"{{"{EMBED}":"a.safetensors","{SCALE}":"a.safetensors","{UP}":"b.safetensors"}}"#
            )),
            vec!["weight_scale`: found it in b.safetensors, expected it in a.safetensors"],
        ),
        (
            shards(r#"{"absent":"a.safetensors"}"#),
            vec!["tensor `absent`: found it in no shard, expected it in a.safetensors"],
        ),
        (
            {
                let mut files = shards(&format!(
                    r#"{{"{EMBED}":"a.safetensors","{SCALE}":"b.safetensors"}}"#
                ));
                files[3].1 = file(TENSORS);
                files
            },
            vec![
                "found it in a.safetensors and in b.safetensors",
                "it in one shard",
            ],
        ),
        (
            vec![
                ("config.json".into(), CONFIG.into()),
                ("a.safetensors".into(), file(TENSORS)),
                ("b.safetensors".into(), file(TENSORS)),
            ],
            vec![
                "its weights: found a.safetensors, b.safetensors",
                "shards need their index",
            ],
        ),
    ]
}

#[test]
fn every_damage_is_named_with_file_place_found_and_expected() {
    for (files, words) in damaged() {
        let folder = write(&files);
        let error = load(folder.path()).expect_err(words[0]).to_string();
        for word in words {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
        let place = folder.path().display().to_string();
        assert!(error.starts_with(&place), "no file in: {error}");
        // Bad codes are the kernels' to refuse, with a sentence of their own.
        if !error.contains("hf: code 3") {
            assert!(
                error.contains(": found ") && error.contains(", expected "),
                "{error}"
            );
        }
    }
}

#[test]
fn what_is_unusual_but_whole_opens() {
    let numbers = load(write(&whole()).path()).unwrap();
    let all = format!(
        r#"{{"{EMBED}":"a.safetensors","{UP}":"a.safetensors","{SCALE}":"b.safetensors","model.norm.weight":"b.safetensors"}}"#
    );
    let mut single = whole();
    single[1].0 = "other.safetensors".into();
    // Entries in another order than the data; data at odd addresses; a scalar scale; an empty tensor; odd metadata.
    let backwards = raw_file(
        &format!(
            r#"{{"__metadata__":{{"a":[1,{{}}]}},"{SCALE}":{{"dtype":"BF16","shape":[],"data_offsets":[38,40]}},"empty":{{"dtype":"F32","shape":[0,5],"data_offsets":[8,8]}},"{EMBED}":{{"dtype":"F32","shape":[2,3],"data_offsets":[14,38]}},"model.norm.weight":{{"dtype":"F16","shape":[3],"data_offsets":[8,14]}},"{UP}":{{"dtype":"U8","shape":[1,8],"data_offsets":[0,8]}},"rope.inv_freq":{{"dtype":"I64","shape":[0],"data_offsets":[40,40]}}}}   "#
        ),
        &[&[0; 38], &TWO[..]].concat(),
    );
    let unusual = [
        shards(&all),
        // An index that leaves tensors of its shards out.
        shards(&format!(
            r#"{{"{EMBED}":"a.safetensors","{SCALE}":"b.safetensors"}}"#
        )),
        single,
        with(&[("model.safetensors", &backwards)]),
        with(&[(
            "model.safetensors.index.json",
            b"ignored beside model.safetensors",
        )]),
        with(&[(
            "config.json",
            CONFIG.replace("LlamaForCausalLM", "A\",\"B").as_bytes(),
        )]),
    ];
    for files in unusual {
        assert_eq!(load(write(&files).path()).unwrap(), numbers);
    }
}

#[test]
fn a_matrix_whose_rows_do_not_fill_its_bytes_reads_by_the_shape_that_is_asked_for() {
    let folder = write(&whole());
    let checkpoint = weights::open(folder.path()).unwrap();
    for d_out in 1..=4 {
        let Matrix::Ternary(packed) = checkpoint.matrix(UP, d_out, 8).unwrap() else {
            panic!("packed")
        };
        assert_eq!(
            (packed.d_out(), packed.scale().values()),
            (d_out, &[0.5][..])
        );
    }
    assert!(checkpoint.matrix(UP, 5, 8).is_err());
}

/// What reading a small Llama's configuration with these values says.
fn refusal(epsilon: &str, more: &str) -> String {
    let config = format!(
        r#"{{"architectures":["LlamaForCausalLM"],"hidden_act":"silu","hidden_size":8,"intermediate_size":8,
        "num_hidden_layers":1,"num_attention_heads":2,"vocab_size":2,"rms_norm_eps":{epsilon}{more}}}"#
    );
    let folder = write(&with(&[("config.json", config.as_bytes())]));
    let checkpoint = weights::open(folder.path()).expect("a whole folder");
    let error = architectures::read(checkpoint.as_ref(), Overrides::default());
    error.expect_err("a bad configuration").to_string()
}

#[test]
fn an_epsilon_that_is_no_small_number_is_refused() {
    for epsilon in ["0", "0e-6", "-1e-6", "1e-60", "1e60"] {
        let error = refusal(epsilon, "");
        let words = "config key `rms_norm_eps`: found";
        assert!(
            error.contains(words) && error.contains("a number above 0"),
            "{error}"
        );
    }
}

#[test]
fn activations_that_no_quantizer_makes_are_refused() {
    for bits in ["5", "-4", "4.5", "\"int4\"", "[4]"] {
        let error = refusal(
            "1e-6",
            &format!(r#","bitnet_burn":{{"quantize_activations":{bits}}}"#),
        );
        let words = format!("config key `bitnet_burn.quantize_activations`: found {bits}");
        assert!(
            error.contains(&words) && error.contains("the bits 8 or 4"),
            "{error}"
        );
    }
}

#[test]
fn random_damage_gives_an_error_or_numbers_and_takes_no_memory() {
    let all = format!(
        r#"{{"{EMBED}":"a.safetensors","{UP}":"a.safetensors","{SCALE}":"b.safetensors","model.norm.weight":"b.safetensors"}}"#
    );
    let bases = [whole(), shards(&all)];
    let damage = (
        0..bases.len(),
        any::<Index>(),
        vec((any::<Index>(), any::<u8>()), 0..6),
        prop::option::of(any::<Index>()),
    );
    let config = ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..Default::default()
    };
    let result = TestRunner::new(config).run(&damage, |(base, which, flips, cut)| {
        let mut files = bases[base].clone();
        let at = which.index(files.len());
        let (_, bytes) = &mut files[at];
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = write(&files);
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let _result = load(folder.path());
        let taken = MEMORY.peak_usage().saturating_sub(before);
        // The other tests of this file run beside this one; a length that was believed would be gigabytes.
        prop_assert!(taken < 64 << 20, "{taken} bytes");
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
