//! Trains a ternary model from nothing: built-in stories, a tokenizer, a few dozen steps, then one packed file that writes.
//! `-- --full` does all of `examples/recipes/tiny.toml` (build with `--release` for that).

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use bitnet_burn::train::recipes::{self, Control, Progress};
use bitnet_burn::{GenerateOptions, Model};
use burn::tensor::Device;

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/recipes/tiny.toml");

/// What makes the recipe a matter of seconds, without optimization too.
const QUICK: &[&str] = &[
    "steps=24",
    "schedule.warmup=4",
    "data.sources=[\"stories:200\"]",
    "data.vocab_size=500",
    "model.hidden_size=64",
    "model.intermediate_size=128",
    "model.n_layers=2",
    "batch.rows=4",
    "batch.length=32",
    "validation.every=12",
    "validation.batches=4",
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let mut settings = vec![
        format!("output={}", at("run")),
        format!("data.folder={}", at("data")),
    ];
    if !std::env::args().any(|argument| argument == "--full") {
        settings.extend(QUICK.iter().map(|&setting| setting.to_owned()));
    }

    let recipe = recipes::open(Path::new(RECIPE), &settings)?;
    let plan = recipe.plan()?;
    let (projections, rest) = plan.parameters;
    println!(
        "{projections} ternary weights, {rest} others, {} tokens to see",
        plan.tokens
    );

    let device = Device::flex();
    let summary = recipe.train(
        std::slice::from_ref(&device),
        Control {
            resume: false,
            stop: &AtomicBool::new(false),
            progress: &mut |progress: &Progress| {
                if progress.step.is_multiple_of(8) {
                    println!("step {:4}  loss {:.3}", progress.step, progress.loss);
                }
            },
        },
    )?;
    println!("validation loss {:?}", summary.best);

    let packed = summary.packed.ok_or("nobody stopped the training")?;
    let model = Model::load(&packed, &device)?;
    let mut options = GenerateOptions {
        max_new_tokens: 40,
        ..GenerateOptions::default()
    };
    options.sampling.temperature = 0.7;
    let [bytes, ..] = model.decoder().bytes();
    println!("{bytes} bytes of projections, which write:");
    println!(
        "Once upon a time{}",
        model.complete("Once upon a time", &options)?
    );
    Ok(())
}
