//! What `bench` says about memory. Rates differ from run to run and are not tested; bytes do not.

mod support;

use std::path::Path;

use serde_json::Value;
use support::{checkpoint, run};

/// One object for each case.
fn bench(arguments: &[&str]) -> Vec<Value> {
    let fixed = ["bench", "--json", "--new", "2", "--repeat", "1", "-q"];
    let run = run(&[&fixed, arguments].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let lines = run.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn number(case: &Value, key: &str) -> f64 {
    let number = case[key].as_f64();
    number.unwrap_or_else(|| panic!("`{key}` is no number in {case}"))
}

#[test]
fn a_token_reads_the_weights_once_for_all_rows_and_the_past_of_its_own_row() {
    let cases = bench(&[
        "--model",
        "random:tiny",
        "--prompt",
        "4,12",
        "--batch",
        "1,2",
    ]);
    let bytes: Vec<f64> = cases
        .iter()
        .map(|case| number(case, "bytes_per_token"))
        .collect();
    // 4 layers of 196,608 trits and 7 scales; int8 of [258, 128] with a scale a row; 25 norms of 128 numbers, of which
    // 4 are three times as long, less the two that are not there; f16 keys and values of 4 layers, 2 heads of 32.
    let projections = 4.0 * (196_608.0 / 4.0 + 7.0 * 4.0);
    let weights = projections + 258.0 * (128.0 + 4.0) + 4.0 * 128.0 * (4.0 * 6.0 + 1.0);
    let past = |held: f64| held * 4.0 * 2.0 * 2.0 * 32.0 * 2.0;
    let expected = [
        weights + past(5.0),
        weights + past(13.0),
        weights / 2.0 + past(5.0),
        weights / 2.0 + past(13.0),
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn a_head_of_its_own_is_read_whole_and_the_embedding_a_row() {
    let tied = checkpoint();
    for (folder, rows) in [
        (tied.clone(), 0),
        (tied.with_file_name("tiny-2b4t-untied-sharded"), 1),
    ] {
        let [vocab, hidden] = dims(&folder);
        let bytes = ["f16", "f32"].map(|table| {
            let model = folder.to_str().expect("a readable name");
            number(
                &bench(&["--model", model, "--table", table, "--prompt", "4"])[0],
                "bytes_per_token",
            )
        });
        let numbers = (vocab + rows) * hidden;
        assert_eq!(bytes[1] - bytes[0], (2 * numbers) as f64, "{folder:?}");
    }
}

fn dims(folder: &Path) -> [u64; 2] {
    let config = std::fs::read_to_string(folder.join("config.json")).expect("a fixture");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    ["vocab_size", "hidden_size"].map(|key| config[key].as_u64().expect("a size"))
}

#[test]
fn the_share_of_the_bandwidth_follows_from_its_parts() {
    for case in bench(&[
        "--model",
        "random:tiny",
        "--prompt",
        "4",
        "--cpu-threads",
        "1,2",
    ]) {
        let share = number(&case, "bandwidth_share");
        let rate = number(&case, "bytes_per_token") * number(&case, "decode_tokens_per_second");
        let parts = rate / 1e9 / number(&case, "read_gb_per_s");
        assert!((share / parts - 1.0).abs() < 1e-9, "{case}");
        assert!(0.0 < share && share < 2.0, "{case}");
        // Nothing of 256 MB that were read counts: the model is a thousandth of them.
        if cfg!(target_os = "linux") {
            assert!(number(&case, "peak_bytes") < 200e6, "{case}");
        }
    }
}

#[test]
fn the_table_has_a_column_for_the_share() {
    let run = run(&[
        "bench",
        "--model",
        "random:tiny",
        "--new",
        "2",
        "--repeat",
        "1",
        "--prompt",
        "4",
    ]);
    let mut lines = run.stdout.lines();
    let (header, row) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    assert!(header.ends_with("GB/s  of read"), "{run:?}");
    assert!(row.ends_with(" %"), "{run:?}");
}
