//! `models`: download, list, remove and find models of the Hugging Face Hub, in the cache that Python shares.

use std::io::Write;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::hub::{self, Model, Settings, Want};
use super::terminal::{self, Table, size};
use super::{Options, interrupt};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn models pull microsoft/bitnet-b1.58-2B-4T     Download; an interrupted download goes on
  bitnet-burn models list                                  Names, revisions and sizes
  bitnet-burn models remove microsoft/bitnet-b1.58-2B-4T   Free the disk

Environment:
  HF_TOKEN       token for private and gated models (or what `hf auth login` stored)
  HF_HOME        folder of the cache and the token [default: ~/.cache/huggingface]
  HF_HUB_CACHE   folder of the cache alone [default: $HF_HOME/hub]
  HF_ENDPOINT    another server [default: https://huggingface.co]
  HF_HUB_OFFLINE 1 downloads nothing
  HTTPS_PROXY    proxy";

const PULL_EXAMPLES: &str = "\
Examples:
  bitnet-burn models pull microsoft/bitnet-b1.58-2B-4T
  bitnet-burn models pull microsoft/bitnet-b1.58-2B-4T@main
  bitnet-burn models pull microsoft/bitnet-b1.58-2B-4T-gguf --gguf=i2_s
  bitnet-burn models pull microsoft/bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf
  HF_ENDPOINT=https://hub.example.org bitnet-burn models pull owner/name";

const LIST_EXAMPLES: &str = "\
Examples:
  bitnet-burn models list
  bitnet-burn models list --json | jq -r '.[].model'";

const REMOVE_EXAMPLES: &str = "\
Examples:
  bitnet-burn models remove owner/name            All of it
  bitnet-burn models remove owner/name@v1         What only this revision needs";

const PATH_EXAMPLES: &str = "\
Examples:
  bitnet-burn models path owner/name
  ls $(bitnet-burn models path owner/name@v1)";

/// Download, list, remove and find models
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Models {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Download a model, or what is missing of it
    #[command(after_help = PULL_EXAMPLES)]
    Pull(Pull),
    /// List the models on this machine
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a model from this machine
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// owner/name[@revision]
        model: Model,
    },
    /// Print where a model lies
    #[command(after_help = PATH_EXAMPLES)]
    Path {
        /// owner/name[/file][@revision], or a path
        model: String,
    },
}

#[derive(Debug, Args)]
struct Pull {
    /// owner/name[/file][@revision]; the revision is a branch, tag or commit [default: main]
    model: Model,
    /// GGUF instead of safetensors: the files with PART in their name, or the only one
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true)]
    gguf: Option<Option<String>>,
    /// Download nothing: only say whether and where it is
    #[arg(long)]
    offline: bool,
}

impl Models {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        match self.action {
            Action::Pull(pull) => pull.run(options.quiet),
            Action::List { json } => list(json),
            Action::Remove { model } => remove(&model),
            Action::Path { model } => print_path(&hub::resolve(&model)?),
        }
    }
}

impl Pull {
    fn run(self, quiet: bool) -> anyhow::Result<()> {
        let want = match (self.gguf, &self.model.file) {
            (Some(_), Some(file)) => bail!("`{file}` names a file already: leave --gguf out"),
            (Some(part), None) => Want::Gguf(part),
            (None, Some(file)) => Want::File(file.clone()),
            (None, None) => Want::Checkpoint,
        };
        let settings = Settings::from_environment(self.offline)?;
        print_path(&hub::pull(
            &self.model,
            &want,
            &settings,
            interrupt::flag()?,
            quiet,
        )?)
    }
}

fn list(json: bool) -> anyhow::Result<()> {
    let cache = Settings::from_environment(true)?.cache;
    let models = cache.models()?;
    let mut out = terminal::out();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&models)?)?;
    } else if models.is_empty() {
        log::warn!(
            "no models in {}. `bitnet-burn models pull OWNER/NAME` downloads one",
            cache.root().display()
        );
    } else {
        let mut table = Table::new(["MODEL", "REVISIONS", "SIZE", ""]);
        for model in models {
            let note = if model.unfinished {
                "unfinished: pull it again"
            } else {
                ""
            };
            table.push([
                model.model,
                model.revisions.join(" "),
                size(model.size),
                note.into(),
            ]);
        }
        write!(out, "{table}")?;
    }
    Ok(())
}

fn remove(model: &Model) -> anyhow::Result<()> {
    if let Some(file) = &model.file {
        bail!(
            "`{file}`: files are not removed one by one, only a model or a revision: {}",
            model.repo
        );
    }
    let cache = Settings::from_environment(true)?.cache;
    let Some(freed) = cache.remove(model)? else {
        bail!(
            "model `{model}` is not in {}. `bitnet-burn models list` shows what is",
            cache.root().display()
        );
    };
    writeln!(terminal::out(), "removed {model}: {} freed", size(freed))?;
    Ok(())
}

fn print_path(path: &std::path::Path) -> anyhow::Result<()> {
    writeln!(terminal::out(), "{}", path.display())?;
    Ok(())
}
