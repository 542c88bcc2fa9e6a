//! `inspect`: says what a checkpoint is, what it will take, and whether it is whole, without loading it.

mod measure;

use std::io::Write;

use anyhow::bail;
use bitnet_burn::kernels::{CacheFormat, Histogram, TableFormat};
use bitnet_burn::models::architectures;
use bitnet_burn::models::decoder::DecoderConfig;
use bitnet_burn::models::weights::Checkpoint;
use clap::Args;
use serde_json::{Value, json};

pub(crate) use measure::{bits_per_weight, problems};

use super::model::{ReadArgs, open};
use super::terminal::{self, Table};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn inspect owner/name                 What the model is, and the memory that it takes
  bitnet-burn inspect model.bpk --verify         Is every tensor there and readable?
  bitnet-burn inspect model.gguf --tensors
  bitnet-burn inspect random:tiny --histogram    How often each layer has -1, 0 and 1
  bitnet-burn inspect model.bpk --json";

/// Say what a model is, and whether it is whole
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Inspect {
    /// A folder or file (safetensors, GGUF, packed), owner/name of a downloaded model, or random:SIZE
    #[arg(value_name = "MODEL")]
    model: String,
    /// List the tensors: name, shape, encoding, bytes
    #[arg(long)]
    tensors: bool,
    /// Count the trits of each layer; reads every projection
    #[arg(long)]
    histogram: bool,
    /// Read every tensor that the model needs, and exit with 1 if one is damaged
    #[arg(long)]
    verify: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: ReadArgs,
}

/// All that was asked for.
struct Findings<'a> {
    checkpoint: &'a dyn Checkpoint,
    config: &'a DecoderConfig,
    /// Bytes of the loaded weights by table format.
    memory: Vec<(TableFormat, u64)>,
    /// Bytes of a full cache by format.
    cache: Vec<(CacheFormat, u64)>,
    bits: Option<f64>,
    tensors: bool,
    histograms: Option<Vec<Histogram>>,
    problems: Option<Vec<String>>,
}

impl Inspect {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let checkpoint = open(&self.model)?;
        let checkpoint = &*checkpoint;
        let config = &architectures::read(checkpoint, self.reading.overrides())?;
        let problems = self
            .verify
            .then(|| problems(checkpoint, config, &mut |_, _| ()));
        let damaged = problems.as_ref().map_or(0, Vec::len);
        let findings = Findings {
            checkpoint,
            config,
            memory: [TableFormat::Int8, TableFormat::F16]
                .map(|table| (table, measure::model_bytes(checkpoint, config, table)))
                .to_vec(),
            cache: [CacheFormat::F16, CacheFormat::Int8]
                .map(|format| {
                    let positions = config.max_positions;
                    (format, measure::cache_bytes(config, format, positions))
                })
                .to_vec(),
            bits: Some(bits_per_weight(checkpoint, config)).filter(|&bits| bits > 0.0),
            tensors: self.tensors,
            // A damaged projection has no histogram, and its problem is told below.
            histograms: (self.histogram && damaged == 0)
                .then(|| measure::histograms(checkpoint, config))
                .transpose()?,
            problems,
        };
        let mut out = terminal::out();
        if self.json {
            writeln!(out, "{}", findings.json())?;
        } else {
            findings.print(&mut out)?;
        }
        if damaged > 0 {
            bail!(
                "{damaged} tensors of `{}` are damaged: get the model again",
                self.model
            );
        }
        Ok(())
    }
}

