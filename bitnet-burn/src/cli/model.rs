//! Options that name a model and say how it writes, shared by the commands that run one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bitnet_burn::kernels::{ActivationQuantizer, CacheFormat, TableFormat};
use bitnet_burn::models::architectures::Overrides;
use bitnet_burn::models::decoder::LoadOptions;
use bitnet_burn::models::generation::{SamplingConfig, Timings};
use bitnet_burn::models::weights::{self, Checkpoint, Random};
use bitnet_burn::models::{GenerateOptions, Model};
use bitnet_burn::storyteller;
use clap::ValueEnum;

use super::{Options, allocator, hub, terminal};

/// Which model, and in what form.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A folder or file (safetensors, GGUF, packed); owner/name of a downloaded model; storyteller, the small model that
    /// comes with this program; or random:SIZE (tiny, 700m, 2b4t, 3b, 8b): random weights, real size and speed, text
    /// without sense
    #[arg(long, short, value_name = "MODEL", default_value = storyteller::NAME)]
    pub(crate) model: String,
    /// Number format of embedding and output head: int8, int4, bf16, f16 or f32; `file` keeps the checkpoint's own, which
    /// changes no logit; `auto` keeps that of a packed file, and makes int8 of others
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = table)]
    pub(crate) table: TableChoice,
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
}

/// What the user knows better than the checkpoint.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ReadArgs {
    /// What float projections are: masters to be made ternary, or the weights themselves; `auto` believes the
    /// checkpoint
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    pub(crate) masters: Masters,
    /// What happens to the inputs of projections: int8, int4, none; `auto` believes the checkpoint
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    pub(crate) activations: Activations,
}

/// What becomes of the tables of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TableChoice {
    Auto,
    File,
    Format(TableFormat),
}

impl TableChoice {
    /// The format to load, if it is not the file's own.
    fn of(self, checkpoint: &dyn Checkpoint) -> Option<TableFormat> {
        match self {
            Self::Auto if checkpoint.format() == "burnpack" => None,
            Self::Auto => Some(TableFormat::Int8),
            Self::File => None,
            Self::Format(format) => Some(format),
        }
    }
}

fn table(text: &str) -> Result<TableChoice, String> {
    Ok(match text {
        "auto" => TableChoice::Auto,
        "file" => TableChoice::File,
        format => TableChoice::Format(
            format
                .parse()
                .map_err(|_| "expected int8, int4, bf16, f16, f32, file or auto".to_owned())?,
        ),
    })
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Masters {
    Auto,
    Ternary,
    Float,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Activations {
    Auto,
    Int8,
    Int4,
    None,
}

/// Opens what `--model` names.
pub(crate) fn open(model: &str) -> anyhow::Result<Arc<dyn Checkpoint>> {
    if let Some(size) = model.strip_prefix("random:") {
        return Ok(Arc::new(Random::new(size, 0)?));
    }
    if model == storyteller::NAME {
        return Ok(Arc::from(storyteller::checkpoint()?));
    }
    let path = hub::resolve(model)?;
    Ok(Arc::from(weights::open(&path)?))
}

impl ReadArgs {
    /// The same for the reader of configurations.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            ternary: match self.masters {
                Masters::Auto => None,
                Masters::Ternary => Some(true),
                Masters::Float => Some(false),
            },
            activations: match self.activations {
                Activations::Auto => None,
                Activations::Int8 => Some(ActivationQuantizer::Int8),
                Activations::Int4 => Some(ActivationQuantizer::Int4),
                Activations::None => Some(ActivationQuantizer::None),
            },
        }
    }
}

