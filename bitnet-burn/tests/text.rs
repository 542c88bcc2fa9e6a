//! The commands that run a model over texts: batch, eval, embed, chat. Sentences come from random weights and have no
//! sense; what is tested is what holds for every model.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use support::{Run, checkpoint, program, run, run_with_input};

/// A folder for one test, with a file in it.
fn folder(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary file");
    let path = folder.path().join(name);
    fs::write(&path, text).expect("a temporary file");
    let path = path.to_str().expect("a temporary file").to_owned();
    (folder, path)
}

fn succeed(run: Run) -> String {
    assert_eq!(run.code, Some(0), "{run:?}");
    run.stdout
}

fn json_lines(text: &str) -> Vec<serde_json::Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

const SAMPLED: [&str; 8] = [
    "-n",
    "12",
    "--temperature",
    "1",
    "--seed",
    "5",
    "--device",
    "cpu",
];

fn batch(input: &str, more: &[&str]) -> Run {
    run(&[&["batch", input], &SAMPLED[..], more].concat())
}

#[test]
fn a_batch_answers_every_row_alike_whatever_its_size() {
    let prompts = "{\"prompt\": \"one\"}\n{\"prompt\": \"a longer one\"}\n{\"no\": 1}\n{\"prompt\": \"one\"}\n{\"prompt\": \"x\"}\n";
    let (_folder, input) = folder("in.jsonl", prompts);
    let alone = batch(&input, &["--batch-size", "1"]);
    let together = batch(&input, &["--batch-size", "3"]);
    assert_eq!(alone.code, Some(1), "a row has no prompt: {alone:?}");
    assert_eq!(alone.stdout, together.stdout);
    let rows = json_lines(&alone.stdout);
    assert_eq!(rows.len(), 5);
    assert!(rows[2]["error"].is_string());
    let text = |row: usize| rows[row]["completion"].as_str().unwrap();
    assert!(!text(0).is_empty());
    assert_ne!(text(0), text(3), "each row draws for itself");
}

#[test]
fn a_batch_of_text_lines_goes_on_where_it_was_cut_off() {
    let (folder, input) = folder("in.txt", "one\ntwo\nthree\n");
    let output = folder.path().join("out.txt");
    let arguments = ["-o", output.to_str().unwrap(), "--batch-size", "2"];
    succeed(batch(&input, &arguments));
    let whole = fs::read(&output).unwrap();
    let first = 1 + whole.iter().position(|&byte| byte == b'\n').unwrap();
    fs::write(&output, &whole[..first]).unwrap();
    succeed(batch(&input, &arguments));
    assert_eq!(fs::read(&output).unwrap(), whole);
}

#[test]
fn rows_that_failed_are_answered_again_when_asked_for() {
    for (kind, prompts) in [
        (
            "jsonl",
            "{\"prompt\": \"a\"}\n{\"prompt\": \"too long for eight tokens\"}\n",
        ),
        ("csv", "prompt\na\ntoo long for eight tokens\n"),
    ] {
        let (folder, input) = folder(&format!("in.{kind}"), prompts);
        let output = folder.path().join(format!("out.{kind}"));
        let to = ["-o", output.to_str().unwrap()];
        let batch = |more: &[&str]| batch(&input, &[&to, more].concat());
        let short = batch(&["--context", "8"]);
        assert_eq!(short.code, Some(1), "{short:?}");
        assert!(short.stderr.contains("--retry-failed"), "{short:?}");
        let before = fs::read_to_string(&output).unwrap();
        let again = batch(&[]);
        assert_eq!(again.code, Some(1), "failed rows stay failed: {again:?}");
        assert_eq!(fs::read_to_string(&output).unwrap(), before);
        succeed(batch(&["--retry-failed"]));
        let after = fs::read_to_string(&output).unwrap();
        let good = |text: &str| text.lines().position(|line| line.contains("too long"));
        let kept = good(&before).unwrap();
        let first = |text: &str| {
            text.lines()
                .take(kept)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            first(&before),
            first(&after),
            "the row that was good is the same"
        );
        assert_eq!(after.matches("too long").count(), 1, "{after}");
        succeed(batch(&["--retry-failed"]));
        assert_eq!(
            fs::read_to_string(&output).unwrap(),
            after,
            "nothing is left to do"
        );
    }
}

