//! `bench`: prefill and decode rates for threads, prompt lengths and batches, as a table or JSON.
//!
//! Each figure is the median of the repetitions. Prompts are random ids, so no cache of any kind helps; the first run of
//! a model, which touches every page for the first time, is not counted. On a CPU each case stands beside the rate of a
//! plain read of memory, the mean of right before and right after it; the peak of memory is without what that reads.

use std::io::Write;
use std::time::Instant;

use bitnet_burn::kernels::cpu;
use bitnet_burn::models::Model;
use bitnet_burn::models::generation::{ContextOptions, Generation, Session, StopConditions};
use clap::Args;
use serde_json::json;

use super::model::{ModelArgs, forget_peak_memory, peak_memory};
use super::{Options, device, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn bench -m random:2b4t                            The size of BitNet 2B4T, without its weights
  bitnet-burn bench -m model.bpk --cpu-threads 1,2 --prompt 128,512 --new 64
  bitnet-burn bench -m model.bpk --batch 1,8 --json > bench.json";

const COLUMNS: [&str; 7] = [
    "threads",
    "batch",
    "prompt",
    "new",
    "prefill/s",
    "decode/s",
    "peak",
];
/// More columns, of the CPU.
const READING: [&str; 2] = ["GB/s", "of read"];

/// Measure prefill and decode in tokens per second
///
/// On a CPU, GB/s is what decoding reads at least: packed weights, output head, keys and values. `of read` is its share of
/// what a plain loop reads from memory with as many threads, just before and after: the limit of decoding one sequence.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// Prompt lengths in tokens
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "128"
    )]
    prompt: Vec<usize>,
    /// Tokens to decode after the prompt
    #[arg(long, value_name = "N", default_value_t = 32)]
    new: usize,
    /// Sequences at once
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1")]
    batch: Vec<usize>,
    /// CPU threads to measure with [default: --threads, else one for each core]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    cpu_threads: Vec<usize>,
    /// Runs of each case; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Print one JSON object for each case
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// What is measured at a time.
struct Case {
    threads: usize,
    batch: usize,
    prompt: usize,
}

/// What a run of a case gives.
struct Figures {
    /// Tokens per second of all sequences together.
    prefill: f64,
    decode: f64,
    /// Bytes that decoding one token must read.
    bytes: f64,
}

