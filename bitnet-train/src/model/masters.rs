//! Float weights on the host, fresh or of a decoder, as a checkpoint.
//!
//! Invariant: fresh numbers depend on the seed, the name and the place of a weight alone, so that any process makes the
//! same model. Normal numbers are Box and Muller's (1958).

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bitnet_models::ModelError;
use bitnet_models::decoder::Decoder;
use bitnet_models::weights::{
    Checkpoint, ConfigMap, FloatKind, Floats, Matrix, Role, Slot, TensorInfo,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use xxhash_rust::xxh3::xxh3_64;

use crate::data::keyed;

/// Float weights in memory.
#[derive(Debug)]
pub struct Masters {
    config: ConfigMap,
    generation: ConfigMap,
    /// Where the tokenizer lies.
    folder: PathBuf,
    /// f32, little endian, by Hugging Face name.
    weights: HashMap<String, Vec<u8>>,
}

impl Masters {
    /// Of a decoder, with the configuration it was made with and a folder that holds its tokenizer.
    pub fn of(decoder: &Decoder, config: &ConfigMap, folder: &Path) -> Self {
        let mut collector = Collector::default();
        decoder.visit(&mut collector);
        Self::new(config, folder, collector.weights)
    }

    /// Fresh ones: norms of one, everything else from a normal distribution. Numbers depend on the seed, the name and the
    /// place alone.
    pub fn fresh(slots: &[Slot], config: &ConfigMap, folder: &Path, std: f64, seed: u64) -> Self {
        let weights = slots.iter().map(|slot| {
            let key = keyed(seed, xxh3_64(slot.name.as_bytes()));
            let normal = |count: usize| -> Vec<f32> {
                (0..count as u64)
                    .map(|at| (std * gaussian(key, at)) as f32)
                    .collect()
            };
            let values = match slot.role {
                Role::Vector(len) => vec![1.0; len],
                Role::Linear { d_out, d_in } => normal(d_out * d_in),
                Role::Table { rows, columns } => normal(rows * columns),
            };
            (slot.name.clone(), bytes(&values))
        });
        Self::new(config, folder, weights.collect())
    }

    fn new(config: &ConfigMap, folder: &Path, weights: HashMap<String, Vec<u8>>) -> Self {
        let mut generation = ConfigMap::new();
        for key in ["bos_token_id", "eos_token_id"] {
            if let Some(id) = config.get(key) {
                generation.insert(key.into(), id.clone());
            }
        }
        Self {
            config: config.clone(),
            generation,
            folder: folder.to_path_buf(),
            weights,
        }
    }

    /// The first of these tensors that has a number that is not finite.
    pub fn first_not_finite<'s>(&self, slots: &'s [Slot]) -> Option<&'s str> {
        let damaged = |bytes: &Vec<u8>| {
            let (numbers, _) = bytes.as_chunks();
            numbers
                .iter()
                .any(|&number| !f32::from_le_bytes(number).is_finite())
        };
        let mut names = slots.iter().map(|slot| slot.name.as_str());
        names.find(|name| self.weights.get(*name).is_some_and(damaged))
    }
}

impl Checkpoint for Masters {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn format(&self) -> &'static str {
        "masters"
    }

    fn config(&self) -> &ConfigMap {
        &self.config
    }

    fn generation(&self) -> &ConfigMap {
        &self.generation
    }

    fn tensors(&self) -> &[TensorInfo] {
        &[]
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        let count = shape.iter().product::<usize>();
        let held = self.weights.get(name);
        match held.filter(|bytes| bytes.len() == 4 * count) {
            Some(bytes) => Ok(Floats {
                kind: FloatKind::F32,
                shape: shape.to_vec(),
                bytes: Cow::Borrowed(bytes),
            }),
            None => Err(ModelError::Tensor {
                path: self.folder.clone(),
                name: name.to_owned(),
                found: held.map_or_else(|| "none".into(), |held| format!("{} bytes", held.len())),
                expected: format!("{shape:?}"),
                way_out: "The configuration is that of another model".into(),
            }),
        }
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        self.floats(name, &[d_out, d_in]).map(Matrix::Float)
    }
}

/// All float parameters by the names of the published checkpoints.
#[derive(Default)]
struct Collector {
    path: Vec<String>,
    weights: HashMap<String, Vec<u8>>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _: &str) {
        // Burn's norms say gamma where the checkpoints say weight.
        let name = if name == "gamma" { "weight" } else { name };
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values: Vec<f32> = param.val().into_data().iter().collect();
        self.weights.insert(self.path.join("."), bytes(&values));
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A number from the standard normal distribution, by the formula of Box and Muller (1958).
fn gaussian(key: u64, place: u64) -> f64 {
    // 53 bits each, in 0..1; the first never 0.
    let unit = |place| (keyed(key, place) >> 11) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (1.0 - unit(2 * place), unit(2 * place + 1));
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_weights_have_mean_zero_and_variance_one_times_their_deviation() {
        let numbers: Vec<f64> = (0..100_000).map(|at| gaussian(5, at)).collect();
        let mean = numbers.iter().sum::<f64>() / 1e5;
        let variance = numbers.iter().map(|x| x * x).sum::<f64>() / 1e5;
        // Three standard errors.
        assert!(
            mean.abs() < 0.01 && (variance - 1.0).abs() < 0.0135,
            "{mean}, {variance}"
        );
    }
}