impl ModelArgs {
    /// Loads the model, with a progress bar, and says how long it took.
    pub(crate) fn load(&self, options: &Options) -> anyhow::Result<(Model, Duration)> {
        let device = options.open_device()?;
        let begun = Instant::now();
        let checkpoint = open(&self.model)?;
        let load = LoadOptions {
            table: self.table.of(&*checkpoint),
            overrides: self.reading.overrides(),
            ..LoadOptions::default()
        };
        let bar = terminal::rows_bar("loading", 0, options.quiet);
        let model = Model::from_checkpoint(&*checkpoint, &device, &load, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let model = model.with_context(|| format!("cannot load `{}`", self.model))?;
        device.sync().context("the device failed while loading")?;
        allocator::give_back_freed_memory();
        Ok((model, begun.elapsed()))
    }
}

/// How the model writes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerateArgs {
    /// Most tokens to write
    #[arg(long, short = 'n', value_name = "N", default_value_t = 256)]
    pub(crate) max_tokens: usize,
    /// Draw instead of taking the most likely token; 0 is greedy, 1 the model as it is [default: what the model
    /// recommends, else 0]
    #[arg(long, short, value_name = "T")]
    temperature: Option<f64>,
    /// Draw among the K most likely tokens; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw among the most likely tokens that hold P together; 1 is off
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Leave out tokens less likely than P times the most likely one; 0 is off
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Draw among tokens of typical information that hold P together; 1 is off
    #[arg(long, value_name = "P")]
    typical_p: Option<f64>,
    /// Divide the logits of tokens that were there; 1 is off
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f64>,
    /// Subtract this for each time that a token was there; 0 is off
    #[arg(long, value_name = "F")]
    frequency_penalty: Option<f64>,
    /// Subtract this once if a token was there; 0 is off
    #[arg(long, value_name = "P")]
    presence_penalty: Option<f64>,
    /// Never write the same N tokens twice; 0 is off
    #[arg(long, value_name = "N")]
    no_repeat_ngram: Option<usize>,
    /// Add to the logit of a token: ID=BIAS; may be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = bias)]
    logit_bias: Vec<(u32, f64)>,
    /// Seed of the draws: the same seed gives the same text
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Stop before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after the end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,
    /// Tokens that the cache has room for [default: prompt and answer, up to the model's context]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
    /// Number format of the cache: f16, f32 or int8
    #[arg(long, value_name = "FORMAT", default_value = "f16")]
    cache: CacheFormat,
    /// When the context is full, forget the oldest tokens but for the first N (attention sinks) instead of failing
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "4")]
    slide: Option<usize>,
}

fn bias(text: &str) -> Result<(u32, f64), String> {
    let parsed = text
        .split_once('=')
        .and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected ID=BIAS, e.g. 128009=-2.5".to_owned())
}

impl GenerateArgs {
    /// The options for a model: what the user said, else what the checkpoint recommends.
    pub(crate) fn options(&self, model: &Model) -> anyhow::Result<GenerateOptions> {
        let recommended = model.recommended_sampling()?;
        let off = SamplingConfig::default();
        Ok(GenerateOptions {
            sampling: SamplingConfig {
                temperature: self.temperature.unwrap_or(recommended.temperature),
                top_k: self.top_k.unwrap_or(recommended.top_k),
                top_p: self.top_p.unwrap_or(recommended.top_p),
                min_p: self.min_p.unwrap_or(off.min_p),
                typical_p: self.typical_p.unwrap_or(off.typical_p),
                repetition_penalty: self
                    .repetition_penalty
                    .unwrap_or(recommended.repetition_penalty),
                frequency_penalty: self.frequency_penalty.unwrap_or(off.frequency_penalty),
                presence_penalty: self.presence_penalty.unwrap_or(off.presence_penalty),
                no_repeat_ngram: self.no_repeat_ngram.unwrap_or(off.no_repeat_ngram),
                logit_bias: self.logit_bias.iter().copied().collect(),
                seed: self.seed,
                ..off
            },
            max_new_tokens: self.max_tokens,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            time_limit: self
                .time_limit
                .map(Duration::try_from_secs_f64)
                .transpose()?,
            context: self.context,
            cache: self.cache,
            sinks: self.slide,
            ..GenerateOptions::default()
        })
    }
}

/// The line after a run: load time, time to first token, tokens that the cache held, rates, peak memory.
pub(crate) fn report(load: Option<Duration>, timings: Timings) {
    let mut parts = Vec::new();
    if let Some(load) = load {
        parts.push(format!("load {:.2} s", load.as_secs_f64()));
    }
    parts.push(format!(
        "first token {:.2} s",
        timings.prefill.as_secs_f64()
    ));
    parts.push(format!(
        "prefill {} tokens at {:.1}/s",
        timings.prompt_tokens,
        timings.prefill_rate()
    ));
    if timings.reused_tokens > 0 {
        parts.push(format!("{} tokens reused", timings.reused_tokens));
    }
    if timings.new_tokens > 1 {
        let (count, rate) = (timings.new_tokens, timings.decode_rate(1));
        parts.push(format!("decode {count} tokens at {rate:.1}/s"));
    }
    if let Some(peak) = peak_memory() {
        parts.push(format!("peak {}", terminal::size(peak)));
    }
    terminal::note(parts.join(" · "));
}

/// Most bytes that were resident at once, where the system tells.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Forgets the peak so far, where the system can (`man 5 proc`, `clear_refs`); elsewhere it stays.
pub(crate) fn forget_peak_memory() {
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        log::debug!("the peak of the memory includes that of measuring its bandwidth: {error}");
    }
}
