//! Conversations to prompts: chat templates in Jinja, as checkpoints carry them.
//!
//! A checkpoint's own template is used, unless it is known to be wrong; without one, a built-in is chosen by the special
//! tokens of the vocabulary. Rendering knows text only; [`ChatTemplate::chat_ids`] joins it with the tokenizer.
//! Invariant: a prompt has its begin-of-text token once, whether the template or the tokenizer supplies it.

mod builtin;
mod jinja;

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::tokenizer::{Shield, Special, Tokenizer, object};

pub use builtin::{BUILTIN, Builtin};

/// One contribution to a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks, e.g. `system`, `user`, `assistant`; a template may know others.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// What `role` says.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A chat template that compiles.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    origin: String,
    note: Option<String>,
}

/// The name of the one template in its environment.
const NAME: &str = "chat_template";

/// What the chat template of the official GGUF file of BitNet b1.58 2B4T puts before every answer. The model was
/// trained on another format.
const WRONG: &str = "BITNETAssistant";

impl ChatTemplate {
    /// From Jinja text; `origin` says where it stands, for messages.
    ///
    /// # Errors
    /// When it is no Jinja.
    pub fn from_source(source: &str, origin: &str) -> Result<Self, ModelError> {
        let compiled = jinja::compile(NAME, source);
        let environment = compiled.map_err(|error| ModelError::Text {
            what: format!("chat template of {origin}"),
            found: jinja::message(&error),
            expected: "a Jinja template".to_owned(),
            way_out: way_out(),
        })?;
        Ok(Self {
            environment,
            source: source.to_owned(),
            origin: origin.to_owned(),
            note: None,
        })
    }

    /// One of [`BUILTIN`] by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn builtin(name: &str) -> Result<Self, ModelError> {
        let found = BUILTIN.iter().find(|builtin| builtin.name == name);
        let builtin = found.ok_or_else(|| ModelError::Text {
            what: "chat template".to_owned(),
            found: format!("`{name}`"),
            expected: format!("one of {}", builtin::names()),
            way_out: "Choose one of these, or give a Jinja file".to_owned(),
        })?;
        Self::from_source(builtin.source, &format!("built-in `{name}`"))
    }

    /// The template that a checkpoint folder declares: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json`, where a list of named ones means the one named `default`.
    ///
    /// # Errors
    /// When a file cannot be read, or the template is no Jinja.
    pub fn of_folder(dir: &Path) -> Result<Option<Self>, ModelError> {
        let path = dir.join("chat_template.jinja");
        if path.is_file() {
            let source = std::fs::read_to_string(&path).map_err(ModelError::io("read", &path))?;
            return Self::from_source(&source, &path.display().to_string()).map(Some);
        }
        let path = dir.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(ModelError::io("read", &path))?;
        let config = object(&bytes, &path)?;
        let source = match config.get("chat_template") {
            Some(serde_json::Value::Array(named)) => {
                let default = named.iter().find(|entry| entry["name"] == "default");
                default
                    .or(named.first())
                    .and_then(|entry| entry["template"].as_str())
            }
            other => other.and_then(serde_json::Value::as_str),
        };
        source
            .map(|source| Self::from_source(source, &path.display().to_string()))
            .transpose()
    }

    /// The template to use for a model: the declared one, corrected where it is known to be wrong; without one, the
    /// built-in that fits the special tokens. `architecture` is the checkpoint's name for it.
    ///
    /// # Errors
    /// When nothing is declared and no built-in fits.
    pub fn choose(
        declared: Option<Self>,
        architecture: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Self, ModelError> {
        let is_bitnet = ["bitnet-b1.58", "bitnet-25", "BitNetForCausalLM"].contains(&architecture);
        if let Some(declared) = declared {
            let probe = [Message::new("user", "A")];
            let renders = |text: String| text.contains(WRONG);
            if is_bitnet && declared.render(&probe, true, "", "").is_ok_and(renders) {
                let note = format!(
                    "the chat template of {} writes `{WRONG}`, which this model was not trained on; using built-in \
                     `2b4t`",
                    declared.origin
                );
                return Ok(Self {
                    note: Some(note),
                    ..Self::builtin("2b4t")?
                });
            }
            return Ok(declared);
        }
        let has_all = |builtin: &&Builtin| {
            let marks = builtin.marks;
            marks.iter().all(|token| tokenizer.id(token).is_some())
                && (is_bitnet || !builtin.bitnet_only)
        };
        match BUILTIN.iter().find(has_all) {
            Some(builtin) => Ok(Self {
                note: Some(format!(
                    "no chat template declared; using built-in `{}`",
                    builtin.name
                )),
                ..Self::builtin(builtin.name)?
            }),
            None => Err(ModelError::Text {
                what: "chat template".to_owned(),
                found: "none, and no special tokens of a known chat format".to_owned(),
                expected: "one declared by the checkpoint".to_owned(),
                way_out: way_out(),
            }),
        }
    }

    /// The Jinja text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where the template stands.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What a user should know about the choice of this template.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The prompt as text. `bos` and `eos` are the tokens that the template may write.
    ///
    /// # Errors
    /// When the template refuses the messages, fails, or does not end.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String, ModelError> {
        let message = |message: &Message| {
            let Message { role, content } = message;
            BTreeMap::from([
                ("role", Value::from(role)),
                ("content", Value::from(content)),
            ])
        };
        let messages: Vec<Value> = messages.iter().map(|m| Value::from(message(m))).collect();
        let context = minijinja::context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            bos_token => bos,
            eos_token => eos,
            tools => (),
            documents => (),
        };
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|template| template.render(context));
        rendered.map_err(|error| ModelError::Text {
            what: format!("chat template of {}", self.origin),
            found: jinja::message(&error),
            expected: "messages that it accepts".to_owned(),
            way_out: way_out(),
        })
    }

    /// The ids to feed the model: the rendered text as one string, with the begin-of-text token exactly once where the
    /// model expects one.
    ///
    /// `special` is about the messages. [`Special::Parse`] takes the rendered text as it is. With [`Special::AsText`],
    /// special tokens come from the template alone, and what messages spell stays text; without such text, both give
    /// the same ids.
    ///
    /// # Errors
    /// As [`render`](Self::render) and [`Tokenizer::encode`].
    pub fn chat_ids(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
        special: Special,
    ) -> Result<Vec<u32>, ModelError> {
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let bos = token(tokenizer.bos_id());
        let eos = token(tokenizer.eos_ids().first().copied());
        let render =
            |messages: &[Message]| self.render(messages, add_generation_prompt, &bos, &eos);
        let ids = match special {
            Special::Parse => tokenizer.encode(&render(messages)?, Special::Parse)?,
            Special::AsText => {
                let texts = messages
                    .iter()
                    .flat_map(|m| [m.role.as_str(), m.content.as_str()]);
                let texts: Vec<&str> = texts.chain([self.source.as_str()]).collect();
                let shield = Shield::new(tokenizer, &texts)?;
                let hide =
                    |m: &Message| Message::new(shield.hide(&m.role), shield.hide(&m.content));
                let hidden: Vec<Message> = messages.iter().map(hide).collect();
                shield.encode(tokenizer, &render(&hidden)?)?
            }
        };
        Ok(tokenizer.begun(ids))
    }
}

fn way_out() -> String {
    format!(
        "Choose a built-in template ({}) or give a Jinja file",
        builtin::names()
    )
}