impl Bench {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let (model, load) = self.model.load(options)?;
        let device = model.decoder().device();
        let on_cpu = device::cpus().iter().any(|(_, cpu)| *cpu == device);
        let threads = if self.cpu_threads.is_empty() {
            vec![cpu::threads()]
        } else {
            self.cpu_threads.clone()
        };
        let reading = if on_cpu { &READING[..] } else { &[] };
        let mut table = terminal::Table::new(COLUMNS.iter().chain(reading).copied());
        let warm_up = Case {
            threads: threads[0],
            batch: 1,
            prompt: 4,
        };
        self.measure(&model, &warm_up)?;
        let mut peak = peak_memory();
        for &threads in &threads {
            for &batch in &self.batch {
                for &prompt in &self.prompt {
                    let case = Case {
                        threads,
                        batch,
                        prompt,
                    };
                    let read = on_cpu.then(|| cpu::read_bandwidth(threads));
                    forget_peak_memory(); // most of it was what the line above read
                    let runs: Vec<Figures> = (0..self.repeat)
                        .map(|_| self.measure(&model, &case))
                        .collect::<Result<_, _>>()?;
                    peak = peak.max(peak_memory());
                    let read = read.map(|before| (before + cpu::read_bandwidth(threads)) / 2.0);
                    let prefill = median(runs.iter().map(|run| run.prefill));
                    let decode = median(runs.iter().map(|run| run.decode));
                    let bytes = runs[0].bytes;
                    if self.json {
                        let mut object = json!({
                            "model": self.model.model,
                            "device": format!("{device:?}"),
                            "kernel": cpu::kernel().name(),
                            "threads": threads,
                            "batch": batch,
                            "prompt": prompt,
                            "new": self.new,
                            "prefill_tokens_per_second": prefill,
                            "decode_tokens_per_second": decode,
                            "load_seconds": load.as_secs_f64(),
                            "peak_bytes": peak,
                        });
                        if let Some(read) = read {
                            object["bytes_per_token"] = json!(bytes);
                            object["read_gb_per_s"] = json!(read / 1e9);
                            object["bandwidth_share"] = json!(bytes * decode / read);
                        }
                        writeln!(terminal::out(), "{object}")?;
                    }
                    let cells = [
                        threads.to_string(),
                        batch.to_string(),
                        prompt.to_string(),
                        self.new.to_string(),
                        format!("{prefill:.1}"),
                        format!("{decode:.1}"),
                        peak.map_or_else(String::new, terminal::size),
                    ];
                    let reading = read.map(|read| {
                        let rate = bytes * decode;
                        [
                            format!("{:.1}", rate / 1e9),
                            format!("{:.0} %", 100.0 * rate / read),
                        ]
                    });
                    table.push(cells.into_iter().chain(reading.into_iter().flatten()));
                }
            }
        }
        if !self.json {
            write!(terminal::out(), "{table}")?;
        }
        if !options.quiet {
            terminal::note(format_args!(
                "{} · {} · load {:.2} s · median of {}",
                self.model.model,
                cpu::kernel().name(),
                load.as_secs_f64(),
                self.repeat
            ));
        }
        Ok(())
    }

    fn measure(&self, model: &Model, case: &Case) -> anyhow::Result<Figures> {
        cpu::set_threads(case.threads);
        let vocab = model.decoder().config().vocab_size as u64;
        // Knuth's multiplicative hash: ids without a pattern, the same in every run.
        let id = |at: usize| (((at as u64 * 2_654_435_761) >> 7) % vocab) as u32;
        let prompts: Vec<Vec<u32>> = (0..case.batch)
            .map(|row| {
                (0..case.prompt)
                    .map(|at| id(row * case.prompt + at))
                    .collect()
            })
            .collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let new = self.new.max(2);
        let context = ContextOptions::new(case.prompt + new);
        let mut session = Session::new(model.decoder(), case.batch, context)?;
        let stop = StopConditions::new(&[], new);
        let begun = Instant::now();
        let sampling = bitnet_burn::models::generation::SamplingConfig::default();
        let mut generation = Generation::new(&mut session, &prompts, &sampling, &stop)?;
        for token in &mut generation {
            token?;
        }
        let (timings, total) = (generation.timings(), begun.elapsed());
        anyhow::ensure!(total >= timings.decode, "the clock ran backwards");
        Ok(Figures {
            prefill: timings.prefill_rate(),
            decode: timings.decode_rate(case.batch),
            // The new − 1 steps that count hold prompt + 1 to prompt + new − 1 tokens.
            bytes: bytes_per_token(&session, case.prompt as f64 + new as f64 / 2.0),
        })
    }
}

/// Bytes that decoding one token must read while each row holds so many: the row's keys and values, and its share of the
/// weights, which are read once for all rows.
fn bytes_per_token(session: &Session<'_>, held: f64) -> f64 {
    let decoder = session.decoder();
    let embedding = &decoder.model.embed_tokens;
    let head = decoder.head().leading_bytes(); // the likeliest token is wanted
    let screen = embedding.screen().map_or(0, |screen| screen.bytes());
    let embedded = match (&decoder.lm_head, screen) {
        (None, 0) => 0.0, // a tied table is read whole anyway
        _ => (embedding.bytes() - screen) as f64 / embedding.dims()[0] as f64,
    };
    let [projections, _, vectors] = decoder.bytes();
    let weights = (projections + vectors + head) as f64;
    let (config, format) = (decoder.config(), session.cache().format());
    let words = format.words(config.head_dim) + usize::from(format.scaled());
    let position = config.n_layers * 2 * config.n_kv_heads * words * size_of::<u32>(); // keys and values
    weights / session.batch() as f64 + embedded + held * position as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