impl Findings<'_> {
    fn json(&self) -> Value {
        let (projections, rest) = self.config.parameters();
        let sizes = |list: Vec<(String, u64)>| {
            let entries = list.into_iter().map(|(name, bytes)| (name, json!(bytes)));
            Value::Object(entries.collect())
        };
        let memory = self
            .memory
            .iter()
            .map(|(f, bytes)| (f.name().to_owned(), *bytes));
        let cache = self.cache.iter().map(|(f, bytes)| (f.to_string(), *bytes));
        let mut object = json!({
            "path": self.checkpoint.path(),
            "format": self.checkpoint.format(),
            "config": self.config,
            "parameters": { "projections": projections, "rest": rest },
            "bits_per_projection_weight": self.bits,
            "memory_bytes": sizes(memory.collect()),
            "cache_bytes": sizes(cache.collect()),
        });
        if self.tensors {
            let tensors = self.checkpoint.tensors().iter().map(|tensor| {
                json!({
                    "name": tensor.name,
                    "shape": tensor.shape,
                    "encoding": tensor.encoding,
                    "bytes": tensor.bytes,
                    "file": tensor.file,
                })
            });
            object["tensors"] = tensors.collect();
        }
        if let Some(layers) = &self.histograms {
            let layers = layers.iter().map(|layer| {
                json!({
                    "minus": layer.minus,
                    "zero": layer.zero,
                    "plus": layer.plus,
                    "entropy": (total(layer) > 0).then(|| layer.entropy()),
                })
            });
            object["histogram"] = layers.collect();
        }
        if let Some(problems) = &self.problems {
            object["problems"] = json!(problems);
        }
        object
    }

    fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let config = self.config;
        let (projections, rest) = config.parameters();
        let mut facts = Table::new(["what", "found"]);
        let mut fact = |name: &str, value: String| facts.push([name.to_owned(), value]);
        fact("model", self.checkpoint.path().display().to_string());
        fact("format", self.checkpoint.format().to_owned());
        fact("architecture", config.architecture.clone());
        fact(
            "sizes",
            format!(
                "{} layers, width {}, feed-forward {}, vocabulary {}",
                config.n_layers, config.hidden_size, config.intermediate_size, config.vocab_size
            ),
        );
        fact(
            "heads",
            format!(
                "{} of {}, {} for keys",
                config.n_heads, config.head_dim, config.n_kv_heads
            ),
        );
        fact(
            "parameters",
            format!("{projections} in projections, {rest} elsewhere"),
        );
        fact("context", format!("{} tokens", config.max_positions));
        fact(
            "rotation",
            format!(
                "base {}, scaling {:?}",
                config.rope.theta, config.rope.scaling
            ),
        );
        fact("activations", format!("{:?}", config.activations));
        fact("masters", format!("{:?}", config.masters));
        if let Some(bits) = self.bits {
            fact(
                "in the file",
                format!("{bits:.2} bits per projection weight"),
            );
        }
        for (format, bytes) in &self.memory {
            let size = terminal::size(*bytes);
            fact("memory", format!("{size} with tables in {}", format.name()));
        }
        for (format, bytes) in &self.cache {
            let size = terminal::size(*bytes);
            fact("full cache", format!("{size} in {format}"));
        }
        write!(out, "{facts}")?;
        if self.tensors {
            let mut table = Table::new(["tensor", "shape", "encoding", "bytes"]);
            for tensor in self.checkpoint.tensors() {
                table.push([
                    tensor.name.clone(),
                    format!("{:?}", tensor.shape),
                    tensor.encoding.clone(),
                    tensor.bytes.to_string(),
                ]);
            }
            write!(out, "\n{table}")?;
        }
        if let Some(layers) = &self.histograms {
            let mut table = Table::new(["layer", "-1 0 +1", "zeros", "entropy"]);
            for (at, layer) in layers.iter().enumerate().filter(|(_, l)| total(l) > 0) {
                let zeros = 100.0 * layer.zero as f64 / total(layer) as f64;
                table.push([
                    at.to_string(),
                    bar(layer),
                    format!("{zeros:.1} %"),
                    format!("{:.3} bits", layer.entropy()),
                ]);
            }
            write!(out, "\n{table}")?;
        }
        match &self.problems {
            Some(problems) if problems.is_empty() => {
                writeln!(out, "\nEvery tensor is there and readable.")?;
            }
            Some(problems) => {
                writeln!(out)?;
                for problem in problems {
                    writeln!(out, "{problem}")?;
                }
            }
            None => {}
        }
        Ok(())
    }
}

const fn total(layer: &Histogram) -> usize {
    layer.minus + layer.zero + layer.plus
}

/// The shares of -1, 0 and 1 as a bar.
fn bar(layer: &Histogram) -> String {
    const WIDTH: usize = 36;
    let upto = |count: usize| (count * WIDTH + total(layer) / 2) / total(layer);
    let (minus, zero) = (upto(layer.minus), upto(layer.minus + layer.zero));
    let shares = [("█", minus), ("░", zero - minus), ("▓", WIDTH - zero)];
    shares.map(|(mark, width)| mark.repeat(width)).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_one_width_and_the_shares_of_the_trits() {
        let layer = Histogram {
            minus: 1,
            zero: 2,
            plus: 1,
        };
        let expected = "█".repeat(9) + &"░".repeat(18) + &"▓".repeat(9);
        assert_eq!(bar(&layer), expected);
    }
}
