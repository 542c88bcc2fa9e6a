//! What tables and caches of few bits change: logits, likeliest tokens and perplexity, against f32.
//!
//! `cargo bench -p bitnet-models --bench accuracy [-- [--csv] MODEL..]`; with `--profile dev` the numbers are the same.
//! MODEL is a size of random weights or a path; by default every fixture and the size `tiny`. Each model is measured on a
//! text that it wrote itself with everything in f32. Rows: `head` narrows the output head alone, on the same hidden
//! states; `table` the embedding too; `cache` keys and values; `both` is table and cache. `sums` narrows nothing: attention
//! without a cache sums in another order, which shows what the rounding of activations makes of a last bit.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../bitnet-models/tests/support/accuracy.rs"]
mod accuracy;
#[path = "../bitnet-models/tests/support/golden.rs"]
#[allow(dead_code, reason = "a bench uses a part of it")]
mod golden;

use std::path::Path;

use accuracy::{Deviation, states, written_by};
use bitnet_kernels::{CacheFormat, TableFormat};
use bitnet_models::Model;
use bitnet_models::decoder::{Decoder, LoadOptions};
use bitnet_models::weights::{Checkpoint, Random, SIZES, open};
use burn::tensor::{Device, Tensor};
use golden::{models, outputs, root, values};

/// Tokens of a text, if the context of the model has room for them.
const LENGTH: usize = 256;

fn main() {
    // Cargo adds `--bench` to the arguments.
    let (flags, mut names): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|name| name.starts_with("--"));
    if names.is_empty() {
        let fixtures = models().into_iter();
        names = fixtures
            .map(|path| root().join(path).display().to_string())
            .collect();
        names.push("tiny".into());
    }
    let report = Report {
        csv: flags.iter().any(|flag| flag == "--csv"),
    };
    report.header();
    for name in names {
        measure(&name, &report);
    }
}

fn measure(name: &str, report: &Report) {
    let checkpoint: Box<dyn Checkpoint> = if SIZES.iter().any(|size| size.name == name) {
        Box::new(Random::new(name, 0).expect("a size"))
    } else {
        open(Path::new(name)).expect("a checkpoint")
    };
    let load = |table| {
        let mut options = LoadOptions {
            table: Some(table),
            ..LoadOptions::default()
        };
        // The one fixture whose configuration does not say that its floats are masters.
        if name.ends_with("prequantized") {
            options.overrides.ternary = Some(true);
        }
        Model::from_checkpoint(&*checkpoint, &Device::default(), &options, &mut |_, _| ())
            .expect("a model")
    };
    let model = load(TableFormat::F32);
    let exact = model.decoder();
    if !exact.config().has_head {
        return;
    }
    let ids = written_by(exact, LENGTH.min(exact.config().max_positions));
    let hidden = states(exact, &ids, CacheFormat::F32);
    let expected = logits(exact, hidden.clone());
    let short = name.rsplit_once("models/").map_or(name, |(_, short)| short);
    let row = |what, format: String, found: &[f32]| {
        report.row(
            short,
            what,
            &format,
            &Deviation::of(&expected, found, &ids[1..]),
        );
    };
    let predicting = &ids[..ids.len() - 1];
    row("sums", "f32".into(), &outputs(exact, predicting));
    for cache in [CacheFormat::F16, CacheFormat::Int8] {
        let found = logits(exact, states(exact, &ids, cache));
        row("cache", cache.to_string(), &found);
    }
    for table in [
        TableFormat::F16,
        TableFormat::BF16,
        TableFormat::Int8,
        TableFormat::Int4,
    ] {
        let model = load(table);
        let narrow = model.decoder();
        row("head", table.to_string(), &logits(narrow, hidden.clone()));
        for cache in CacheFormat::ALL {
            let (what, format) = match cache {
                CacheFormat::F32 => ("table", table.to_string()),
                _ => ("both", format!("{table} {cache}")),
            };
            // What a user would choose: the defaults, and the smallest.
            let chosen = [
                (TableFormat::Int8, CacheFormat::F16),
                (TableFormat::Int4, CacheFormat::Int8),
            ];
            if cache == CacheFormat::F32 || chosen.contains(&(table, cache)) {
                row(what, format, &logits(narrow, states(narrow, &ids, cache)));
            }
        }
    }
}

fn logits(decoder: &Decoder, hidden: Tensor<2>) -> Vec<f32> {
    values(decoder.logits(hidden))
}

struct Report {
    csv: bool,
}

impl Report {
    fn header(&self) {
        if self.csv {
            println!(
                "model,what,format,rms,max,spread,kl_nats,top1,perplexity_f32,perplexity,perplexity_ratio"
            );
        } else {
            println!(
                "{:40} {:5} {:9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>10} {:>9}",
                "model",
                "what",
                "format",
                "rms/σ",
                "max/σ",
                "σ",
                "KL nats",
                "top 1",
                "ppl f32",
                "ppl ratio"
            );
        }
    }

    fn row(&self, model: &str, what: &str, format: &str, found: &Deviation) {
        let Deviation {
            max,
            rms,
            spread,
            divergence,
            agreement,
            perplexity: [exact, narrow],
        } = *found;
        let ratio = narrow / exact;
        if self.csv {
            println!(
                "{model},{what},{format},{rms:.3e},{max:.3e},{spread:.4},{divergence:.3e},{agreement:.4},{exact:.4},{narrow:.4},{ratio:.6}"
            );
        } else {
            println!(
                "{model:40} {what:5} {format:9} {rms:9.2e} {max:9.2e} {spread:9.4} {divergence:9.2e} {agreement:7.4} {exact:10.3} {ratio:9.6}"
            );
        }
    }
}
