//! `train`: a recipe from its file to a run folder with checkpoints, metrics, curves and a packed model.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bitnet_burn::train::recipes::{self, Control, Ended, Plan, Progress, Recipe};
use clap::Args;
use indicatif::{HumanDuration, ProgressBar};
use sysinfo::System;

use super::interrupt::{self, Interrupted};
use super::{Options, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn train --config examples/recipes/tiny.toml                    A small model from built-in stories
  bitnet-burn train --config tiny.toml --dry-run                           How large, how long?
  bitnet-burn train --config tiny.toml --set steps=5000 optimizer.lr=2e-3
  bitnet-burn train --config tiny.toml --resume                            Go on from the last checkpoint
  bitnet-burn train --config 110m.toml --device cuda --devices 4           On four GPUs, the same batches and losses
  bitnet-burn train --config tiny.toml --set model.ternary=false output=runs/twin

The folder of the run then holds
  last/ and best/    checkpoints: float masters with tokenizer for any command, and what it takes to resume
  model.bpk          the ternary model: bitnet-burn infer --model RUN/model.bpk
  metrics.jsonl      loss, learning rate, speed, ternary weights; an object a line
  curves.svg         the same to look at
  config.toml        the recipe as it was run

Ctrl-C ends a run after its current step with a checkpoint.";

/// Train a ternary model from a recipe
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Train {
    /// The recipe, a TOML file
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Settings that win over the file, such as optimizer.lr=1e-3
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    set: Vec<String>,
    /// GPUs that share the rows of each batch, from the one of --device on; the loss stays that of one
    #[arg(long, value_name = "N", default_value = "1")]
    devices: NonZeroUsize,
    /// Go on from the last checkpoint in the folder of the run
    #[arg(long)]
    resume: bool,
    /// Say how large the training is and how long it will take, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Train {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let recipe = recipes::open(&self.config, &self.set)?;
        match self.dry_run {
            true => report(&*recipe, options),
            false => self.train(&*recipe, options),
        }
    }

    fn train(&self, recipe: &dyn Recipe, options: &Options) -> anyhow::Result<()> {
        let devices = options.open_devices(self.devices)?;
        let bar = terminal::training_bar(options.quiet);
        bar.set_message("preparing");
        let mut first = true;
        let mut progress = |progress: &Progress| show(&bar, progress, &mut first);
        let trained = recipe.train(
            &devices,
            Control {
                resume: self.resume,
                stop: interrupt::flag()?,
                progress: &mut progress,
            },
        );
        bar.finish_and_clear();
        let summary = trained?;

        let mut out = terminal::out();
        let output = recipe.output().display();
        write!(out, "{output}: {} steps", summary.step)?;
        if let Some(best) = summary.best {
            let perplexity = best.exp();
            write!(
                out,
                ", validation loss {best:.4} (perplexity {perplexity:.2})"
            )?;
        }
        match summary.ended {
            Ended::Early => writeln!(out, ", ended early: it fell no more")?,
            Ended::Finished | Ended::Stopped => writeln!(out)?,
        }
        match summary.packed {
            Some(packed) => {
                writeln!(out, "{}", packed.display())?;
                Ok(())
            }
            None => {
                terminal::note("stopped; --resume goes on");
                Err(Interrupted.into())
            }
        }
    }
}

fn show(bar: &ProgressBar, progress: &Progress, first: &mut bool) {
    if std::mem::take(first) {
        bar.set_length(progress.steps);
        // Speed and remaining time are of the steps from here on.
        bar.set_position(progress.step);
        bar.reset_eta();
    }
    bar.set_position(progress.step);
    let speed = bar.per_sec() * progress.step_tokens as f64;
    let validation = progress
        .validation_loss
        .map_or_else(String::new, |loss| format!("  validation {loss:.3}"));
    let (loss, lr) = (progress.loss, progress.lr);
    bar.set_message(format!(
        "loss {loss:.3}{validation}  lr {lr:.1e}  {speed:.0} tokens/s"
    ));
}

fn report(recipe: &dyn Recipe, options: &Options) -> anyhow::Result<()> {
    let plan = recipe.plan()?;
    let time = measured(recipe, &plan, options)?;
    let Plan {
        parameters: (projections, rest),
        ..
    } = plan;
    let mut table = terminal::Table::new(["what", "value"]);
    let mut line = |what: &str, value: String| table.push([what.to_owned(), value]);
    let vocabulary = match plan.prepared {
        true => plan.vocab_size.to_string(),
        false => format!("{} (until the data is prepared)", plan.vocab_size),
    };
    line("vocabulary", vocabulary);
    line("parameters", (projections + rest).to_string());
    line("of projections", projections.to_string());
    line("memory, about", terminal::size(plan.bytes));
    line("steps", plan.steps.to_string());
    line("tokens", plan.tokens.to_string());
    let per_second = |time: Duration| plan.tokens as f64 / plan.steps as f64 / time.as_secs_f64();
    line(
        "tokens/s",
        time.map_or_else(unknown, |time| format!("{:.0}", per_second(time))),
    );
    let all = |time: Duration| HumanDuration(time.mul_f64(plan.steps as f64)).to_string();
    line("time, about", time.map_or_else(unknown, all));
    write!(terminal::out(), "{table}")?;
    Ok(())
}

fn unknown() -> String {
    "unknown: it would fill this machine's memory to try".to_owned()
}

/// The time of a step, if the model certainly has room here.
fn measured(
    recipe: &dyn Recipe,
    plan: &Plan,
    options: &Options,
) -> anyhow::Result<Option<Duration>> {
    let mut system = System::new();
    system.refresh_memory();
    if plan.bytes > system.available_memory() / 2 {
        return Ok(None);
    }
    Ok(Some(recipe.time_step(&options.open_device()?)?))
}