#[test]
fn a_row_that_fills_the_context_ends_alone() {
    let (_folder, input) = folder("in.txt", "abcdefgh\nab\n");
    let whole = succeed(batch(&input, &["--context", "12"]));
    let alone = succeed(batch(&input, &["--context", "12", "--batch-size", "1"]));
    assert_eq!(whole, alone);
    assert_eq!(whole.lines().count(), 2);
}

#[test]
fn the_perplexity_of_a_text_is_finite_and_the_windows_cover_it() {
    let (_folder, path) = folder("text.txt", &"some words and more of them. ".repeat(6));
    let evaluate = |more: &[&str]| {
        let run = run(&[&["eval", "--json", "--text", &path], more].concat());
        serde_json::from_str::<serde_json::Value>(&succeed(run)).unwrap()
    };
    let (whole, windows) = (evaluate(&[]), evaluate(&["--context", "10"]));
    for result in [&whole, &windows] {
        assert!(
            result["perplexity"]
                .as_f64()
                .is_some_and(|value| value > 1.0),
            "{result}"
        );
        assert!(
            result["bits_per_byte"]
                .as_f64()
                .is_some_and(|value| value > 0.0),
            "{result}"
        );
    }
    let count = |result: &serde_json::Value, name: &str| result[name].as_u64().unwrap();
    let tokens = count(&whole, "tokens");
    assert_eq!(count(&whole, "scored_tokens"), tokens - 1);
    assert_eq!(
        count(&windows, "scored_tokens"),
        tokens - tokens.div_ceil(10)
    );
}

#[test]
fn windows_that_overlap_score_every_token_but_the_first() {
    let (_folder, path) = folder("text.txt", &"some words and more of them. ".repeat(6));
    let arguments = ["eval", "--json", "--text", &path, "--context", "10"];
    let evaluate = |stride: &str| run(&[&arguments[..], &["--stride", stride]].concat());
    let result: serde_json::Value = serde_json::from_str(&succeed(evaluate("4"))).unwrap();
    let count = |name: &str| result[name].as_u64().unwrap();
    assert_eq!(count("scored_tokens"), count("tokens") - 1, "{result}");
    assert_eq!(
        (&result["partial"], &result["stride"]),
        (&false.into(), &4.into())
    );
    let refused = evaluate("11");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("stride"), "{refused:?}");
}

#[test]
fn a_model_without_an_output_head_writes_nothing_and_says_why() {
    let fixtures = checkpoint();
    let model = fixtures.with_file_name("tiny-embedding");
    let (_folder, path) = folder("text.txt", "some words");
    for arguments in [&["infer", "-p", "x"][..], &["eval", "--text", &path]] {
        let run = run(&[arguments, &["-m", model.to_str().unwrap()]].concat());
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("output head"), "{run:?}");
    }
}

#[test]
fn choices_are_counted_and_wrong_answers_are_refused() {
    let line =
        "{\"question\": \"Two and two are\", \"choices\": [\"four\", \"a tree\"], \"answer\": ";
    let (_first, path) = folder("first.jsonl", &format!("{line}0}}\n"));
    let (_second, other) = folder("second.jsonl", &format!("{line}1}}\n"));
    let evaluate = |path: &str| {
        let text = succeed(run(&["eval", "--json", "--choices", path]));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let (first, second) = (evaluate(&path), evaluate(&other));
    for name in ["accuracy", "accuracy_per_byte"] {
        let sum = first[name].as_f64().unwrap() + second[name].as_f64().unwrap();
        assert_eq!(sum, 1.0, "one of the two is preferred: {first} {second}");
    }
    let (_third, wrong) = folder("third.jsonl", &format!("{line}2}}\n"));
    let run = run(&["eval", "--choices", &wrong]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("line 1: answer 2"), "{run:?}");
}

#[test]
fn embeddings_are_unit_vectors_however_the_texts_come() {
    let given = succeed(run(&["embed", "a", "a longer text"]));
    let piped = succeed(run_with_input(program(&["embed"]), "a\n\na longer text\n"));
    assert_eq!(given, piped);
    let vectors: Vec<Vec<f64>> = given
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(vectors.len(), 2);
    for vector in &vectors {
        let square: f64 = vector.iter().map(|x| x * x).sum();
        assert!((square - 1.0).abs() < 1e-5, "{square}");
    }
    let objects = json_lines(&succeed(run(&["embed", "--json", "a"])));
    assert_eq!(objects[0]["text"], "a");
    let matrix = succeed(run(&["embed", "--similarity", "a", "a longer text", "a"]));
    let rows: Vec<Vec<f64>> = matrix
        .lines()
        .map(|line| {
            line.split_whitespace()
                .map(|cell| cell.parse().unwrap())
                .collect()
        })
        .collect();
    assert_eq!((rows.len(), rows[0][0], rows[0][2]), (3, 1.0, 1.0));
    assert_eq!(rows[0][1], rows[1][0]);
}

fn chat(input: &str) -> Run {
    let model = checkpoint();
    let model = model.to_str().expect("UTF-8");
    let arguments = [
        "chat",
        "-m",
        model,
        "-n",
        "6",
        "--ignore-eos",
        "--temperature",
        "0",
    ];
    run_with_input(program(&arguments), input)
}

/// The tokens that the last answer found in the cache, as `/stats` tells.
fn reused(stderr: &str) -> usize {
    let (before, _) = stderr.rsplit_once(" tokens reused").expect(stderr);
    let count = before.rsplit(' ').next().expect("a number");
    count.parse().expect("a number")
}

#[test]
fn a_piped_conversation_feeds_only_what_is_new() {
    let run = chat("Hello\n/stats\nAnd again?\n/stats\n/quit\nnever asked\n");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stderr.contains("2 messages") && run.stderr.contains("4 messages"),
        "{run:?}"
    );
    assert!(!run.stderr.contains("6 messages"), "{run:?}");
    let (first, second) = run.stderr.split_once("2 messages").unwrap();
    assert!(!first.contains("reused"), "nothing is known yet: {first}");
    assert!(reused(second) > 0, "{second}");
    assert!(!run.stdout.contains("> "), "no prompt in a pipe: {run:?}");
}

