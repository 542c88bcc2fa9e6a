//! `convert`: writes a checkpoint of any format in any format that others or we read.
//!
//! What is written appears under its name when it is whole. Then it is opened again: every tensor is read, and what would
//! run is compared with what was to be written.

mod target;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use bitnet_burn::kernels::packing::Packing;
use bitnet_burn::kernels::{ActivationQuantizer, TableFormat};
use bitnet_burn::models::architectures::{self, Overrides};
use bitnet_burn::models::decoder::{DecoderConfig, Masters};
use bitnet_burn::models::tokenizer::Vocabulary;
use bitnet_burn::models::weights::{
    self, Arithmetic, Checkpoint, ExportOptions, FloatKind, GgufOptions, PackOptions, Role, Slot,
    Variant,
};
use bitnet_burn::models::{ModelError, TokenizerFiles};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use super::model::{ReadArgs, open};
use super::{Options, inspect, terminal};
use target::{Kind, Target};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn convert owner/name model.bpk                     A downloaded model as one file
  bitnet-burn convert model.gguf model.bpk --table f16         Embedding and head in 16 bits
  bitnet-burn convert model.gguf model.bpk --table f16 --screen   The same, decoded as fast as int8 on CPUs
  bitnet-burn convert owner/name model.bpk --ternary base3     Smaller, and faster on CPUs with AVX-512 VBMI
  bitnet-burn convert masters/ model.bpk --masters ternary     Floats that do not say that they are masters
  bitnet-burn convert model.bpk model.gguf                     For bitnet.cpp
  bitnet-burn convert model.bpk model.gguf --to gguf-tq2_0     For llama.cpp
  bitnet-burn convert model.gguf folder/                       For transformers, packed
  bitnet-burn convert owner/name folder/ --to hf-dequantized   For programs that know no ternary layers
  bitnet-burn convert random:tiny tiny.bpk --force             Random weights, over an older file";

