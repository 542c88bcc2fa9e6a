//! `Model`: a decoder with its tokenizer, chat template and defaults. The door for programs that want text.
//!
//! ```no_run
//! use bitnet_models::{GenerateOptions, Model};
//! use burn::tensor::Device;
//!
//! let model = Model::load("models/bitnet-b1.58-2B-4T", &Device::default())?;
//! println!("{}", model.complete("The capital of France is", &GenerateOptions::default())?);
//! # Ok::<(), bitnet_models::ModelError>(())
//! ```

mod options;
mod scores;
mod sources;
mod text;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

pub use options::GenerateOptions;
use sources::Declared;
pub use sources::TokenizerFiles;
pub use text::{Text, TextStream};

use crate::ModelError;
use crate::chat::{ChatTemplate, Message};
use crate::decoder::{Decoder, LoadOptions};
use crate::generation::{Generation, SamplingConfig, Session};
use crate::tokenizer::{Special, Tokenizer};
use crate::weights::{Checkpoint, ConfigMap, ConfigReader, Random};
use crate::{architectures, weights};

/// A language model, ready to write.
#[derive(Debug)]
pub struct Model {
    decoder: Decoder,
    tokenizer: Option<Tokenizer>,
    declared: Declared,
    generation: ConfigMap,
    end_ids: Vec<u32>,
    source: PathBuf,
    format: &'static str,
}

