//! `convert` and `inspect`, run as a user runs them: what was converted is the same model, and damage is found.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::run;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A packed file of random weights.
fn packed(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("tiny.bpk");
    let run = convert("random:tiny", &path, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("bits per projection weight"), "{run:?}");
    path
}

fn ids(model: &str) -> Value {
    run_ids(&["-m", model])
}

/// Greedy ids, with exact tables and an exact cache.
fn run_ids(options: &[&str]) -> Value {
    let exact = ["--table", "file", "--cache", "f32", "--ignore-eos"];
    let infer = [
        "infer",
        "--prompt",
        "a",
        "-n",
        "8",
        "--temperature",
        "0",
        "--json",
    ];
    let run = run(&[&infer[..], &exact, options].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let answer: Value = serde_json::from_str(&run.stdout).expect("JSON");
    answer["ids"].clone()
}

fn inspect(path: &Path, options: &[&str]) -> support::Run {
    run(&[&["inspect", text(path)], options].concat())
}

#[test]
fn a_converted_model_writes_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let expected = ids("random:tiny");
    assert!(!expected.as_array().unwrap().is_empty());
    assert_eq!(ids(text(&packed(&folder))), expected);
}

/// Converts, tables of a packed file exactly, and gives the answer of the program.
fn convert(source: &str, target: &Path, options: &[&str]) -> support::Run {
    let is_packed = target.extension().is_some_and(|end| end == "bpk");
    let table: &[&str] = if is_packed && !options.contains(&"--to") {
        &["--table", "f32"]
    } else {
        &[]
    };
    run(&[&["convert", source, text(target)], table, options].concat())
}

/// A fixture checkpoint of the library's own tests, or of `BITNET_FIXTURES`.
fn fixture(name: &str) -> String {
    let default = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../bitnet-models/tests/fixtures"
    );
    let root = std::env::var("BITNET_FIXTURES").unwrap_or_else(|_| default.to_owned());
    format!("{root}/models/{name}")
}

fn config(folder: &Path) -> Value {
    let bytes = fs::read(folder.join("config.json")).expect("a configuration");
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn a_model_goes_through_every_format_and_writes_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Scales are rounded to bf16 first, which every format after it holds.
    assert_eq!(convert("random:tiny", &path("folder"), &[]).code, Some(0));
    let expected = ids(text(&path("folder")));
    let chain = [
        (text(&path("folder")).to_owned(), "one.bpk", "bpk"),
        (text(&path("one.bpk")).to_owned(), "two.gguf", "gguf-i2_s"),
        (text(&path("two.gguf")).to_owned(), "three", "hf-packed"),
        (text(&path("three")).to_owned(), "four.gguf", "gguf-q2_0"),
        (text(&path("four.gguf")).to_owned(), "five", "hf-master"),
        (text(&path("five")).to_owned(), "six.gguf", "gguf-f16"),
        (text(&path("six.gguf")).to_owned(), "seven.bpk", "bpk"),
    ];
    for (source, target, format) in chain {
        let target = path(target);
        let run = match format {
            // What the name means.
            "hf-packed" | "gguf-i2_s" | "bpk" => convert(&source, &target, &[]),
            _ => convert(&source, &target, &["--to", format]),
        };
        assert_eq!(run.code, Some(0), "{run:?}");
        let words = [format, "bits per projection weight", "opened again"];
        assert!(
            words.iter().all(|word| run.stdout.contains(word)),
            "{run:?}"
        );
        assert_eq!(ids(text(&target)), expected, "{}", target.display());
    }
}

#[test]
fn base_3_is_the_same_model_and_goes_into_every_format() {
    for source in ["storyteller", "random:tiny"] {
        let mut exports = Vec::new();
        for packing in ["words", "base3"] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("model.bpk"); // exports keep its name
            let run = convert(source, &file, &["--ternary", packing]);
            assert_eq!(run.code, Some(0), "{run:?}");
            assert_eq!(ids(text(&file)), ids(source), "{source}, {packing}");
            assert_eq!(inspect(&file, &["--verify"]).code, Some(0));
            let tensors = inspect(&file, &["--tensors"]).stdout;
            assert_eq!(tensors.contains(" base3 "), packing == "base3", "{tensors}");

            let (gguf, masters) = (file.with_extension("gguf"), file.with_extension("folder"));
            for (target, format) in [(&gguf, "gguf-f16"), (&masters, "hf-master")] {
                let run = convert(text(&file), target, &["--to", format]);
                assert_eq!(run.code, Some(0), "{run:?}");
            }
            let weights = masters.join("model.safetensors");
            exports.push([gguf, weights].map(|file| fs::read(file).unwrap()));
        }
        assert!(exports[0] == exports[1], "{source}");
    }
}

