//! A small recipe in a folder of its own.
//!
//! Each test file uses its part of this.

#![allow(dead_code, reason = "shared by test files")]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_train::TrainError;
use bitnet_train::metrics::{self, Row};
use bitnet_train::recipes::{self, Control, Progress, Summary, qat};
use burn::tensor::Device;
use tempfile::TempDir;

/// A recipe that takes seconds without optimization.
pub(crate) const SMALL: &str = r#"
recipe = "qat"
output = "RUN/out"
steps = 6
packed_table = "f32"
[data]
folder = "RUN/data"
sources = ["stories:40"]
vocab_size = 300
validation = 0.1
[model]
hidden_size = 32
intermediate_size = 48
n_layers = 2
n_heads = 2
n_kv_heads = 1
context = 32
[batch]
rows = 4
length = 16
[optimizer]
lr = 1e-2
[schedule]
kind = "two_stage"
warmup = 1
[log]
every = 1
trits_every = 2
[validation]
every = 2
batches = 2
[checkpoint]
every = 3
"#;

/// A folder for a run with its recipe in a file.
#[derive(Debug)]
pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self::of(SMALL)
    }

    /// Of this recipe, in which RUN stands for the folder.
    pub(crate) fn of(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = text.replace("RUN", folder.path().to_str().expect("what a run writes"));
        fs::write(folder.path().join("recipe.toml"), text).expect("what a run writes");
        Self(folder)
    }

    pub(crate) fn recipe(&self, settings: &[&str]) -> Result<Box<dyn recipes::Recipe>, TrainError> {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.into()).collect();
        recipes::open(&self.0.path().join("recipe.toml"), &settings)
    }

    /// Trains, and stops after so many steps of this call.
    pub(crate) fn train_until(
        &self,
        settings: &[&str],
        resume: bool,
        steps: u64,
    ) -> Result<Summary, TrainError> {
        let stop = AtomicBool::new(false);
        let mut count = 0;
        let mut progress = |_: &Progress| {
            count += 1;
            stop.store(count == steps, Ordering::Relaxed);
        };
        let control = Control {
            resume,
            stop: &stop,
            progress: &mut progress,
        };
        self.recipe(settings)?.train(&[Device::flex()], control)
    }

    pub(crate) fn train(&self, settings: &[&str], resume: bool) -> Result<Summary, TrainError> {
        self.train_until(settings, resume, u64::MAX)
    }

    pub(crate) fn output(&self, name: &str) -> PathBuf {
        self.0.path().join("out").join(name)
    }

    /// Everything that is written down but the speed.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = metrics::read(&self.output(qat::METRICS)).expect("what a run writes");
        for row in &mut rows {
            row.tokens_per_second = 0.0;
        }
        rows
    }
}

/// A model of the fixtures, or of another set of the same layout (`BITNET_FIXTURES`).
pub(crate) fn model_fixture(name: &str) -> PathBuf {
    let default = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../bitnet-models/tests/fixtures"
    );
    let root = std::env::var_os("BITNET_FIXTURES").map_or_else(|| default.into(), PathBuf::from);
    root.join("models").join(name)
}
