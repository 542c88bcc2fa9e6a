//! `convert`: writes a checkpoint of any format as one packed file, which loads without a conversion.
//!
//! The file is written under another name and renamed, and read back before the command says that it is done.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use bitnet_burn::kernels::TableFormat;
use bitnet_burn::models::architectures::Overrides;
use bitnet_burn::models::decoder::{DecoderConfig, Masters};
use bitnet_burn::models::weights::{self, PackOptions};
use bitnet_burn::models::{TokenizerFiles, architectures};
use clap::Args;

use super::model::{ReadArgs, open};
use super::{Options, inspect, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn convert owner/name model.bpk               A downloaded model as one file
  bitnet-burn convert model.gguf model.bpk --table f16   Embedding and head in 16 bits
  bitnet-burn convert masters/ model.bpk --masters ternary
  bitnet-burn convert random:tiny tiny.bpk --force       Random weights, over an older file";

/// Write a model as one packed file
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Convert {
    /// A folder or file (safetensors, GGUF, packed), owner/name of a downloaded model, or random:SIZE
    #[arg(value_name = "MODEL")]
    model: String,
    /// The file to write; its name ends in .bpk
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,
    /// Number format of embedding and output head: int8, int4, bf16, f16 or f32
    #[arg(long, value_name = "FORMAT", default_value = "int8")]
    table: TableFormat,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    reading: ReadArgs,
}

impl Convert {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let output = self.output.display();
        if self.output.extension().is_none_or(|end| end != "bpk") {
            bail!(
                "cannot write `{output}`: the end of the name says the format, expected .bpk (packed file)"
            );
        }
        if !self.force && self.output.exists() {
            bail!("`{output}` exists: remove it, choose another name, or replace it with --force");
        }
        let begun = Instant::now();
        let checkpoint = open(&self.model)?;
        let config = architectures::read(&*checkpoint, self.reading.overrides())?;
        let files = TokenizerFiles::of(&*checkpoint)?;
        if files.is_none() {
            log::warn!(
                "`{}` has no tokenizer, and neither will {output}",
                self.model
            );
        }
        let (tokenizer, tokenizer_config) = files.map_or((None, None), |files| {
            (Some(files.tokenizer), Some(files.config))
        });
        let pack = PackOptions {
            table: self.table,
            tokenizer,
            tokenizer_config,
            overwrite: self.force,
        };
        let bar = terminal::rows_bar("writing", 0, options.quiet);
        let progress = bar.clone();
        let written = weights::write_packed(
            &self.output,
            &checkpoint,
            &config,
            &pack,
            move |done, all| {
                progress.set_length(all as u64);
                progress.set_position(done as u64);
            },
        );
        bar.finish_and_clear();
        written.with_context(|| format!("cannot convert `{}`", self.model))?;

        let packed = weights::open(&self.output)?;
        // Architectures that quantize without being told to cannot say in their own keys that they do not.
        let plain = architectures::read(&*packed, Overrides::default())?;
        let floats = |config: &DecoderConfig| config.masters == Masters::Float;
        if plain.activations != config.activations || (floats(&config) && !floats(&plain)) {
            log::warn!(
                "{output} does not hold --masters and --activations: give them again to load it"
            );
        }
        let size = std::fs::metadata(&self.output)?.len();
        writeln!(
            terminal::out(),
            "{output}: {}, {:.2} bits per projection weight, {:.1} s",
            terminal::size(size),
            inspect::bits_per_weight(&*packed, &config),
            begun.elapsed().as_secs_f64()
        )?;
        Ok(())
    }
}
