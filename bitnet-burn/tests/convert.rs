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
    let run = run(&["convert", "random:tiny", text(&path)]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("bits per projection weight"), "{run:?}");
    path
}

fn ids(model: &str) -> Value {
    let run = run(&["infer", "-m", model, "--prompt", "a", "-n", "8", "--json"]);
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
    let path = packed(&folder);
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
