//! `chat`: a conversation, line by line; answers appear while they come.
//!
//! The session is kept: of each question only the tokens that the cache does not hold are fed. Answers are on stdout and
//! everything else on stderr, so that a piped conversation gives the answers alone.

mod commands;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use bitnet_burn::models::chat::Message;
use bitnet_burn::models::generation::{Session, Timings};
use bitnet_burn::models::{GenerateOptions, Model};
use clap::Args;

use super::model::{GenerateArgs, ModelArgs, report};
use super::{Options, interrupt, terminal};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn chat -m owner/name                                       A model with a chat format
  bitnet-burn chat -m model.gguf --system \"Answer in one sentence.\" --temperature 0.7
  bitnet-burn chat -m owner/name --slide                               Forget the oldest when the context is full
  printf 'Hello\\nAnd again?\\n' | bitnet-burn chat -m owner/name -q     A question a line, answers on stdout

Ctrl-C stops an answer, and leaves at the prompt. /help lists the commands of the conversation.";

/// Talk with a model
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Chat {
    /// What comes before the conversation, in the role of the system
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    generate: GenerateArgs,
}

/// A conversation in progress.
#[derive(Debug)]
struct Conversation<'m> {
    model: &'m Model,
    session: Session<'m>,
    options: GenerateOptions,
    history: Vec<Message>,
    last: Option<Timings>,
}

impl Chat {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let (model, _) = self.model.load(options)?;
        if let Some(note) = model.template()?.note() {
            log::warn!("{note}");
        }
        let mut generate = self.generate.options(&model)?;
        let whole = model.decoder().config().max_positions;
        generate.context.get_or_insert(whole);
        let stop = interrupt::flag()?;
        let mut conversation = Conversation {
            session: model.session(1, 1, &generate)?,
            model: &model,
            options: generate,
            history: self
                .system
                .map(|text| Message::new("system", text))
                .into_iter()
                .collect(),
            last: None,
        };
        let interactive = std::io::stdin().is_terminal();
        while let Some(line) = read_line(interactive)? {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let outcome = match line.strip_prefix('/') {
                Some("quit") => break,
                Some(command) => conversation.command(command),
                None => {
                    interrupt::rearm();
                    let answered = conversation.ask(line, stop);
                    if !options.quiet
                        && let (Ok(()), Some(timings)) = (&answered, conversation.last)
                    {
                        report(None, timings);
                    }
                    answered
                }
            };
            match outcome {
                Err(error) if interactive && !terminal::reader_is_gone(&error) => {
                    terminal::report(&error);
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }
}

/// The next line; `None` at the end of the input. Waiting, Ctrl-C leaves.
fn read_line(interactive: bool) -> anyhow::Result<Option<String>> {
    if interactive && std::io::stdout().is_terminal() {
        let mut out = terminal::out();
        write!(out, "> ")?;
        out.flush()?;
    }
    interrupt::idle();
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    let read = read.context("cannot read the question from standard input")?;
    Ok((read > 0).then_some(line))
}

impl Conversation<'_> {
    /// Adds a question and its answer, as far as it came, to the history. A question that fails is not added.
    fn ask(&mut self, question: &str, stop: &AtomicBool) -> anyhow::Result<()> {
        self.history.push(Message::new("user", question));
        let mut answer = String::new();
        let outcome = self.stream(&mut answer, stop);
        writeln!(terminal::out())?;
        if outcome.is_err() && answer.is_empty() {
            self.history.pop();
        } else {
            self.history.push(Message::new("assistant", answer));
        }
        outcome
    }

    fn stream(&mut self, answer: &mut String, stop: &AtomicBool) -> anyhow::Result<()> {
        let ids = self.model.encode_chat(&self.history)?;
        let mut stream = self.model.stream(&mut self.session, &ids, &self.options)?;
        let mut out = terminal::out();
        while let Some(next) = stream.next_token() {
            let (_, mut piece) = next.context(
                "the answer ends here; /reset begins anew, --slide forgets the oldest instead",
            )?;
            if stop.load(Ordering::Relaxed) {
                piece.push_str(&stream.interrupt()?);
            }
            write!(out, "{piece}")?;
            out.flush()?;
            answer.push_str(&piece);
        }
        self.last = Some(stream.timings());
        Ok(())
    }
}