/// Write a model in another format: packed file, Hugging Face folder or GGUF
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Convert {
    /// A folder or file (safetensors, GGUF, packed), owner/name of a downloaded model, or random:SIZE
    #[arg(value_name = "MODEL")]
    model: String,
    /// The file or folder to write
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,
    /// The format to write [default: what the name of OUTPUT says: bpk for .bpk, gguf-i2_s for .gguf, hf-packed for a
    /// folder]
    #[arg(long, value_name = "FORMAT")]
    to: Option<Target>,
    /// With bpk: number format of embedding and output head: int8, int4, bf16, f16 or f32 [default: int8]
    #[arg(long, value_name = "FORMAT")]
    table: Option<TableFormat>,
    /// With bpk and floats as --table: also writes an int8 copy of the output head that tells which rows can be the likeliest. On
    /// CPUs greedy and top-k decoding (without penalties) read it and a few rows of floats: the tokens of the floats at the speed of
    /// int8, for half of an f16 head more in the file
    #[arg(long)]
    screen: bool,
    /// With bpk: how ternary projections are packed [default: words]
    #[arg(long, value_name = "PACKING")]
    ternary: Option<Ternary>,
    /// With hf-dequantized: number format of the projections [default: bf16]
    #[arg(long, value_name = "FORMAT")]
    floats: Option<Number>,
    /// Arithmetic in which float masters become ternary; bf16 is that of the published Falcon-E [default: f32]
    #[arg(long, value_name = "FORMAT")]
    arithmetic: Option<Rounding>,
    /// Replace what exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    reading: ReadArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Ternary {
    /// 2 bits a weight, for every device
    Words,
    /// 1.6 bits: a fifth less to read and hold for each token, for CPUs with AVX-512 VBMI (Intel from 2019, AMD from 2022 on).
    /// GPUs, other CPUs and scales for groups of columns get words while the model loads
    Base3,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Number {
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rounding {
    F32,
    Bf16,
}

/// What is converted, read once.
struct Source {
    checkpoint: Arc<dyn Checkpoint>,
    config: DecoderConfig,
    slots: Vec<Slot>,
}

impl Source {
    fn layers(&self) -> impl Iterator<Item = (&str, usize, usize)> {
        self.slots.iter().filter_map(|slot| match slot.role {
            Role::Linear { d_out, d_in } => Some((slot.name.as_str(), d_out, d_in)),
            _ => None,
        })
    }
}

impl Convert {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let begun = Instant::now();
        let target = self.to.map_or_else(|| Target::guess(&self.output), Ok)?;
        target.check(&self.output, self.force)?;
        self.check_options(target)?;
        let checkpoint = open(&self.model)?;
        let config = architectures::read(&*checkpoint, self.reading.overrides())?;
        let slots = config.slots_to_write(&*checkpoint)?;
        let source = Source {
            checkpoint,
            config,
            slots,
        };
        self.check_source(target, &source)?;

        let bar = terminal::rows_bar("writing", 0, options.quiet);
        let written = self.write(target, &source, &bar);
        bar.finish_and_clear();
        written.with_context(|| format!("cannot convert `{}`", self.model))?;
        let bar = terminal::rows_bar("checking", 0, options.quiet);
        let bits = check(&self.output, target, &source, &bar);
        bar.finish_and_clear();
        writeln!(
            terminal::out(),
            "{}: {}, {}, {:.2} bits per projection weight, {:.1} s; opened again, every tensor is readable",
            self.output.display(),
            target.name(),
            terminal::size(size(&self.output)?),
            bits?,
            begun.elapsed().as_secs_f64()
        )?;
        Ok(())
    }

    /// Refuses options that the format has no use for.
    fn check_options(&self, target: Target) -> anyhow::Result<()> {
        let given = [
            (
                "--table",
                self.table.is_some(),
                target == Target::Bpk,
                "bpk",
            ),
            ("--screen", self.screen, target == Target::Bpk, "bpk"),
            (
                "--ternary",
                self.ternary.is_some(),
                target == Target::Bpk,
                "bpk",
            ),
            (
                "--floats",
                self.floats.is_some(),
                target == Target::HfDequantized,
                "hf-dequantized",
            ),
            (
                "--arithmetic",
                self.arithmetic.is_some(),
                target != Target::HfMaster,
                "a format of ternary layers, not for masters",
            ),
        ];
        for (option, given, fits, expected) in given {
            ensure!(
                fits || !given,
                "{option} does nothing for {}: it is for {expected}",
                target.name()
            );
        }
        Ok(())
    }

    /// Refuses what the format cannot hold, and options that this model has no use for.
    fn check_source(&self, target: Target, source: &Source) -> anyhow::Result<()> {
        let model = &self.model;
        if source.layers().next().is_none() {
            if !target.holds_floats() {
                bail!(
                    "the projections of `{model}` are floats, and {} holds ternary ones: if they are masters, say \
                     --masters ternary; else write bpk, hf-dequantized or gguf-f16",
                    target.name()
                );
            }
            ensure!(
                self.floats.is_none(),
                "--floats does nothing for `{model}`: its projections are floats already, and stay as they are"
            );
            ensure!(
                self.ternary.is_none(),
                "--ternary does nothing for `{model}`: its projections are floats; if they are masters, say --masters \
                 ternary"
            );
        }
        if self.arithmetic.is_some() {
            let mut masters = false;
            for (name, d_out, d_in) in source.layers() {
                masters |= source.checkpoint.granularity(name, d_out, d_in)?.is_none();
            }
            ensure!(
                masters,
                "--arithmetic does nothing for `{model}`: it has no float masters to be made ternary"
            );
        }
        Ok(())
    }

    fn write(&self, target: Target, source: &Source, bar: &ProgressBar) -> anyhow::Result<()> {
        let arithmetic = match self.arithmetic {
            Some(Rounding::Bf16) => Arithmetic::Bf16,
            Some(Rounding::F32) | None => Arithmetic::F32,
        };
        let checkpoint = &*source.checkpoint;
        let activations = source.config.activations;
        let bar = bar.clone();
        let mut count = move |done: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        };
        match target.kind() {
            Kind::Packed => {
                let (tokenizer, tokenizer_config) = match self.tokenizer(checkpoint)? {
                    Some(files) => (Some(files.tokenizer), Some(files.config)),
                    None => (None, None),
                };
                let pack = PackOptions {
                    table: self.table.unwrap_or(TableFormat::Int8),
                    screen: self.screen,
                    ternary: match self.ternary {
                        Some(Ternary::Base3) => Packing::Base3,
                        Some(Ternary::Words) | None => Packing::Words,
                    },
                    arithmetic,
                    tokenizer,
                    tokenizer_config,
                    overwrite: self.force,
                };
                weights::write_packed(
                    &self.output,
                    &source.checkpoint,
                    &source.config,
                    &pack,
                    count,
                )?;
            }
            Kind::Folder => {
                let variant = match target {
                    Target::HfMaster => Variant::Master,
                    Target::HfDequantized => Variant::Dequantized(match self.floats {
                        Some(Number::F32) => FloatKind::F32,
                        Some(Number::F16) => FloatKind::F16,
                        Some(Number::Bf16) | None => FloatKind::BF16,
                    }),
                    _ => Variant::Packed,
                };
                let mut export = ExportOptions::new(variant)
                    .with_arithmetic(arithmetic)
                    .with_activations(activations)
                    .with_overwrite(self.force);
                if let Some(files) = self.tokenizer(checkpoint)? {
                    export = export.with_tokenizer(files.tokenizer, files.config);
                }
                weights::export(checkpoint, &source.slots, &self.output, &export, &mut count)?;
            }
            Kind::Gguf(layout) => {
                let vocabulary = Vocabulary::of(checkpoint)?;
                let vocabulary = vocabulary
                    .context("it has no tokenizer, and readers of GGUF need one in the file")?;
                let gguf = GgufOptions::new(layout)
                    .with_arithmetic(arithmetic)
                    .with_activations(activations)
                    .with_overwrite(self.force);
                let slots = &source.slots;
                weights::write_gguf(
                    checkpoint,
                    slots,
                    &vocabulary,
                    &self.output,
                    &gguf,
                    &mut count,
                )?;
            }
        }
        Ok(())
    }

    fn tokenizer(&self, checkpoint: &dyn Checkpoint) -> Result<Option<TokenizerFiles>, ModelError> {
        let files = TokenizerFiles::of(checkpoint)?;
        if files.is_none() {
            let (model, output) = (&self.model, self.output.display());
            log::warn!("`{model}` has no tokenizer, and neither will {output}");
        }
        Ok(files)
    }
}