#[test]
fn a_packing_that_is_not_known_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = packed(&folder);
    let mut bytes = fs::read(&path).unwrap();
    let tag = b"words-1";
    let at = bytes.windows(tag.len()).position(|bytes| bytes == tag);
    bytes[at.expect("the tag of the layout") + tag.len() - 1] = b'9';
    fs::write(&path, &bytes).unwrap();
    let run = inspect(&path, &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    for words in ["bitnet.layout", "words-9", "words-1 or base3-1", "convert"] {
        assert!(run.stderr.contains(words), "{words}: {run:?}");
    }
}

#[test]
fn every_family_runs_from_gguf() {
    let folder = tempfile::tempdir().unwrap();
    for (number, name) in [
        "tiny-1bitllm",
        "tiny-llama-bitnet",
        "tiny-falcon-e/bitnet",
        "tiny-2b4t-packed",
    ]
    .iter()
    .enumerate()
    {
        // F16 takes rows of any length. Writing it once leaves scales that it holds, so that the second file is exact.
        let path = |end: &str| folder.path().join(format!("{number}{end}"));
        let (rounded, source, target) = (path("-rounded.gguf"), path(""), path(".gguf"));
        for (from, to, format) in [
            (fixture(name).as_str(), &rounded, "gguf-f16"),
            (text(&rounded), &source, "hf-master"),
            (text(&source), &target, "gguf-f16"),
        ] {
            let run = convert(from, to, &["--to", format]);
            assert_eq!(run.code, Some(0), "{run:?}");
        }
        assert_eq!(ids(text(&target)), ids(text(&source)), "{name}");
    }
}

#[test]
fn a_folder_of_plain_floats_is_read_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (plain, packed) = (path("plain"), path("plain.bpk"));
    let options = ["--to", "hf-dequantized", "--floats", "f32"];
    assert_eq!(convert("random:tiny", &plain, &options).code, Some(0));
    let run = convert(text(&plain), &packed, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("32.00 bits"), "{run:?}");
    let source = run_ids(&["-m", "random:tiny", "--activations", "none"]);
    assert_eq!(ids(text(&plain)), source);
    assert_eq!(ids(text(&packed)), source);
}

#[test]
fn a_packed_file_is_loaded_as_it_was_converted() {
    let folder = tempfile::tempdir().unwrap();
    for (number, overrides) in [
        ["--activations", "none"],
        ["--activations", "int4"],
        ["--masters", "float"],
        ["--masters", "ternary"],
    ]
    .iter()
    .enumerate()
    {
        let path = folder.path().join(format!("{number}.bpk"));
        let source = fixture("tiny-2b4t-bf16");
        let run = convert(&source, &path, overrides);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        let told = run_ids(&[&["-m", source.as_str()], &overrides[..]].concat());
        assert_eq!(ids(text(&path)), told, "{overrides:?}");
        if let Some(said) = [Value::Bool(false), 4.into()].get(number) {
            let exported = folder.path().join(format!("exported{number}"));
            assert_eq!(convert(text(&path), &exported, &[]).code, Some(0));
            assert_eq!(
                &config(&exported)["bitnet_burn"]["quantize_activations"],
                said
            );
            let refused = convert(text(&path), &folder.path().join("x.gguf"), &[]);
            assert_eq!(refused.code, Some(1), "{refused:?}");
            assert!(refused.stderr.contains("activations"), "{refused:?}");
        }
    }
}

