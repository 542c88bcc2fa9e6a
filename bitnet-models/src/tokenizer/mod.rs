//! Text to ids and back. Knows neither models nor devices.
//!
//! One pipeline, that of the crate `tokenizers`, whatever the source: `tokenizer.json`, a tiktoken rank file, a
//! SentencePiece model or GGUF metadata. The last three are first turned into a [`Vocabulary`].
//!
//! Invariant: what a tokenizer adds around a prompt stands in its post-processor, so that
//! [`to_json`](Tokenizer::to_json) loses nothing. Panics of the foreign crate on damaged files come out as errors.

mod byte_level;
mod folder;
mod from_vocabulary;
mod pre_tokenizers;
mod sentence_piece;
mod settings;
mod shield;
mod stream;
mod tiktoken;
mod to_vocabulary;
mod vocabulary;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};
use tokenizers::tokenizer::{
    AddedVocabulary, DecoderWrapper, Encoding, Model, Normalizer, OffsetType, PostProcessor,
    PostProcessorWrapper, PreTokenizer, Token,
};

use crate::ModelError;
use settings::Settings;

pub use pre_tokenizers::PRE_TOKENIZERS;
pub(crate) use settings::object;
pub(crate) use shield::Shield;
pub use stream::DecodeStream;
pub use vocabulary::Vocabulary;

/// What becomes of text that spells a special token, such as `<|eot_id|>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// It becomes that token: for templates and other trusted text.
    Parse,
    /// It stays the characters it consists of: for text that strangers typed.
    AsText,
}

/// Tokens that begin a text, where no file says so.
const BEGIN: &[&str] = &["<|begin_of_text|>", "<s>", "<bos>"];

/// Special tokens that end a text or a turn. Files often declare one of several.
const END: &[&str] = &[
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
];