/// Opens what was written and reads all of it. Gives the bits per weight of its projections.
fn check(output: &Path, target: Target, source: &Source, bar: &ProgressBar) -> anyhow::Result<f64> {
    let failed = || {
        format!(
            "`{}` was written, but is not what it should be",
            output.display()
        )
    };
    let written = weights::open(output).with_context(failed)?;
    let config = architectures::read(&*written, Overrides::default()).with_context(failed)?;
    let ternary = source.layers().next().is_some() && target != Target::HfDequantized;
    let activations = match target {
        Target::HfDequantized => ActivationQuantizer::None,
        _ => source.config.activations,
    };
    let found = (config.masters != Masters::Float, config.activations);
    ensure!(
        found == (ternary, activations),
        "{}: found (ternary, activations) {found:?}, expected {:?}",
        failed(),
        (ternary, activations)
    );
    let problems = inspect::problems(&*written, &config, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    if let Some(problem) = problems.first() {
        bail!("{}: {problem}", failed());
    }
    Ok(inspect::bits_per_weight(&*written, &config))
}

/// Bytes of a file, or of the files in a folder.
fn size(path: &Path) -> anyhow::Result<u64> {
    let metadata = path.metadata()?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    for entry in path.read_dir()? {
        let metadata = entry?.metadata()?;
        sum += if metadata.is_file() {
            metadata.len()
        } else {
            0
        };
    }
    Ok(sum)
}