#[test]
fn bf16_arithmetic_gives_the_published_revision() {
    let folder = tempfile::tempdir().unwrap();
    let (masters, published) = (
        fixture("tiny-falcon-e/prequantized"),
        fixture("tiny-falcon-e/bitnet"),
    );
    let bytes = |path: &Path| fs::read(path.join("model.safetensors")).unwrap();
    let target = folder.path().join("packed");
    let options = ["--masters", "ternary", "--arithmetic", "bf16"];
    let run = convert(&masters, &target, &options);
    assert_eq!(run.code, Some(0), "{run:?}");
    let tensors = |path: &Path| {
        let answer = inspect(path, &["--histogram", "--json"]);
        let found: Value = serde_json::from_str(&answer.stdout).unwrap();
        found["histogram"].clone()
    };
    assert_eq!(bytes(&target).len(), bytes(Path::new(&published)).len());
    assert_eq!(tensors(&target), tensors(Path::new(&published)));
    let file = folder.path().join("packed.bpk");
    assert_eq!(convert(&masters, &file, &options).code, Some(0));
    assert_eq!(tensors(&file), tensors(Path::new(&published)));
    let gguf = folder.path().join("packed.gguf");
    let options = [&options[..], &["--to", "gguf-f16"]].concat();
    assert_eq!(convert(&masters, &gguf, &options).code, Some(0));
    assert_eq!(tensors(&gguf), tensors(Path::new(&published)));
}

#[test]
fn what_a_format_or_a_model_has_no_use_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let float = fixture("tiny-falcon-e/bfloat16");
    for (source, name, options, words) in [
        (
            "random:tiny",
            "a",
            &["--table", "f16"][..],
            "--table does nothing for hf-packed",
        ),
        (
            "random:tiny",
            "a",
            &["--ternary", "base3"],
            "--ternary does nothing for hf-packed",
        ),
        (
            &float,
            "a.bpk",
            &["--ternary", "base3"],
            "--ternary does nothing for",
        ),
        (
            "random:tiny",
            "a.bpk",
            &["--floats", "f16"],
            "--floats does nothing for bpk",
        ),
        (
            "random:tiny",
            "a",
            &["--to", "hf-master", "--arithmetic", "bf16"],
            "--arithmetic does nothing for hf-master",
        ),
        (
            "random:tiny",
            "a.bpk",
            &["--arithmetic", "bf16"],
            "no float masters",
        ),
        (
            "random:tiny",
            "a.bpk",
            &["--to", "gguf-i2_s"],
            "ends in .gguf",
        ),
        (
            "random:tiny",
            "a.gguf",
            &["--to", "hf-packed"],
            "name of a folder",
        ),
        (
            "random:tiny",
            "a.gguf",
            &["--to", "gguf-tq2_0"],
            "multiple of 256",
        ),
        ("random:700m", "a.gguf", &[], "no tokenizer"),
        (
            &float,
            "a.gguf",
            &["--to", "gguf-f16"],
            "are all -m, 0 or m",
        ),
        (&float, "a", &[], "--masters ternary"),
        (
            &float,
            "a",
            &["--to", "hf-dequantized", "--floats", "f32"],
            "floats already",
        ),
    ] {
        let run = convert(source, &folder.path().join(name), options);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains(words), "{words}: {run:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{run:?}");
    }
}

#[test]
fn a_float_model_stays_one_in_the_formats_that_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    // Masters that nothing calls so.
    let source = fixture("tiny-falcon-e/prequantized");
    let expected = ids(&source);
    for (name, options) in [
        ("a.bpk", &[][..]),
        ("a", &["--to", "hf-dequantized"]),
        ("a.gguf", &["--to", "gguf-f16"]),
    ] {
        let target = folder.path().join(name);
        let run = convert(&source, &target, options);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(ids(text(&target)), expected, "{name}");
    }
}