#[test]
fn a_conversation_can_be_undone_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let file = file.to_str().unwrap();
    let once = chat("Hello\n");
    let run = chat(&format!(
        "/system Be brief.\nHello\n/save {file}\n/undo\n/system\nHello\n/reset\n/load {file}\n/stats\n"
    ));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stdout.ends_with(&once.stdout),
        "as if never asked: {run:?} {once:?}"
    );
    assert!(run.stderr.contains("3 messages"), "{run:?}");
    let saved: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(saved[0]["content"], "Be brief.");
    assert_eq!(
        (&saved[1]["role"], &saved[2]["role"]),
        (&"user".into(), &"assistant".into())
    );
}

/// Runs a command whose output goes nowhere after its first byte; its exit code and what it said on stderr.
fn read_one_byte(mut command: Command, input: &str) -> (Option<i32>, String) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(input.as_bytes())
        .expect("the program reads");
    drop(stdin);
    let mut stdout = child.stdout.take().expect("piped");
    stdout
        .read_exact(&mut [0])
        .expect("the program says something");
    drop(stdout);
    let run: Run = child.wait_with_output().expect("the program ends").into();
    (run.code, run.stderr)
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_text_quietly() {
    let endless = [
        "-q",
        "-n",
        "1000000",
        "--slide",
        "--ignore-eos",
        "--temperature",
        "1",
    ];
    let model = checkpoint();
    let model = ["-m", model.to_str().unwrap()];
    let lines = "a line\n".repeat(10_000);
    for (arguments, input) in [
        ([&["infer"], &endless[..]].concat(), "Once"),
        ([&["chat"], &model[..], &endless].concat(), "Hello\n"),
        (vec!["batch", "-q", "-n", "2", "-"], &lines[..]),
        (vec!["embed", "-q"], &lines),
    ] {
        let ended = match arguments[0] {
            "infer" => read_one_byte(program(&[&arguments[..], &["-p", input]].concat()), ""),
            _ => read_one_byte(program(&arguments), input),
        };
        assert_eq!(ended, (Some(0), String::new()), "{arguments:?}");
    }
}

#[test]
fn a_terminal_that_is_gone_altogether_is_no_crash() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&["infer", "-v", "-p", "x", "-n", "4"]);
    let command = command.stdout(writer.try_clone().unwrap()).stderr(writer);
    assert_eq!(command.status().unwrap().code(), Some(0));
}

#[test]
fn a_model_without_a_chat_format_and_an_unknown_command_say_what_to_do() {
    let run = run_with_input(program(&["chat", "-m", "random:tiny"]), "Hello\n");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("template"), "{run:?}");
    let run = chat("/dance\n");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("/help"), "{run:?}");
}
