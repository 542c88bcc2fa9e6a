//! `infer`: continues a prompt, and shows the text while it comes.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use bitnet_burn::models::chat::Message;
use bitnet_burn::models::generation::StopReason;
use clap::Args;
use serde_json::json;

use super::interrupt::{self, Interrupted};
use super::model::{GenerateArgs, ModelArgs, report};
use super::{Options, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn infer --prompt \"Once upon a time\"                        Random tiny weights: shows that it works
  bitnet-burn infer -m model.gguf -p \"The capital of France is\" -n 20
  bitnet-burn infer -m owner/name --chat -p \"Why is the sky blue?\"     As a question, in the model's chat format
  cat question.txt | bitnet-burn infer -m owner/name > answer.txt
  bitnet-burn infer -m random:2b4t -p x -n 32 --ignore-eos             Speed of the real size

Ctrl-C ends the text where it is, with exit code 130.";

/// Continue a prompt
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Infer {
    /// The prompt; without it, --file or standard input
    #[arg(long, short, value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// A file with the prompt; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Treat the prompt as a question, in the model's chat format
    #[arg(long)]
    chat: bool,
    /// With --chat: what comes before the question, in the role of the system
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Print one JSON object at the end instead of text: prompt, text, ids, why it stopped, timings
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    generate: GenerateArgs,
}

impl Infer {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let prompt = self.read_prompt()?;
        let (model, load) = self.model.load(options)?;
        let generate = self.generate.options(&model)?;
        let ids = if self.chat {
            let system = self.system.map(|text| Message::new("system", text));
            let mut messages: Vec<Message> = system.into_iter().collect();
            messages.push(Message::new("user", prompt.trim_end()));
            if let Some(note) = model.template()?.note() {
                log::warn!("{note}");
            }
            model.encode_chat(&messages)?
        } else {
            model.encode(&prompt)?
        };
        let stop = interrupt::flag()?;
        log::info!("{} tokens in the prompt", ids.len());
        let mut session = model.session(1, ids.len(), &generate)?;
        let mut stream = model.stream(&mut session, &ids, &generate)?;
        let mut text = String::new();
        let mut out = terminal::out();
        while let Some(next) = stream.next_token() {
            let (_, mut piece) = next?;
            if stop.load(Ordering::Relaxed) {
                piece.push_str(&stream.interrupt()?);
            }
            if self.json {
                text.push_str(&piece);
            } else {
                write!(out, "{piece}")?;
                out.flush()?;
            }
        }
        let timings = stream.timings();
        if self.json {
            let object = json!({
                "prompt": prompt,
                "text": text,
                "ids": stream.ids(),
                "stop": stream.stop().map(|reason| format!("{reason:?}")),
                "prompt_tokens": timings.prompt_tokens,
                "new_tokens": timings.new_tokens,
                "load_seconds": load.as_secs_f64(),
                "first_token_seconds": timings.prefill.as_secs_f64(),
                "decode_tokens_per_second": timings.decode_rate(1),
            });
            writeln!(out, "{object}")?;
        } else {
            writeln!(out)?;
        }
        if !options.quiet {
            report(Some(load), timings);
        }
        match stream.stop() {
            Some(StopReason::Interrupted) => Err(Interrupted.into()),
            _ => Ok(()),
        }
    }

    fn read_prompt(&self) -> anyhow::Result<String> {
        if let Some(prompt) = &self.prompt {
            return Ok(prompt.clone());
        }
        match &self.file {
            Some(path) if path.as_os_str() != "-" => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the prompt from {}", path.display())),
            from => {
                let mut stdin = std::io::stdin();
                if from.is_none() && stdin.is_terminal() {
                    bail!("no prompt: give --prompt TEXT, --file FILE, or pipe a text in");
                }
                let mut text = String::new();
                let read = stdin.read_to_string(&mut text);
                read.context("cannot read the prompt from standard input")?;
                Ok(text)
            }
        }
    }
}