#[test]
fn a_folder_with_files_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model");
    fs::create_dir(&target).unwrap();
    assert_eq!(
        convert("random:tiny", &target, &[]).code,
        Some(0),
        "an empty one"
    );
    let refused = convert("random:tiny", &target, &["--to", "hf-master"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--force"), "{refused:?}");
    let mode = || config(&target)["quantization_config"]["quantization_mode"].clone();
    assert_eq!(mode(), "offline");
    let forced = convert("random:tiny", &target, &["--to", "hf-master", "--force"]);
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert_eq!(mode(), "online");
}

#[test]
fn tokenizer_and_chat_template_travel_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let source = fixture("tiny-2b4t-packed");
    let chat = |model: &str| run_ids(&["-m", model, "--chat"]);
    let expected = chat(&source);
    let mut model = source;
    for name in ["a.gguf", "b", "c.bpk", "d"] {
        let run = convert(&model, &path(name), &[]);
        assert_eq!(run.code, Some(0), "{run:?}");
        model = text(&path(name)).to_owned();
        assert_eq!(chat(&model), expected, "{name}");
    }
    let template = |folder: &str| {
        let config = fs::read(format!("{folder}/tokenizer_config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        config["chat_template"].clone()
    };
    assert!(template(&model).is_string());
    assert_eq!(template(&model), template(&fixture("tiny-2b4t-packed")));
}

#[test]
fn a_file_that_exists_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.bpk");
    fs::write(&path, "mine").unwrap();
    let arguments = ["convert", "random:tiny", text(&path)];
    let refused = run(&arguments);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--force"), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let forced = run(&[&arguments[..], &["--force"]].concat());
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert_eq!(inspect(&path, &["--verify"]).code, Some(0));
}

#[test]
fn an_output_of_another_format_is_refused_with_what_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let run = run(&["convert", "random:tiny", text(&path)]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains(".bpk"), "{run:?}");
    assert!(!path.exists());
}

#[test]
fn inspect_answers_programs_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--json", "--tensors", "--histogram", "--verify"];
    let run = inspect(&packed(&folder), &options);
    assert_eq!(run.code, Some(0), "{run:?}");
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(found["format"], "burnpack");
    assert_eq!(found["problems"], serde_json::json!([]));
    let layers = found["histogram"].as_array().unwrap();
    assert_eq!(
        layers.len() as u64,
        found["config"]["n_layers"].as_u64().unwrap()
    );
    let trits = layers
        .iter()
        .flat_map(|layer| ["minus", "zero", "plus"].map(|trit| layer[trit].as_u64().unwrap()));
    assert_eq!(
        trits.sum::<u64>(),
        found["parameters"]["projections"].as_u64().unwrap()
    );
    let bits = found["bits_per_projection_weight"].as_f64().unwrap();
    assert!((2.0..4.0).contains(&bits), "{bits}");
    assert!(!found["tensors"].as_array().unwrap().is_empty());
}

#[test]
fn verify_names_damaged_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let base3 = folder.path().join("base3.bpk");
    let run = convert("random:tiny", &base3, &["--ternary", "base3"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for path in [packed(&folder), base3] {
        let whole = inspect(&path, &["--verify", "--histogram"]);
        assert_eq!(whole.code, Some(0), "{whole:?}");
        assert!(whole.stdout.contains("Every tensor"), "{whole:?}");

        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        bytes[len / 4..len / 4 * 3].fill(0xff);
        let damaged = folder.path().join("damaged.bpk");
        fs::write(&damaged, &bytes).unwrap();
        let run = inspect(&damaged, &["--verify"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stdout.contains("model.layers."), "{run:?}");
        assert!(run.stdout.contains("means no ternary value"), "{run:?}");
    }
}

#[test]
fn a_file_that_was_cut_off_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = packed(&folder);
    let bytes = fs::read(&path).unwrap();
    let cut = folder.path().join("cut.bpk");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let run = inspect(&cut, &["--verify"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("cut.bpk"), "{run:?}");
}

#[test]
fn a_screen_changes_no_token_and_goes_into_no_other_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screened.bpk");
    let run = convert("random:tiny", &path, &["--screen"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let expected = ids("random:tiny");
    assert_eq!(ids(text(&path)), expected);
    // Nothing of it is in the way.
    let gguf = folder.path().join("model.gguf");
    assert_eq!(convert(text(&path), &gguf, &[]).code, Some(0));
    let again = folder.path().join("again.bpk");
    assert_eq!(convert(text(&path), &again, &[]).code, Some(0));
    assert_eq!(ids(text(&again)), expected);
    assert!(fs::metadata(&again).unwrap().len() < fs::metadata(&path).unwrap().len());

    let run = convert("random:tiny", &folder.path().join("no.gguf"), &["--screen"]);
    assert!(
        run.code != Some(0) && run.stderr.contains("--screen"),
        "{run:?}"
    );
    let int8 = [
        "convert",
        "random:tiny",
        "no.bpk",
        "--table",
        "int8",
        "--screen",
    ];
    let run = support::run(&int8);
    assert!(
        run.code != Some(0) && run.stderr.contains("int8"),
        "{run:?}"
    );
    assert!(!Path::new("no.bpk").exists());
}
