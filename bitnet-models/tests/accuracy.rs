//! What tables and caches of few bits may cost: bounds that follow from how they round, on every fixture and on random
//! weights, never from what was measured. `benches/accuracy.rs` measures.

#![cfg(feature = "flex")]

#[path = "support/accuracy.rs"]
mod accuracy;
#[path = "support/golden.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod golden;

use accuracy::{Deviation, states, written_by};
use bitnet_kernels::{CacheFormat, CacheTensor, TableFormat, cached_attention};
use bitnet_models::Model;
use bitnet_models::ModelError;
use bitnet_models::decoder::{Decoder, LoadOptions};
use bitnet_models::layers::Table;
use bitnet_models::weights::Random;
use burn::tensor::{Device, Distribution, Int, Tensor};
use golden::{load_with, models, values};

/// Unit roundoff of f32: half the distance from 1 to the next number.
const F32: f64 = 1.0 / (1 << 24) as f64;

type Load = Box<dyn Fn(TableFormat) -> Result<Model, ModelError>>;

/// Every fixture and random weights, loadable with any table.
fn every_model(device: &Device) -> Vec<(String, Load)> {
    let with = |table| LoadOptions {
        table: Some(table),
        ..LoadOptions::default()
    };
    let fixture = |path: String| {
        let (name, device) = (path.clone(), device.clone());
        let load = move |table| load_with(&path, &device, with(table));
        (name, Box::new(load) as Load)
    };
    let device = device.clone();
    let random = move |table| {
        let weights = Random::new("tiny", 0)?;
        Model::from_checkpoint(&weights, &device, &with(table), &mut |_, _| ())
    };
    let mut all: Vec<(String, Load)> = models().into_iter().map(fixture).collect();
    all.push(("random:tiny".into(), Box::new(random)));
    all
}

fn head(decoder: &Decoder) -> &Table {
    decoder
        .lm_head
        .as_ref()
        .unwrap_or(&decoder.model.embed_tokens)
}

/// The matrix that a table stands for.
fn matrix(table: &Table, device: &Device) -> Vec<f32> {
    let [rows, _] = table.dims();
    let ids = Tensor::<1, Int>::arange(0..rows as i64, device);
    values(table.forward(ids.unsqueeze()))
}

/// Bounds of `|Δw|` for each number of a row, in groups that share one: from how the format rounds. The scale of int4 is
/// the one with the least squared error of a few, so the squares of a group's errors come to no more than with its number
/// of largest magnitude at -8, which is a step at most for each. That bounds a group's norm and not its numbers.
fn row_errors(format: TableFormat, row: &[f32]) -> Vec<f64> {
    let largest = |row: &[f32]| f64::from(row.iter().fold(0f32, |most, w| most.max(w.abs())));
    let int8 = 0.5 * largest(row) / 127.0;
    let error = |w: f32| match format {
        TableFormat::F32 => 0.0,
        TableFormat::F16 => (f64::from(w).abs() / 2f64.powi(11)).max(2f64.powi(-25)),
        TableFormat::BF16 => f64::from(w).abs() / 2f64.powi(8),
        TableFormat::Int8 => int8,
        TableFormat::Int4 => unreachable!("bounded by group"),
    };
    if format == TableFormat::Int4 {
        let groups = row.chunks(32);
        return groups
            .map(|group| largest(group) / 8.0 * (group.len() as f64).sqrt())
            .collect();
    }
    row.iter().map(|&w| error(w)).collect()
}

/// Norms of `x` that go with [`row_errors`]: `|Δw · x| ≤ Σ error · norm`.
fn norms(format: TableFormat, x: &[f32]) -> Vec<f64> {
    let size = if format == TableFormat::Int4 { 32 } else { 1 };
    let square = |group: &[f32]| group.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
    x.chunks(size).map(|group| square(group).sqrt()).collect()
}

