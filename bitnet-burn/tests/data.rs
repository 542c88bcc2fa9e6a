//! The command `data`, as a user meets it: generate, prepare, inspect, and what they refuse.

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::{Run, program, run};

/// Runs in a folder, so that names are short.
fn run_in(folder: &Path, arguments: &[&str]) -> Run {
    program(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts")
        .into()
}

fn succeed(run: Run) -> String {
    assert_eq!(run.code, Some(0), "{run:?}");
    run.stdout
}

fn fail(run: Run) -> String {
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    run.stderr
}

#[test]
fn stories_are_generated_as_text_and_as_json_lines() {
    let text = succeed(run(&["data", "generate", "3", "--seed", "5"]));
    assert_eq!(text.matches("\n<|endoftext|>\n").count(), 2);
    let lines = succeed(run(&["data", "generate", "3", "--seed", "5", "--jsonl"]));
    let stories: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for story in &stories {
        assert!(text.contains(story["text"].as_str().unwrap()));
    }
    let second = succeed(run(&[
        "data", "generate", "1", "--seed", "5", "--skip", "1", "--jsonl",
    ]));
    assert_eq!(second.lines().next(), lines.lines().nth(1));
    let dialogue = succeed(run(&[
        "data",
        "generate",
        "1",
        "--form",
        "dialogues",
        "--jsonl",
    ]));
    let dialogue: Value = serde_json::from_str(&dialogue).unwrap();
    assert_eq!(dialogue["messages"][1]["role"], "assistant");
}

#[test]
fn a_reader_of_stories_may_leave_early() {
    let mut command = program(&["data", "generate", "100000000"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn a_file_that_exists_is_not_overwritten_by_stories() {
    let folder = tempfile::tempdir().unwrap();
    succeed(run_in(
        folder.path(),
        &["data", "generate", "2", "-o", "a.txt"],
    ));
    let error = fail(run_in(
        folder.path(),
        &["data", "generate", "2", "-o", "a.txt"],
    ));
    assert!(error.contains("a.txt: cannot create"), "{error}");
}

#[test]
fn generated_files_and_the_source_itself_give_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| succeed(run_in(folder.path(), arguments));
    run(&["data", "generate", "40", "-o", "a.txt"]);
    run(&["data", "generate", "40", "--jsonl", "-o", "a.jsonl"]);
    let prepare = |source: &str, out: &str| {
        let separator = "\\n<|endoftext|>\\n";
        run(&[
            "data",
            "prepare",
            source,
            "-o",
            out,
            "--vocab-size",
            "400",
            "--separator",
            separator,
            "--validation",
            "0.2",
        ]);
        fs::read(folder.path().join(out).join("train-00000.tokens")).unwrap()
    };
    let direct = prepare("stories:40", "one");
    assert!(direct == prepare("a.txt", "two") && direct == prepare("a.jsonl", "three"));
}

#[test]
fn inspecting_shows_counts_and_what_is_learned() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| succeed(run_in(folder.path(), arguments));
    let shown = run(&[
        "data",
        "prepare",
        "dialogues:30",
        "-o",
        "data",
        "--vocab-size",
        "400",
        "--validation",
        "0",
    ]);
    assert!(shown.contains("400 tokens in the vocabulary"), "{shown}");
    let shown = run(&["data", "inspect", "data"]);
    assert!(
        shown.contains("dialogues:30:0") && shown.contains("<|start_header_id|>user"),
        "{shown}"
    );
    assert!(
        shown.contains("\n\n⟦") && shown.contains("<|eot_id|>⟧"),
        "{shown}"
    );
    let index: Value = serde_json::from_str(&run(&["data", "inspect", "data", "--json"])).unwrap();
    let count = |key: &str| index["train"][key].as_u64().unwrap();
    assert!(
        count("learned") < count("tokens") && count("documents") == 30,
        "{index}"
    );
    let error = fail(run_in(
        folder.path(),
        &["data", "inspect", "data", "--sample", "30"],
    ));
    assert!(error.contains("train has 30 documents"), "{error}");
}

#[test]
fn characters_and_the_last_tenth_as_in_the_shakespeare_baseline() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text.txt"), "abcdefghi\n".repeat(100)).unwrap();
    let run = |arguments: &[&str]| succeed(run_in(folder.path(), arguments));
    run(&[
        "data",
        "prepare",
        "text.txt",
        "-o",
        "data",
        "--characters",
        "--tail",
        "--validation",
        "0.1",
    ]);
    let index: Value = serde_json::from_str(&run(&["data", "inspect", "data", "--json"])).unwrap();
    assert_eq!(
        (&index["vocab_size"], &index["train"]["tokens"]),
        (&10.into(), &900.into())
    );
    assert_eq!(index["validation"]["tokens"], 100);
}

#[test]
fn the_tokenizer_of_other_data_serves_again() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| succeed(run_in(folder.path(), arguments));
    run(&[
        "data",
        "prepare",
        "stories:30",
        "-o",
        "one",
        "--vocab-size",
        "400",
    ]);
    for model in ["one", "one/tokenizer.json"] {
        run(&[
            "data",
            "prepare",
            "stories:5:9",
            "-o",
            "two",
            "--tokenizer",
            model,
            "--force",
        ]);
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let read = |name: &str| fs::read(folder.path().join(name).join(file)).unwrap();
            assert!(read("one") == read("two"), "{file} of {model}");
        }
    }
}

#[test]
fn what_is_wrong_with_the_data_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "bad.jsonl",
        "{\"text\": \"one one one\"}\n{\"text\n{\"text\": \"two\"}\n",
    );
    write("empty.txt", "");
    let prepare = |source: &str, more: &[&str]| {
        let arguments = [
            "data",
            "prepare",
            source,
            "-o",
            "data",
            "--validation",
            "0",
            "--vocab-size",
            "300",
        ];
        run_in(folder.path(), &[&arguments, more].concat())
    };
    let error = fail(prepare("bad.jsonl", &[]));
    assert!(error.contains("bad.jsonl, line 2"), "{error}");
    let skipped = prepare("bad.jsonl", &["--skip-bad"]);
    assert!(
        skipped.code == Some(0) && skipped.stderr.contains("1 lines were left out"),
        "{skipped:?}"
    );
    let error = fail(prepare("bad.jsonl", &["--skip-bad"]));
    assert!(error.contains("found files in it"), "{error}");
    assert_eq!(
        prepare("bad.jsonl", &["--skip-bad", "--force"]).code,
        Some(0)
    );
    for (source, part) in [
        ("empty.txt", "found none"),
        ("absent.txt", "absent.txt: cannot open"),
    ] {
        let error = fail(prepare(source, &["--force"]));
        assert!(error.contains(part), "{error}");
    }
    let shard = folder.path().join("data/train-00000.tokens");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes.truncate(last);
    fs::write(&shard, bytes).unwrap();
    let error = fail(run_in(folder.path(), &["data", "inspect", "data"]));
    assert!(
        error.contains("train-00000.tokens") && error.contains("Prepare the data again"),
        "{error}"
    );
}

#[test]
fn one_tokenizer_must_be_chosen() {
    for more in [&[][..], &["--characters", "--vocab-size", "300"]] {
        let arguments = [&["data", "prepare", "stories:3", "-o", "x"], more].concat();
        assert_eq!(run(&arguments).code, Some(2));
    }
}
