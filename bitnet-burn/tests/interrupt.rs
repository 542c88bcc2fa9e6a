//! Ctrl-C while a command is busy: what is done is kept and shown, and the exit code is 130. A second one would leave at
//! once, so each test sends one, after it has seen that the work has begun. Work that does not stop fails the test when
//! its time is over.

#![cfg(unix)]

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::checkpoint;
use support::live::Live;

/// Answers that end by Ctrl-C alone.
const ENDLESS: [&str; 6] = [
    "-n",
    "1000000",
    "--slide",
    "--ignore-eos",
    "--temperature",
    "1",
];

#[test]
fn a_text_ends_where_it_is() {
    let mut live = Live::start(&[&["infer", "-p", "x"], &ENDLESS[..]].concat());
    live.until_stdout_has_more_than(0);
    live.interrupt();
    let run = live.end();
    assert_eq!(run.code, Some(130), "{run:?}");
    assert!(run.stdout.ends_with('\n'), "the line is complete: {run:?}");
    assert!(
        run.stderr.contains("decode") && run.stderr.contains("interrupted"),
        "{run:?}"
    );
}

#[test]
fn a_text_in_json_says_that_it_was_interrupted() {
    let mut live = Live::start(&[&["infer", "-v", "--json", "-p", "x"], &ENDLESS[..]].concat());
    live.until_stderr_has("tokens in the prompt", 1);
    live.interrupt();
    let run = live.end();
    assert_eq!(run.code, Some(130), "{run:?}");
    let object: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(object["stop"], "Interrupted");
    let ids = object["ids"].as_array().unwrap();
    assert_eq!(object["new_tokens"], ids.len());
    assert!(!ids.is_empty() && object["text"].is_string(), "{object}");
}

#[test]
fn a_conversation_goes_on_after_an_answer_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let model = checkpoint();
    let chat = ["chat", "-m", model.to_str().unwrap()];
    let mut live = Live::start(&[&chat[..], &ENDLESS].concat());

    live.say("Hello");
    live.until_stdout_has_more_than(0);
    live.interrupt();
    live.until_stderr_has("first token", 1); // the times of the answer
    live.say(&format!("/save {}", file.display()));
    live.say("/stats");
    live.until_stderr_has("2 messages", 1);
    let saved: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(
        (&saved[0]["role"], &saved[0]["content"]),
        (&"user".into(), &"Hello".into())
    );
    let answer = saved[1]["content"].as_str().unwrap().to_owned();
    assert!(!answer.is_empty());
    // Control characters, which random weights like, are not shown in a pipe.
    let visible = |text: &str| text.replace(char::is_control, "");
    let stdout = live.stdout.so_far();
    assert_eq!(
        visible(&stdout),
        visible(&answer),
        "what was shown is remembered"
    );

    live.say("And again?");
    live.until_stdout_has_more_than(stdout.len());
    live.interrupt();
    live.until_stderr_has("first token", 3); // after the answer, of /stats, after the second answer
    live.say("/stats");
    live.until_stderr_has("4 messages", 1);
    let run = live.end();
    assert_eq!(run.code, Some(0), "{run:?}");
    let (_, second) = run.stderr.split_once("2 messages").unwrap();
    let (before, _) = second.split_once(" tokens reused").expect(second);
    let reused: usize = before.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(reused > 0, "{second}");
}

#[test]
fn a_conversation_that_waits_is_left() {
    let model = checkpoint();
    let chat = [
        "chat",
        "-n",
        "2",
        "--ignore-eos",
        "-m",
        model.to_str().unwrap(),
    ];
    let mut live = Live::start(&chat);
    live.say("Hello");
    live.until_stderr_has("first token", 1);
    // It may not wait yet, and then the first one is meant for the answer.
    live.until("the end", |live| {
        live.interrupt();
        thread::sleep(Duration::from_millis(50));
        live.has_ended()
    });
    let run = live.end();
    assert_eq!(run.code, Some(130), "{run:?}");
}

#[test]
fn a_perplexity_is_reported_as_partial() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    fs::write(&file, "some words and more of them. ".repeat(20_000)).unwrap();
    let eval = [
        "eval",
        "-vv",
        "--context",
        "16",
        "--text",
        file.to_str().unwrap(),
    ];
    let stopped = |more: &[&str]| {
        let mut live = Live::start(&[&eval[..], more].concat());
        live.until_stderr_has("window 1 of", 1);
        live.interrupt();
        let run = live.end();
        assert_eq!(run.code, Some(130), "{run:?}");
        run.stdout
    };
    let object: Value = serde_json::from_str(&stopped(&["--json"])).unwrap();
    assert_eq!(object["partial"], true);
    let count = |name: &str| object[name].as_u64().unwrap();
    assert!(
        0 < count("scored_tokens") && count("scored_tokens") < count("tokens") / 2,
        "{object}"
    );
    assert!(
        object["perplexity"]
            .as_f64()
            .is_some_and(|value| value > 1.0),
        "{object}"
    );
    assert!(stopped(&[]).starts_with("PARTIAL"));
}

#[test]
fn an_accuracy_is_reported_as_partial() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("questions.jsonl");
    let line =
        "{\"question\": \"Two and two are\", \"choices\": [\"four\", \"a tree\"], \"answer\": 0}\n";
    fs::write(&file, line.repeat(20_000)).unwrap();
    let eval = ["eval", "-vv", "--json", "--choices", file.to_str().unwrap()];
    let mut live = Live::start(&eval);
    live.until_stderr_has("question 1 of", 1);
    live.interrupt();
    let run = live.end();
    assert_eq!(run.code, Some(130), "{run:?}");
    let object: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&object["partial"], &object["questions"]),
        (&true.into(), &20_000.into())
    );
    let scored = object["scored_questions"].as_u64().unwrap();
    assert!(0 < scored && scored < 20_000, "{object}");
}

#[test]
fn a_batch_keeps_its_rows_and_goes_on_with_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (input, output, whole) = (path("in.jsonl"), path("out.jsonl"), path("whole.jsonl"));
    let prompts = |rows: usize| -> String {
        (0..rows)
            .map(|row| format!("{{\"prompt\": \"row {row}\"}}\n"))
            .collect()
    };
    let batch = |output: &str| {
        let options = [
            "--batch-size",
            "2",
            "-n",
            "8",
            "--temperature",
            "1",
            "--ignore-eos",
        ];
        Live::start(&[&["batch", &input, "-o", output], &options[..]].concat())
    };

    fs::write(&input, prompts(5_000)).unwrap();
    let mut live = batch(&output);
    live.until("a row", |_| {
        fs::metadata(&output).is_ok_and(|file| file.len() > 0)
    });
    live.interrupt();
    let run = live.end();
    assert_eq!(run.code, Some(130), "{run:?}");
    let kept = fs::read_to_string(&output).unwrap();
    let rows = kept
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(
        rows.clone().all(|row| row["completion"].is_string()),
        "{kept}"
    );
    let rows = rows.count();
    assert!(
        run.stderr.contains(&format!("{} rows to do", 5_000 - rows)),
        "{run:?}"
    );

    // The same rows and a few more, not all five thousand.
    fs::write(&input, prompts(rows + 4)).unwrap();
    assert_eq!(batch(&output).end().code, Some(0));
    assert_eq!(batch(&whole).end().code, Some(0));
    let continued = fs::read_to_string(&output).unwrap();
    assert!(continued.starts_with(&kept));
    assert_eq!(continued, fs::read_to_string(&whole).unwrap());
}
