//! The command `train`, as a user meets it: a plan, a run that is interrupted and resumed, and what is refused.

mod support;

use std::fs;
use std::path::Path;

use support::{Run, program, run};

const RECIPE: &str = r#"
recipe = "qat"
output = "run"
steps = 4
[data]
folder = "data"
sources = ["stories:40"]
vocab_size = 300
validation = 0.1
[model]
hidden_size = 32
intermediate_size = 48
n_layers = 1
n_heads = 2
context = 32
[batch]
rows = 2
length = 16
[optimizer]
lr = 1e-2
"#;

fn run_in(folder: &Path, arguments: &[&str]) -> Run {
    fs::write(folder.join("recipe.toml"), RECIPE).expect("a folder");
    let start = ["train", "--device", "cpu", "--config", "recipe.toml"];
    let mut command = program(&[&start[..], arguments].concat());
    command
        .current_dir(folder)
        .output()
        .expect("the program starts")
        .into()
}

#[test]
fn a_recipe_becomes_a_model_that_writes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = run_in(folder.path(), &["--dry-run"]);
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert!(
        plan.stdout.contains("tokens/s") && plan.stdout.contains("parameters"),
        "{plan:?}"
    );
    assert!(!folder.path().join("run").exists());

    let trained = run_in(folder.path(), &["--set", "seed=1", "optimizer.lr=5e-3"]);
    assert_eq!(trained.code, Some(0), "{trained:?}");
    assert!(
        trained.stdout.starts_with("run: 4 steps, validation loss "),
        "{trained:?}"
    );
    let packed = folder.path().join("run/model.bpk");
    let written = run(&[
        "infer",
        "--model",
        packed.to_str().unwrap(),
        "--prompt",
        "Once",
        "-n",
        "3",
        "--device",
        "cpu",
    ]);
    assert_eq!(written.code, Some(0), "{written:?}");

    let again = run_in(folder.path(), &["--set", "seed=1"]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("found a run in it"), "{again:?}");
    let longer = run_in(folder.path(), &["--set", "seed=1", "steps=6", "--resume"]);
    assert!(
        longer.code == Some(0) && longer.stdout.starts_with("run: 6 steps"),
        "{longer:?}"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_with_a_checkpoint_to_go_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("recipe.toml"), RECIPE).unwrap();
    let (recipe, output) = (at("recipe.toml"), format!("output={}", at("run")));
    let data = format!("data.folder={}", at("data"));
    let start = [
        "train",
        "--device",
        "cpu",
        "--config",
        &recipe,
        "--set",
        &output,
        &data,
        "log.every=1",
    ];
    let mut live = support::live::Live::start(&[&start[..], &["steps=1000000"]].concat());
    live.until("a line of metrics", |_| {
        fs::read_to_string(at("run/metrics.jsonl")).is_ok_and(|text| text.contains('\n'))
    });
    live.interrupt();
    let stopped = live.end();
    assert_eq!(stopped.code, Some(130), "{stopped:?}");
    assert!(stopped.stderr.contains("--resume goes on"), "{stopped:?}");
    let steps: u64 = stopped.stdout.split(' ').nth(1).unwrap().parse().unwrap();
    let steps = format!("steps={}", steps + 1);
    let resumed = run(&[&start[..], &[&steps, "--resume"]].concat());
    assert!(
        resumed.code == Some(0) && Path::new(&at("run/model.bpk")).exists(),
        "{resumed:?}"
    );
}

#[test]
fn a_mistake_in_the_recipe_is_told_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run_in(folder.path(), &["--set", "model.n_heads=5"]);
    assert_eq!(
        (refused.code, refused.stdout.as_str()),
        (Some(1), ""),
        "{refused:?}"
    );
    assert!(
        refused
            .stderr
            .contains("recipe.toml: `model.n_heads`: found 5"),
        "{refused:?}"
    );
    let missing = run(&["train", "--config", "nowhere.toml"]);
    assert!(
        missing.code == Some(1) && missing.stderr.contains("nowhere.toml"),
        "{missing:?}"
    );
}

#[test]
fn the_recipes_of_the_repository_are_recipes() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/recipes");
    for entry in fs::read_dir(recipes).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            bitnet_burn::train::recipes::open(&path, &[]).is_ok(),
            "{}",
            path.display()
        );
    }
}
