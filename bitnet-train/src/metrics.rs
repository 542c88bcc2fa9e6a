//! What a run writes down: a JSON object a line, every few steps.
//!
//! A resumed run drops the lines behind its checkpoint, so that the file reads as that of an unbroken run. Of ternary
//! weights it tells how many are −1, 0 and 1, how many changed since they were last looked at, and how their scales moved.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bitnet_models::ModelError;
use bitnet_models::decoder::{Decoder, PROJECTIONS};
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Steps done.
    pub step: u64,
    /// Ids seen.
    pub tokens: u64,
    /// Mean loss of the step's batch, before the step.
    pub loss: f64,
    /// What the loss consists of, where it has parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    /// Norm of all gradients, before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// How far weights were quantized, 0 to 1.
    pub blend: f64,
    /// Ids learned in a second, since the line before.
    pub tokens_per_second: f64,
    /// Mean loss on the validation data, after the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// The ternary weights, after the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trits: Option<TritMetrics>,
}

/// The parts of a distillation's loss, each before its weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Of the targets.
    pub cross_entropy: f64,
    /// Of the student's logits from the teacher's.
    pub logits: f64,
    /// Of its attention relations.
    pub attention: f64,
}

/// Ternary weights in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TritMetrics {
    /// Share of −1.
    pub minus: f64,
    /// Share of 0.
    pub zero: f64,
    /// Share of 1.
    pub plus: f64,
    /// Share that is another than when last looked at.
    pub flipped: f64,
    /// Mean of the scales.
    pub scale: f64,
    /// Mean of `|scale / scale when last looked at − 1|`.
    pub scale_drift: f64,
}

/// The file of a run.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    rows: Vec<Row>,
    since: Instant,
    tokens: u64,
}

impl Log {
    /// Opens the file, keeping its lines up to `step`.
    ///
    /// # Errors
    ///
    /// A line that is none of ours, and the system's.
    pub fn open(path: &Path, step: u64, tokens: u64) -> Result<Self, TrainError> {
        let mut rows = match path.exists() {
            true => read(path)?,
            false => Vec::new(),
        };
        rows.retain(|row| row.step <= step);
        let mut log = Self {
            path: path.to_path_buf(),
            file: File::create(path).map_err(TrainError::io("create", path))?,
            rows: Vec::new(),
            since: Instant::now(),
            tokens,
        };
        for row in rows {
            log.write(row)?;
        }
        Ok(log)
    }

    /// Ids learned in a second since this was last asked.
    pub fn speed(&mut self, tokens: u64) -> f64 {
        let now = Instant::now();
        let seconds = now.duration_since(self.since).as_secs_f64().max(1e-9);
        let speed = (tokens - self.tokens) as f64 / seconds;
        (self.since, self.tokens) = (now, tokens);
        speed
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn write(&mut self, row: Row) -> Result<(), TrainError> {
        let line = serde_json::to_string(&row).expect("numbers under names");
        writeln!(self.file, "{line}").map_err(TrainError::io("write", &self.path))?;
        self.rows.push(row);
        Ok(())
    }

    /// All lines.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

/// The lines of a file.
///
/// # Errors
///
/// A line that is none of ours, and the system's. The last line may be cut off, as a run that was killed leaves it.
pub fn read(path: &Path) -> Result<Vec<Row>, TrainError> {
    let file = File::open(path).map_err(TrainError::io("open", path))?;
    let lines: Vec<String> = BufReader::new(file)
        .lines()
        .collect::<Result<_, _>>()
        .map_err(TrainError::io("read", path))?;
    let mut rows = Vec::with_capacity(lines.len());
    for (number, line) in (1..).zip(&lines) {
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(_) if number == lines.len() as u64 => {}
            Err(error) => {
                return Err(TrainError::Line {
                    path: path.to_path_buf(),
                    line: number,
                    found: error.to_string(),
                    expected: "metrics of a training run",
                    way_out: "Move the file away",
                });
            }
        }
    }
    Ok(rows)
}

/// Replaces a file by renaming, so that it is never half written.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), TrainError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    fs::write(&partial, content).map_err(TrainError::io("write", &partial))?;
    fs::rename(&partial, path).map_err(TrainError::io("write", path))
}

/// The ternary weights of a model at one time.
#[derive(Debug)]
pub struct Trits {
    projections: Vec<Projection>,
}

#[derive(Debug)]
struct Projection {
    words: Vec<u32>,
    scales: Vec<f32>,
    /// −1, 0, 1.
    counts: [usize; 3],
}

impl Trits {
    /// Those of all projections that the masters quantize to.
    ///
    /// # Errors
    ///
    /// A projection with masters that are not finite.
    pub fn of(model: &Decoder) -> Result<Self, ModelError> {
        let mut projections = Vec::new();
        for (index, layer) in model.model.layers.iter().enumerate() {
            for (name, projection) in PROJECTIONS.iter().zip(layer.projections()) {
                let packed = projection.weight().to_packed().map_err(|error| {
                    let name = format!("model.layers.{index}.{name}.weight");
                    ModelError::ternary(Path::new("the model in training"), &name)(error)
                })?;
                let histogram = packed.histogram();
                let (words, scale) = packed.into_parts();
                projections.push(Projection {
                    words,
                    scales: scale.values().to_vec(),
                    counts: [histogram.minus, histogram.zero, histogram.plus],
                });
            }
        }
        Ok(Self { projections })
    }

    /// What has changed since `before`, of the same model.
    pub fn since(&self, before: &Self) -> TritMetrics {
        let (mut counts, mut flipped) = ([0; 3], 0);
        let (mut sum, mut drift, mut scales) = (0.0, 0.0, 0);
        for (now, before) in self.projections.iter().zip(&before.projections) {
            for (all, of_one) in counts.iter_mut().zip(now.counts) {
                *all += of_one;
            }
            flipped += differing(&now.words, &before.words);
            for (&scale, &before) in now.scales.iter().zip(&before.scales) {
                sum += f64::from(scale);
                drift += (f64::from(scale) / f64::from(before) - 1.0).abs();
                scales += 1;
            }
        }
        let all = counts.iter().sum::<usize>().max(1) as f64;
        let [minus, zero, plus] = counts.map(|count| count as f64 / all);
        TritMetrics {
            minus,
            zero,
            plus,
            flipped: flipped as f64 / all,
            scale: sum / f64::from(scales.max(1)),
            scale_drift: drift / f64::from(scales.max(1)),
        }
    }
}

/// How many codes of two bits differ; padding never does.
fn differing(a: &[u32], b: &[u32]) -> u64 {
    let lanes = |(a, b): (&u32, &u32)| {
        let bits = a ^ b;
        u64::from(((bits | bits >> 1) & 0x5555_5555).count_ones())
    };
    a.iter().zip(b).map(lanes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_differ_are_counted_once_whichever_bit_differs() {
        assert_eq!(differing(&[0b00_01_10_01], &[0b00_10_10_00]), 2);
        assert_eq!(differing(&[u32::MAX, 7], &[0, 7]), 16);
    }
}