impl Model {
    /// Loads a checkpoint of any format, for inference: a folder or a file.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the files, by name.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self, ModelError> {
        Self::load_with(path, device, &LoadOptions::default(), &mut |_, _| ())
    }

    /// Loads with options. `loaded` is told the number of tensors read and of all.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_with(
        path: impl AsRef<Path>,
        device: &Device,
        options: &LoadOptions,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        let checkpoint = weights::open(path.as_ref())?;
        Self::from_checkpoint(&*checkpoint, device, options, loaded)
    }

    /// Random weights of a named size (`tiny`, `2b4t`, …), made on the spot: for first steps and measurements. What it
    /// writes has no sense; `tiny` alone has a tokenizer, of bytes.
    ///
    /// # Errors
    ///
    /// [`ModelError::Request`] with the names there are.
    pub fn random(size: &str, device: &Device) -> Result<Self, ModelError> {
        let checkpoint = Random::new(size, 0)?;
        Self::from_checkpoint(&checkpoint, device, &LoadOptions::default(), &mut |_, _| ())
    }

    /// Loads from an opened checkpoint.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_checkpoint(
        checkpoint: &dyn Checkpoint,
        device: &Device,
        options: &LoadOptions,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        let config = architectures::read(checkpoint, options.overrides)?;
        // Text first: it fails in a moment, weights take longer.
        let (tokenizer, declared) = sources::text_of(checkpoint)?;
        if let Some(tokenizer) = &tokenizer
            && tokenizer.vocab_size() > config.vocab_size
        {
            return Err(ModelError::File {
                path: checkpoint.path().to_path_buf(),
                what: "the tokenizer".into(),
                found: format!("{} tokens", tokenizer.vocab_size()),
                expected: format!("at most the {} of the embedding", config.vocab_size),
                way_out: "The tokenizer belongs to another model. Get both again".into(),
            });
        }
        let mut end_ids = tokenizer
            .as_ref()
            .map_or_else(Vec::new, |tokenizer| tokenizer.eos_ids().to_vec());
        for map in [checkpoint.config(), checkpoint.generation()] {
            end_ids.extend(ConfigReader::of(checkpoint.path(), map).ids("eos_token_id")?);
        }
        end_ids.sort_unstable();
        end_ids.dedup();
        Ok(Self {
            decoder: Decoder::load(&config, checkpoint, options, device, loaded)?,
            tokenizer,
            declared,
            generation: checkpoint.generation().clone(),
            end_ids,
            source: checkpoint.path().to_path_buf(),
            format: checkpoint.format(),
        })
    }

    /// The network.
    pub const fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The file or folder that it came from.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Name of the format that it came in.
    pub const fn format(&self) -> &'static str {
        self.format
    }

    /// Ids that end a text or a turn.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// What the checkpoint recommends for sampling (`generation_config.json`).
    ///
    /// # Errors
    ///
    /// A value of the wrong type.
    pub fn recommended_sampling(&self) -> Result<SamplingConfig, ModelError> {
        let config = ConfigReader::of(&self.source, &self.generation);
        let mut sampling = SamplingConfig::default();
        if config.optional_bool("do_sample")?.unwrap_or(false) {
            sampling.temperature = config.optional_f64("temperature")?.unwrap_or(1.0);
            sampling.top_k = config.optional_usize("top_k")?.unwrap_or(0);
            sampling.top_p = config.optional_f64("top_p")?.unwrap_or(1.0);
        }
        let penalty = config.optional_f64("repetition_penalty")?;
        sampling.repetition_penalty = penalty.unwrap_or(1.0);
        Ok(sampling)
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// [`ModelError::File`] if the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, ModelError> {
        self.tokenizer.as_ref().ok_or_else(|| ModelError::File {
            path: self.source.clone(),
            what: "the tokenizer".into(),
            found: "none".into(),
            expected: "tokenizer.json, tokenizer.model or a tiktoken rank file beside the weights"
                .into(),
            way_out: "Copy the tokenizer's files from the model's repository".into(),
        })
    }

    /// The chat template: the checkpoint's own, corrected where it is known to be wrong, or a built-in one that fits its
    /// special tokens.
    ///
    /// # Errors
    ///
    /// A template that is no Jinja, or none at all and special tokens that suggest none.
    pub fn template(&self) -> Result<ChatTemplate, ModelError> {
        let architecture = &self.decoder.config().architecture;
        self.declared
            .template(&self.source, architecture, self.tokenizer()?)
    }

    /// Ids of a text as the beginning of a sequence. Special tokens in it are recognised, as the model's own tools do.
    ///
    /// # Errors
    ///
    /// As [`tokenizer`](Self::tokenizer).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.tokenizer()?.encode_prompt(text, Special::Parse)
    }

    /// Ids of a conversation, up to where the answer begins.
    ///
    /// # Errors
    ///
    /// As [`template`](Self::template), and a conversation that the template refuses.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        let template = self.template()?;
        template.chat_ids(self.tokenizer()?, messages, true, Special::Parse)
    }

    /// An empty session of `batch` rows, with room for what `options` ask for after prompts of up to `prompt_len` tokens.
    ///
    /// # Errors
    ///
    /// [`ModelError::ContextOverflow`] if the model's context is too short for the prompt.
    pub fn session(
        &self,
        batch: usize,
        prompt_len: usize,
        options: &GenerateOptions,
    ) -> Result<Session<'_>, ModelError> {
        let context = options.context_for(self.decoder.config(), prompt_len)?;
        Session::new(&self.decoder, batch, context)
    }

    /// An iterator over the tokens that continue `prompts`, one for each row of the session.
    ///
    /// # Errors
    ///
    /// Settings that make no sense, an empty prompt.
    pub fn generate<'s, 'm>(
        &'m self,
        session: &'s mut Session<'m>,
        prompts: &[&[u32]],
        options: &GenerateOptions,
    ) -> Result<Generation<'s, 'm>, ModelError> {
        let stop = options.stop_conditions(&self.end_ids);
        Generation::new(session, prompts, &options.sampling, &stop)
    }

    /// An iterator over pieces of the text that continues `prompt`, in the session's only row.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate), and a model without a tokenizer.
    pub fn stream<'s, 'm>(
        &'m self,
        session: &'s mut Session<'m>,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<TextStream<'s, 'm>, ModelError> {
        let tokenizer = self.tokenizer()?;
        let generation = self.generate(session, &[prompt], options)?;
        let text = Text::new(tokenizer, &options.stop)?;
        Ok(TextStream::new(generation, text))
    }

    /// The text that continues `prompt`.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream), and [`ModelError::ContextOverflow`].
    pub fn complete(&self, prompt: &str, options: &GenerateOptions) -> Result<String, ModelError> {
        let ids = self.encode(prompt)?;
        let mut session = self.session(1, ids.len(), options)?;
        self.stream(&mut session, &ids, options)?.collect()
    }

    /// The answer to a conversation.
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete) and [`encode_chat`](Self::encode_chat).
    pub fn answer(
        &self,
        messages: &[Message],
        options: &GenerateOptions,
    ) -> Result<String, ModelError> {
        let ids = self.encode_chat(messages)?;
        let mut session = self.session(1, ids.len(), options)?;
        self.stream(&mut session, &ids, options)?.collect()
    }
}