/// A tokenizer with the facts around it: what begins and ends a text, and what a prompt is wrapped in.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same added tokens, of which the special ones are not recognised in text.
    as_text: AddedVocabulary,
    before: Vec<u32>,
    after: Vec<u32>,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    vocab_size: usize,
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json` alone. End tokens are found by their names.
    ///
    /// # Errors
    /// When the bytes are no consistent tokenizer.
    pub fn from_json_bytes(json: &[u8]) -> Result<Self, ModelError> {
        Self::from_json(json, Settings::default())
    }

    /// From the bytes of a `tokenizer.json` and of the `tokenizer_config.json` beside it.
    ///
    /// # Errors
    /// When the bytes are no consistent tokenizer or no JSON object.
    pub fn from_json_with_config(json: &[u8], config: &[u8]) -> Result<Self, ModelError> {
        let mut settings = Settings::default();
        settings.read(config, "tokenizer_config.json".as_ref())?;
        Self::from_json(json, settings)
    }

    fn from_json(json: &[u8], settings: Settings) -> Result<Self, ModelError> {
        let inner = foreign("tokenizer.json", || tokenizers::Tokenizer::from_bytes(json))?;
        Self::new(inner, &settings)
    }

    /// The one door through which every tokenizer comes.
    fn new(inner: tokenizers::Tokenizer, settings: &Settings) -> Result<Self, ModelError> {
        let (before, after) = foreign("post-processor of the tokenizer", || affixes(&inner))?;
        let ids = inner.get_vocab(true).into_values();
        let mut this = Self {
            as_text: AddedVocabulary::default(),
            vocab_size: ids.max().map_or(0, |id| id as usize + 1),
            bos: None,
            eos: Vec::new(),
            pad: settings.pad.iter().find_map(|mark| mark.id(&inner)),
            inner,
            before,
            after,
        };
        let declared = settings.bos.iter().find_map(|mark| mark.id(&this.inner));
        let lone = || <[u32; 1]>::try_from(this.before.as_slice()).ok();
        this.bos = declared
            .or_else(|| lone().map(|[id]| id))
            .or_else(|| BEGIN.iter().find_map(|token| this.special_id(token)));
        let declared = settings.eos.iter().filter_map(|mark| mark.id(&this.inner));
        let known = END.iter().filter_map(|token| this.special_id(token));
        let mut eos: Vec<u32> = Vec::new();
        for id in declared.chain(known) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        this.eos = eos;
        this.wrap_prompts(settings)?;
        this.as_text = foreign("added tokens", || this.added_as_text())?;
        Ok(this)
    }

    /// Declared `add_bos_token` and `add_eos_token` win over the post-processor, and are written into it.
    fn wrap_prompts(&mut self, settings: &Settings) -> Result<(), ModelError> {
        let wanted = |declared: Option<bool>, id: Option<u32>, present: &[u32]| match declared {
            Some(true) => id.map_or_else(|| present.to_vec(), |id| vec![id]),
            Some(false) => Vec::new(),
            None => present.to_vec(),
        };
        let before = wanted(settings.add_bos, self.bos, &self.before);
        let after = wanted(settings.add_eos, self.eos.first().copied(), &self.after);
        if (&before, &after) != (&self.before, &self.after) {
            let processor = template(&self.inner, &before, &after)?;
            self.inner.with_post_processor(Some(processor));
            (self.before, self.after) = (before, after);
        }
        Ok(())
    }

    /// Beside the tokens marked special, those count that end a turn or look like `<|this|>`: some files forget to mark
    /// them.
    fn added_as_text(&self) -> tokenizers::Result<AddedVocabulary> {
        let mut added = self.inner.get_added_vocabulary().clone();
        let unmarked: Vec<_> = (added.get_added_tokens_decoder().iter())
            .filter(|(id, token)| {
                let looks_special =
                    token.content.starts_with("<|") && token.content.ends_with("|>");
                !token.special && (looks_special || self.eos.contains(id) || self.bos == Some(**id))
            })
            .map(|(_, token)| token.clone().special(true))
            .collect();
        added.add_tokens(
            unmarked,
            self.inner.get_model(),
            self.inner.get_normalizer(),
        )?;
        added.set_encode_special_tokens(true);
        Ok(added)
    }

    /// The ids of a text, nothing added.
    ///
    /// # Errors
    /// When the tokenizer is inconsistent, or lacks a character and a token for unknown ones.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, ModelError> {
        let added = match special {
            Special::Parse => self.inner.get_added_vocabulary(),
            Special::AsText => &self.as_text,
        };
        self.run(added, self.inner.get_normalizer(), text)
    }

    fn run<N: Normalizer>(
        &self,
        added: &AddedVocabulary,
        normalizer: Option<&N>,
        text: &str,
    ) -> Result<Vec<u32>, ModelError> {
        foreign("text to encode", || {
            let mut pieces = added.extract_and_normalize(normalizer, text);
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            let model = self.inner.get_model();
            model.tokenize_in_pretokenized(&mut pieces, None)?;
            let encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    /// The ids of a prompt: with what the checkpoint's rules put before and after a text, unless the text has it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str, special: Special) -> Result<Vec<u32>, ModelError> {
        let mut ids = self.begun(self.encode(text, special)?);
        if !ids.ends_with(&self.after) {
            ids.extend(&self.after);
        }
        Ok(ids)
    }

    /// The ids with the begin-of-text token in front, if prompts of this checkpoint have one and `ids` does not.
    pub fn begun(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if !ids.starts_with(&self.before) {
            ids.splice(0..0, self.before.iter().copied());
        }
        ids
    }

    /// The text of ids. Ids without a token give nothing; bytes that are no UTF-8 give U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer is inconsistent.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, ModelError> {
        foreign("ids to decode", || self.inner.decode(ids, skip_special))
    }

    /// Decodes ids as they come, one at a time.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special)
    }

    /// One more than the greatest id. The model may have more, unused, rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token, spelled as in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, spelled as in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Every token that ends a text or a turn: declared ones first, then those known by name.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The token that fills up a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// Whether prompts end in a token of their own, as with embedding models.
    pub fn appends_eos(&self) -> bool {
        !self.after.is_empty()
    }

    /// A `tokenizer.json` that gives the same ids.
    ///
    /// # Errors
    /// When a part of the tokenizer cannot be written.
    pub fn to_json(&self) -> Result<Vec<u8>, ModelError> {
        foreign("tokenizer to write", || {
            Ok(self.inner.to_string(false)?.into_bytes())
        })
    }

    /// The `tokenizer_config.json` beside [`to_json`](Self::to_json), with the chat template if there is one.
    pub fn to_config_json(&self, chat_template: Option<&str>) -> Vec<u8> {
        let token = |id: Option<u32>| id.and_then(|id| self.token(id));
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "bos_token": token(self.bos),
            "eos_token": token(self.eos.first().copied()),
            "eos_token_id": self.eos,
            "pad_token": token(self.pad),
        });
        if let Some(template) = chat_template {
            config["chat_template"] = template.into();
        }
        format!("{config:#}\n").into_bytes()
    }

    fn special_id(&self, token: &str) -> Option<u32> {
        let special = self.inner.get_added_vocabulary().is_special_token(token);
        special.then(|| self.id(token)).flatten()
    }

    /// Whether tokens spell bytes in the GPT-2 alphabet.
    fn is_byte_level(&self) -> bool {
        matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }
}

/// What the post-processor puts before and after a text, found by giving it a text of one impossible token.
fn affixes(inner: &tokenizers::Tokenizer) -> tokenizers::Result<(Vec<u32>, Vec<u32>)> {
    let Some(processor) = inner.get_post_processor() else {
        return Ok(Default::default());
    };
    let token = Token::new(u32::MAX, String::new(), (0, 0));
    let encoding = processor.process(Encoding::from_tokens(vec![token], 0), None, true)?;
    let mut halves = encoding.get_ids().split(|&id| id == u32::MAX);
    let mut half = || halves.next().unwrap_or_default().to_vec();
    Ok((half(), half()))
}

/// A post-processor that puts these ids before and after a text.
fn template(
    inner: &tokenizers::Tokenizer,
    before: &[u32],
    after: &[u32],
) -> Result<PostProcessorWrapper, ModelError> {
    let mut special_tokens = serde_json::Map::new();
    let mut items = |ids: &[u32], side: u32| -> Vec<Value> {
        let mut item = |&id: &u32| {
            let token = inner.id_to_token(id).unwrap_or_default();
            let entry = json!({"id": token, "ids": [id], "tokens": [token]});
            special_tokens.insert(token.clone(), entry);
            json!({"SpecialToken": {"id": token, "type_id": side}})
        };
        ids.iter().map(&mut item).collect()
    };
    let mut wrapped = |sequence: &str, side: u32| -> Vec<Value> {
        let text = json!({"Sequence": {"id": sequence, "type_id": side}});
        [items(before, side), vec![text], items(after, side)].concat()
    };
    let single = wrapped("A", 0);
    let pair = [single.clone(), wrapped("B", 1)].concat();
    part(
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens}),
    )
}

/// A part of the pipeline from its form in `tokenizer.json`.
fn part<T: serde::de::DeserializeOwned>(json: Value) -> Result<T, ModelError> {
    foreign("part of the tokenizer", || {
        serde_json::from_value(json).map_err(Into::into)
    })
}

/// Runs code of the crate `tokenizers`, which panics on some damaged files (say, merges longer than any token).
fn foreign<T>(what: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, ModelError> {
    let found = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "parts that contradict each other".to_owned(),
    };
    let expected = "a consistent tokenizer";
    Err(refusal(what, found, expected, "Download its files again"))
}

/// An [`ModelError::Text`].
fn refusal(
    what: &str,
    found: impl Into<String>,
    expected: impl Into<String>,
    way_out: impl Into<String>,
) -> ModelError {
    ModelError::Text {
        what: what.to_owned(),
        found: found.into(),
        expected: expected.into(),
        way_out: way_out.into(),
    }
}
