//! What a line that begins with `/` does. Replies go to stderr: stdout holds answers.

use anyhow::{Context, bail};
use bitnet_burn::models::chat::Message;

use super::Conversation;
use crate::cli::model::report;
use crate::cli::terminal;

const HELP: &str = "\
/help         this list
/reset        forget the conversation, but not what the system says
/undo         forget the last question and its answer
/system TEXT  what comes before the conversation; without TEXT, nothing
/save FILE    write the conversation, as JSON
/load FILE    go on with a conversation that was saved
/stats        tokens in the context; times of the last answer, and tokens that it did not have to read again
/quit         leave, as Ctrl-C and Ctrl-D do";

impl Conversation<'_> {
    /// Runs a command, given without its `/`.
    pub(super) fn command(&mut self, line: &str) -> anyhow::Result<()> {
        let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
        let argument = argument.trim();
        match name {
            "help" => terminal::note(HELP),
            "reset" => self.history.retain(|message| message.role == "system"),
            "undo" => {
                let last = self
                    .history
                    .iter()
                    .rposition(|message| message.role == "user");
                let last = last.context("nothing to undo: no question was asked")?;
                self.history.truncate(last);
            }
            "system" => {
                self.history.retain(|message| message.role != "system");
                if !argument.is_empty() {
                    self.history.insert(0, Message::new("system", argument));
                }
            }
            "save" | "load" if argument.is_empty() => {
                bail!("/{name}: which file? Say /{name} FILE")
            }
            "save" => {
                let text = serde_json::to_string_pretty(&self.history)?;
                std::fs::write(argument, text + "\n")
                    .with_context(|| format!("{argument}: cannot write the conversation"))?;
            }
            "load" => {
                let text = std::fs::read_to_string(argument)
                    .with_context(|| format!("{argument}: cannot read the conversation"))?;
                self.history = serde_json::from_str(&text).with_context(|| {
                    format!("{argument}: not a list of objects with `role` and `content`")
                })?;
            }
            "stats" => {
                let held = self.session.tokens(0).len();
                let room = self.options.context.unwrap_or(held);
                let messages = self.history.len();
                terminal::note(format_args!(
                    "{messages} messages · {held} of {room} tokens"
                ));
                if let Some(timings) = self.last {
                    report(None, timings);
                }
            }
            _ => bail!("/{name}: no such command; /help lists them"),
        }
        Ok(())
    }
}