#[test]
fn a_narrow_table_moves_numbers_and_logits_no_further_than_its_steps_allow() {
    let device = Device::flex();
    for (name, load) in every_model(&device) {
        let exact = load(TableFormat::F32).unwrap();
        let exact = exact.decoder();
        if !exact.config().has_head {
            continue;
        }
        let ids = written_by(exact, 12);
        let hidden = states(exact, &ids, CacheFormat::F32);
        let (weights, logits) = (
            matrix(head(exact), &device),
            values(exact.logits(hidden.clone())),
        );
        let [vocab, columns] = head(exact).dims();
        let states = values(hidden.clone());
        for format in TableFormat::ALL {
            let narrow = load(format).unwrap();
            let narrow = narrow.decoder();
            let found = (
                matrix(head(narrow), &device),
                values(narrow.logits(hidden.clone())),
            );
            let norms_of_states: Vec<_> = states
                .chunks_exact(columns)
                .map(|h| norms(format, h))
                .collect();
            for (row, w) in weights.chunks_exact(columns).enumerate() {
                let errors = row_errors(format, w);
                // Codes and scales are computed in f32, so ties may fall to the other side.
                let slack = 1.0 + 1e-4;
                let moved: Vec<f32> = w
                    .iter()
                    .zip(&found.0[row * columns..])
                    .map(|(a, b)| a - b)
                    .collect();
                for (moved, error) in norms(format, &moved).iter().zip(&errors) {
                    assert!(
                        *moved <= error * slack,
                        "{name}, {format}: row {row}: {moved} > {error}"
                    );
                }
                for (at, h) in states.chunks_exact(columns).enumerate() {
                    let norms = &norms_of_states[at];
                    let bound: f64 = errors.iter().zip(norms).map(|(e, h)| e * h).sum();
                    // Each product and each sum of the two dot products rounds once more.
                    let size: f64 = w.iter().zip(h).map(|(w, h)| f64::from(w * h).abs()).sum();
                    let rounding = 4.0 * columns as f64 * F32 * (size + bound);
                    let place = at * vocab + row;
                    let moved = f64::from((logits[place] - found.1[place]).abs());
                    assert!(
                        moved <= bound * slack + rounding,
                        "{name}, {format}: logit {row} of position {at}: {moved} > {bound}"
                    );
                }
            }
        }
    }
}

/// With `|Δk| ≤ e` for each number of a key, a score moves by `ε ≤ scale · e · Σ|q|`, so the weights of the softmax move by
/// factors within `exp(±2ε)` and the output by `(exp(2ε) - 1) · max|v|` and by what the values themselves move.
#[test]
fn a_narrow_cache_moves_attention_no_further_than_its_steps_allow() {
    let device = Device::flex();
    let (n_heads, seq, head_dim) = (4, 24, 32);
    let scale = (head_dim as f64).powf(-0.5);
    device.seed(1);
    let random = |heads| {
        let shape = [1, heads, seq, head_dim];
        Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device)
    };
    let (q, k, v) = (random(n_heads), random(2), random(2));
    let attend = |format| {
        let cache = CacheTensor::new(format, 1, 2, seq, head_dim, &device);
        let starts = Tensor::<1, Int>::zeros([1], &device);
        values(cached_attention(q.clone(), k.clone(), v.clone(), cache, starts, scale).0)
    };
    let exact = attend(CacheFormat::F32);
    let largest =
        |x: &Tensor<4>| f64::from(values(x.clone()).iter().fold(0f32, |m, x| m.max(x.abs())));
    let query: f64 = values(q.clone())
        .chunks_exact(head_dim)
        .map(|row| row.iter().map(|&x| f64::from(x.abs())).sum())
        .fold(0.0, f64::max);
    let mut before = 0.0;
    for format in CacheFormat::ALL {
        let relative = match format {
            CacheFormat::F32 => 0.0,
            CacheFormat::F16 => 2f64.powi(-11),
            CacheFormat::Int8 => 0.5 / 127.0,
        };
        let (key, value) = (relative * largest(&k), relative * largest(&v));
        let moved_weights = (2.0 * scale * key * query).exp() - 1.0;
        let bound = value + moved_weights * (largest(&v) + value);
        let moved = exact.iter().zip(attend(format));
        let moved = moved
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, f64::max);
        assert!(moved <= bound + 1e-5, "{format}: {moved} > {bound}");
        assert!(moved >= before, "{format} is narrower than the one before");
        before = moved;
    }
}

#[test]
fn the_same_logits_have_no_deviation_and_others_have() {
    let exact = [0.0, 2.0, 1.0, -1.0, 3.0, 0.0];
    let same = Deviation::of(&exact, &exact, &[1, 1]);
    assert_eq!(
        (same.max, same.rms, same.divergence, same.agreement),
        (0.0, 0.0, 0.0, 1.0)
    );
    assert_eq!(same.perplexity[0], same.perplexity[1]);
    // Positions of logits 0 and ln 3: p = 1/4, 3/4; turned round, q = 3/4, 1/4. Σ p ln(p/q) = ½ ln 3.
    let three = 3f32.ln();
    let turned = Deviation::of(&[0.0, three], &[three, 0.0], &[1]);
    assert!((turned.divergence - 3f64.ln() / 2.0).abs() < 1e-6);
    assert_eq!(turned.agreement, 0.0);
    assert!((turned.spread - 3f64.ln() / 2.0).abs() < 1e-6);
    assert!((turned.rms - 2.0).abs() < 1e-6 && (turned.max - 2.0).abs() < 1e-6);
    assert!((turned.perplexity[0] - 4.0 / 3.0).abs() < 1e-6);
    assert!((turned.perplexity[1] - 4.0).abs() < 1e-6);
}
