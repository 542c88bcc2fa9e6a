//! `bench`: prefill and decode rates for threads, prompt lengths and batches, as a table or JSON.
//!
//! Each figure is the median of the repetitions. Prompts are random ids, so no cache of any kind helps; the first run of
//! a model, which touches every page for the first time, is not counted.

use std::io::Write;
use std::time::Instant;

use bitnet_burn::kernels::cpu;
use bitnet_burn::models::Model;
use bitnet_burn::models::generation::{ContextOptions, Generation, Session, StopConditions};
use clap::Args;
use serde_json::json;

use super::model::{ModelArgs, peak_memory};
use super::{Options, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn bench -m random:2b4t                            The size of BitNet 2B4T, without its weights
  bitnet-burn bench -m model.bpk --cpu-threads 1,2 --prompt 128,512 --new 64
  bitnet-burn bench -m model.bpk --batch 1,8 --json > bench.json";

/// Measure prefill and decode in tokens per second
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

struct Case {
    threads: usize,
    batch: usize,
    prompt: usize,
}

impl Bench {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let (model, load) = self.model.load(options)?;
        let threads = if self.cpu_threads.is_empty() {
            vec![cpu::threads()]
        } else {
            self.cpu_threads.clone()
        };
        let mut table = terminal::Table::new([
            "threads",
            "batch",
            "prompt",
            "new",
            "prefill/s",
            "decode/s",
            "peak",
        ]);
        self.measure(
            &model,
            &Case {
                threads: threads[0],
                batch: 1,
                prompt: 4,
            },
        )?;
        for &threads in &threads {
            for &batch in &self.batch {
                for &prompt in &self.prompt {
                    let case = Case {
                        threads,
                        batch,
                        prompt,
                    };
                    let runs: Vec<[f64; 2]> = (0..self.repeat)
                        .map(|_| self.measure(&model, &case))
                        .collect::<Result<_, _>>()?;
                    let [prefill, decode] = [0, 1].map(|at| median(runs.iter().map(|run| run[at])));
                    let peak = peak_memory();
                    if self.json {
                        let object = json!({
                            "model": self.model.model,
                            "device": format!("{:?}", model.decoder().device()),
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
                        writeln!(terminal::out(), "{object}")?;
                    }
                    table.push([
                        threads.to_string(),
                        batch.to_string(),
                        prompt.to_string(),
                        self.new.to_string(),
                        format!("{prefill:.1}"),
                        format!("{decode:.1}"),
                        peak.map_or_else(String::new, terminal::size),
                    ]);
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

    /// Tokens per second of prefill and of decode, all sequences together.
    fn measure(&self, model: &Model, case: &Case) -> anyhow::Result<[f64; 2]> {
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
        Ok([timings.prefill_rate(), timings.decode_rate(case.batch)])
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
