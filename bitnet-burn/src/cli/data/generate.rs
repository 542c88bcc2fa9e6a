//! `data generate`: built-in stories to read, or for other programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use bitnet_burn::train::data::Stories;
use bitnet_burn::train::data::sources::{Form, Sample};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::super::terminal;

const EXAMPLES: &str = "\
Examples:
  bitnet-burn data generate 3                                        Three stories to read
  bitnet-burn data generate 1 --form dialogues --skip 41             The 42nd, as a conversation
  bitnet-burn data generate 10000 --jsonl -o stories.jsonl           An object a line
  bitnet-burn data generate 10000 --seed 7 | wc -w

A story depends on the seed and its number alone. As text, stories are separated by lines
`<|endoftext|>`, which `data prepare --separator '<|endoftext|>'` cuts at.";

/// Written between two stories.
const SEPARATOR: &str = "<|endoftext|>";

/// Write built-in stories and dialogues
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Generate {
    /// How many
    #[arg(value_name = "COUNT")]
    count: usize,
    /// What to write
    #[arg(long, value_enum, default_value_t)]
    form: Kind,
    /// Another seed, other stories
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Leave out the first N
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Write an object a line, with `text` or `messages`
    #[arg(long)]
    jsonl: bool,
    /// Write to a new file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Kind {
    /// Stories alone
    #[default]
    Stories,
    /// Stories with questions and answers below
    Questions,
    /// Conversations that tell or ask
    Dialogues,
}

impl Generate {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Some(path) = &self.output else {
            return self
                .write(&mut BufWriter::new(terminal::out()))
                .map_err(Into::into);
        };
        let file =
            File::create_new(path).with_context(|| format!("{}: cannot create", path.display()))?;
        let mut file = BufWriter::new(file);
        self.write(&mut file)
            .with_context(|| format!("{}: cannot write", path.display()))
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let form = match self.form {
            Kind::Stories => Form::Stories,
            Kind::Questions => Form::Questions,
            Kind::Dialogues => Form::Dialogues,
        };
        let numbered = (0..).zip(Stories::new(self.seed));
        for (at, (number, document)) in numbered.skip(self.skip).take(self.count).enumerate() {
            let sample = form.sample(document, number);
            if self.jsonl {
                writeln!(out, "{}", object(&sample))?;
                continue;
            }
            if at > 0 {
                writeln!(out, "\n{SEPARATOR}\n")?;
            }
            writeln!(out, "{}", text(&sample))?;
        }
        out.flush()
    }
}

fn object(sample: &Sample) -> serde_json::Value {
    match sample {
        Sample::Text(text) => json!({ "text": text }),
        Sample::Chat(messages) => json!({ "messages": messages }),
        Sample::Ids { ids, .. } => json!({ "input_ids": ids }),
    }
}

fn text(sample: &Sample) -> String {
    match sample {
        Sample::Chat(messages) => {
            let said = messages.iter().map(|message| {
                let speaker = if message.role == "user" {
                    "User"
                } else {
                    "Assistant"
                };
                format!("{speaker}: {}", message.content)
            });
            said.collect::<Vec<String>>().join("\n\n")
        }
        other => other.texts().concat(),
    }
}
