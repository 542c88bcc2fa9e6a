//! What `inspect` counts: bits, bytes, trits, and what is wrong.
//!
//! A tensor is read, counted and dropped before the next one.

use std::collections::HashMap;

use anyhow::Context;
use bitnet_burn::kernels::packing::words::words_per_row;
use bitnet_burn::kernels::quantize::ternarize;
use bitnet_burn::kernels::{CacheFormat, Histogram, TableFormat, WeightQuantizer};
use bitnet_burn::models::decoder::DecoderConfig;
use bitnet_burn::models::weights::{Checkpoint, FloatKind, Floats, Matrix, Role, TensorInfo};

/// Bytes in the file per weight of the projections, their scales included, in bits; 0 if there is no file.
pub(crate) fn bits_per_weight(checkpoint: &dyn Checkpoint, config: &DecoderConfig) -> f64 {
    let mut bytes: HashMap<&str, usize> = HashMap::new();
    for tensor in checkpoint.tensors() {
        let name = tensor.name.as_str();
        let parts = [".codes", ".scale", "_scale"];
        let weight = parts.iter().find_map(|part| name.strip_suffix(part));
        *bytes.entry(weight.unwrap_or(name)).or_default() += tensor.bytes;
    }
    let slots = config.slots();
    let projections = slots
        .iter()
        .filter(|slot| matches!(slot.role, Role::Linear { .. }));
    let held: usize = projections
        .filter_map(|slot| bytes.get(slot.name.as_str()))
        .sum();
    8.0 * held as f64 / config.parameters().0 as f64
}

/// Bytes of the loaded weights with tables of this format.
pub(super) fn model_bytes(
    checkpoint: &dyn Checkpoint,
    config: &DecoderConfig,
    table: TableFormat,
) -> u64 {
    let held: HashMap<&str, &TensorInfo> = checkpoint
        .tensors()
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let words = |slot: &str, role: Role| match role {
        Role::Vector(len) => len,
        Role::Table { rows, columns } => {
            rows * table.words_per_row(columns) + table.scales(rows, columns)
        }
        Role::Linear { d_out, d_in } => {
            let is_float = |tensor: &&TensorInfo| FloatKind::from_name(&tensor.encoding).is_some();
            match config.is_ternary(slot) {
                None if held.get(slot).is_some_and(is_float) => d_out * d_in,
                granularity => {
                    let codes = match held.get(format!("{slot}.codes").as_str()) {
                        Some(codes) => codes.bytes / 4, // used as they are in a packed file
                        None => d_out * words_per_row(d_in),
                    };
                    codes + granularity.unwrap_or_default().count(d_out, d_in)
                }
            }
        }
    };
    let slots = config.slots();
    let words = slots.iter().map(|slot| words(&slot.name, slot.role) as u64);
    4 * words.sum::<u64>()
}

/// Bytes of a cache of so many positions.
pub(super) fn cache_bytes(config: &DecoderConfig, format: CacheFormat, positions: usize) -> u64 {
    let row = format.words(config.head_dim) + usize::from(format.scaled());
    // Keys and values, each in every layer.
    4 * (2 * config.n_layers * config.n_kv_heads * row) as u64 * positions as u64
}

/// Trits of each layer's projections. Layers without ternary projections have none.
pub(super) fn histograms(
    checkpoint: &dyn Checkpoint,
    config: &DecoderConfig,
) -> anyhow::Result<Vec<Histogram>> {
    let mut layers = vec![Histogram::default(); config.n_layers];
    for slot in config.slots() {
        let Role::Linear { d_out, d_in } = slot.role else {
            continue;
        };
        let layer = slot
            .name
            .split('.')
            .find_map(|part| part.parse::<usize>().ok());
        let Some(sum) = layer.and_then(|layer| layers.get_mut(layer)) else {
            continue;
        };
        let packed = match checkpoint.matrix(&slot.name, d_out, d_in)? {
            Matrix::Ternary(packed) => packed,
            Matrix::Float(floats) => match config.is_ternary(&slot.name) {
                Some(granularity) => {
                    let quantizer = WeightQuantizer::AbsMean;
                    ternarize(&floats.to_f32(), d_out, d_in, quantizer, granularity)
                        .with_context(|| format!("cannot make `{}` ternary", slot.name))?
                }
                None => continue,
            },
        };
        let found = packed.histogram();
        sum.minus += found.minus;
        sum.zero += found.zero;
        sum.plus += found.plus;
    }
    Ok(layers)
}

/// The first problem of each tensor that the model needs. `checked` is told the number of tensors read and of all.
pub(crate) fn problems(
    checkpoint: &dyn Checkpoint,
    config: &DecoderConfig,
    checked: &mut dyn FnMut(usize, usize),
) -> Vec<String> {
    let slots = config.slots();
    let all = slots.len();
    let read = slots.into_iter().map(|slot| match slot.role {
        Role::Vector(len) => checkpoint
            .floats(&slot.name, &[len])
            .map_err(|error| error.to_string())
            .and_then(|floats| finite(&slot.name, &floats)),
        Role::Linear { d_out, d_in }
        | Role::Table {
            rows: d_out,
            columns: d_in,
        } => match checkpoint.matrix(&slot.name, d_out, d_in) {
            Err(error) => Err(error.to_string()),
            Ok(Matrix::Float(floats)) => finite(&slot.name, &floats),
            Ok(Matrix::Ternary(packed)) => {
                let mut scales = packed.scale().values().iter();
                match scales.position(|scale| !scale.is_finite()) {
                    Some(at) => Err(format!("{}: scale {at} is not finite", slot.name)),
                    None => Ok(()),
                }
            }
        },
    });
    let counted = read.enumerate().inspect(|(done, _)| checked(done + 1, all));
    counted.filter_map(|(_, read)| read.err()).collect()
}

/// Reads in pieces: an embedding in f32 can be larger than the model.
fn finite(name: &str, floats: &Floats<'_>) -> Result<(), String> {
    const PIECE: usize = 1 << 16;
    let mut values = vec![0.0; PIECE.min(floats.len())];
    for start in (0..floats.len()).step_by(PIECE) {
        let len = PIECE.min(floats.len() - start);
        floats.read(start..start + len, &mut values[..len]);
        if let Some(at) = values[..len].iter().position(|value| !value.is_finite()) {
            let at = start + at;
            return Err(format!("{name}: the number at index {at} is not finite"));
        }
    }
    Ok(())
}
