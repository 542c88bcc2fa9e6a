//! The commands, one file each, and the options that all of them share.
//!
//! A command is an `Args` struct with `run(self, &Options) -> anyhow::Result<()>`. To add one: write its file, add a
//! variant of `Command` and a line in `run`, and end its help with examples, which the tests ask for.

pub(crate) mod allocator;
mod batch;
mod bench;
mod chat;
mod completions;
mod convert;
mod data;
mod device;
mod doctor;
mod embed;
mod eval;
mod hub;
mod infer;
mod inspect;
pub(crate) mod interrupt;
mod model;
mod models;
mod rows;
pub(crate) mod terminal;
mod train;

use bitnet_burn::kernels::cpu;
use burn::tensor::Device;
use clap::{ArgAction, ColorChoice, Parser, Subcommand};
use std::num::NonZeroUsize;

const EXAMPLES: &str = "\
Examples:
  bitnet-burn infer --prompt \"Once upon a time\"            The story teller that is built in
  bitnet-burn doctor                                       Is everything right on this machine?
  bitnet-burn models pull microsoft/bitnet-b1.58-2B-4T     Download a model
  bitnet-burn models list                                  See what is there
  bitnet-burn help models                                  Help on a command

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

/// Run, inspect and convert ternary (BitNet, 1.58-bit) language models
#[derive(Debug, Parser)]
#[command(name = "bitnet-burn", version, after_help = EXAMPLES)]
#[command(styles = terminal::HELP, infer_subcommands = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Options {
    /// Where to compute: auto, cpu, flex, ndarray, cuda[:N], wgpu[:N], vulkan[:N], metal[:N] or rocm[:N];
    /// `auto` takes the best GPU that this build can use, else the CPU
    #[arg(
        long,
        global = true,
        value_name = "DEVICE",
        env = "BITNET_DEVICE",
        hide_env_values = true,
        default_value = "auto"
    )]
    pub(crate) device: device::Choice,
    /// Split products into at most N tasks on the CPU [default: one for each core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Print no progress and no warnings
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say what is done; twice for details, three times for everything (RUST_LOG chooses finer)
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Colours: auto, always or never; `auto` also obeys NO_COLOR
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub(crate) color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    Infer(Box<infer::Infer>),
    Chat(Box<chat::Chat>),
    Batch(Box<batch::Batch>),
    Convert(convert::Convert),
    Data(data::Data),
    Train(train::Train),
    Inspect(inspect::Inspect),
    Eval(eval::Eval),
    Embed(embed::Embed),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    Models(models::Models),
    Completions(completions::Completions),
}

impl Options {
    /// The device to compute on, with a CPU kernel that exists: a wrong `BITNET_KERNEL` is found here, not in a product.
    pub(crate) fn open_device(&self) -> anyhow::Result<Device> {
        cpu::try_kernel()?;
        self.device.open()
    }

    /// So many devices, the first of which is that of [`open_device`](Self::open_device).
    pub(crate) fn open_devices(&self, count: NonZeroUsize) -> anyhow::Result<Vec<Device>> {
        cpu::try_kernel()?;
        self.device.open_from(count)
    }
}

impl Cli {
    /// Applies the shared options, then runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let options = self.options;
        terminal::set_color(options.color);
        terminal::start_log(options.quiet, options.verbose);
        if let Some(count) = options.threads {
            cpu::set_threads(usize::from(count));
        }
        match self.command {
            Command::Infer(infer) => infer.run(&options),
            Command::Chat(chat) => chat.run(&options),
            Command::Batch(batch) => batch.run(&options),
            Command::Convert(convert) => convert.run(&options),
            Command::Data(data) => data.run(&options),
            Command::Train(train) => train.run(&options),
            Command::Inspect(inspect) => inspect.run(),
            Command::Eval(eval) => eval.run(&options),
            Command::Embed(embed) => embed.run(&options),
            Command::Bench(bench) => bench.run(&options),
            Command::Doctor(doctor) => doctor.run(&options),
            Command::Models(models) => models.run(&options),
            Command::Completions(completions) => completions.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn threads_are_a_count_from_one_up() {
        assert!(Cli::try_parse_from(["bitnet-burn", "--threads", "0", "doctor"]).is_err());
        assert!(Cli::try_parse_from(["bitnet-burn", "doctor", "--threads", "3"]).is_ok());
    }
}
