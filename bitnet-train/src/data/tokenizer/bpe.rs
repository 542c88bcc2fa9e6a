//! Byte-level BPE learned from texts, in the pipeline of Llama 3.
//!
//! The crate `tokenizers` learns: the most frequent pair of tokens is merged until the vocabulary is full (Sennrich et
//! al., arXiv 1508.07909), ties going to the older pair, so the result depends on the texts alone. It counts pairs in
//! 32 bits; so that no count overflows, a vocabulary is learned from the first 2 GiB of text.

use bitnet_models::chat::ChatTemplate;
use bitnet_models::tokenizer::{Tokenizer, Vocabulary};
use serde_json::Value;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::TokenizerBundle;
use crate::TrainError;
use crate::data::sources::Sources;

/// The special tokens, behind the learned ones: begin and end of a text, and what a conversation needs.
pub const SPECIAL_TOKENS: [&str; 5] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
];

/// Bytes, which every vocabulary has.
const BYTES: usize = 256;
/// Bytes of text to learn from: a pair occurs no more often.
const MOST: usize = i32::MAX as usize;
/// Bytes of text that one core cuts into words at once, about.
const PART: usize = 1 << 16;

/// A vocabulary to be learned.
#[derive(Debug, Clone)]
pub struct Bpe {
    vocab_size: usize,
}

impl Bpe {
    /// A vocabulary of this size, with bytes and [`SPECIAL_TOKENS`].
    ///
    /// # Errors
    /// When these alone do not fit.
    pub fn new(vocab_size: usize) -> Result<Self, TrainError> {
        let least = BYTES + SPECIAL_TOKENS.len();
        if vocab_size < least || u32::try_from(vocab_size).is_err() {
            return Err(TrainError::Request {
                what: "vocabulary size",
                found: vocab_size.to_string(),
                expected: format!("at least {least}: every byte and the special tokens"),
                way_out: "Small models take 1000 to 32000".to_owned(),
            });
        }
        Ok(Self { vocab_size })
    }

    /// Learns from a pass over the sources. The vocabulary is smaller than asked for if the texts have no more pairs.
    ///
    /// # Errors
    /// When the sources fail or hold no text.
    pub fn train(&self, sources: &Sources) -> Result<TokenizerBundle, TrainError> {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let (mut failure, mut bytes) = (None, 0);
        let samples = sources.samples().map_while(|sample| match sample {
            Ok(sample) => Some(sample),
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        let texts = samples
            .flat_map(|sample| {
                sample
                    .texts()
                    .into_iter()
                    .flat_map(parts)
                    .map(str::to_owned)
                    .collect::<Vec<String>>()
            })
            .take_while(|text| {
                bytes += text.len();
                bytes <= MOST
            });
        let trainer = BpeTrainer::builder()
            .vocab_size(self.vocab_size - SPECIAL_TOKENS.len())
            .initial_alphabet(alphabet.iter().copied().collect())
            .show_progress(false)
            .build();
        let tokens = alphabet.iter().map(char::to_string).collect();
        let json = tokenizer(tokens, Vec::new())?.to_json()?;
        let mut learner = tokenizers::Tokenizer::from_bytes(json).map_err(foreign)?;
        learner
            .train(&mut TrainerWrapper::from(trainer), texts)
            .map_err(foreign)?;
        if let Some(error) = failure {
            return Err(error);
        }
        if bytes == 0 {
            return Err(TrainError::Request {
                what: "texts to learn a vocabulary from",
                found: "none".to_owned(),
                expected: "some text".to_owned(),
                way_out: "Give sources with text, or an existing tokenizer for sources of ids"
                    .to_owned(),
            });
        }
        let (tokens, merges) = learned(&learner)?;
        TokenizerBundle::new(
            tokenizer(tokens, merges)?,
            Some(ChatTemplate::builtin("llama3")?),
        )
    }
}

/// The tokens by id and the merges by rank, "left right".
fn learned(learner: &tokenizers::Tokenizer) -> Result<(Vec<String>, Vec<String>), TrainError> {
    let mut vocabulary: Vec<(String, u32)> = learner.get_vocab(false).into_iter().collect();
    vocabulary.sort_unstable_by_key(|(_, id)| *id);
    let tokens = vocabulary.into_iter().map(|(token, _)| token).collect();
    let model = serde_json::to_value(learner.get_model()).map_err(|error| foreign(error.into()))?;
    let merges = model["merges"].as_array().into_iter().flatten();
    let joined = |pair: &Value| {
        let parts = pair
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        parts.collect::<Vec<&str>>().join(" ")
    };
    Ok((tokens, merges.map(joined).collect()))
}

/// What the trainer refuses.
fn foreign(error: tokenizers::Error) -> TrainError {
    TrainError::Request {
        what: "learning a vocabulary",
        found: error.to_string(),
        expected: "texts that can be cut into words".to_owned(),
        way_out: "Learn from other texts, or take the tokenizer of a model".to_owned(),
    }
}

/// The finished tokenizer; special tokens follow.
fn tokenizer(mut tokens: Vec<String>, merges: Vec<String>) -> Result<Tokenizer, TrainError> {
    let first = tokens.len();
    tokens.extend(SPECIAL_TOKENS.map(str::to_owned));
    let id = |token: usize| Some((first + token) as u32);
    let types = (0..tokens.len()).map(|at| if at < first { 1 } else { 3 });
    Ok(Tokenizer::from_vocabulary(&Vocabulary {
        model: "gpt2".to_owned(),
        pre: Some("llama-bpe".to_owned()),
        token_types: types.collect(),
        tokens,
        merges,
        bos_id: id(0),
        eos_id: id(1),
        eot_id: id(4),
        pad_id: id(1),
        add_bos: Some(true),
        ..Vocabulary::default()
    })?)
}

/// A long text in parts that end with a line, so that cores share it; the rule that cuts words cuts there, too.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let border = |pair: &[u8]| pair[0] == b'\n' && !pair[1].is_ascii_whitespace();
        let after = rest.as_bytes().get(PART..).unwrap_or_default();
        let end = after
            .windows(2)
            .position(border)
            .map_or(rest.len(), |at| PART + at + 1);
        let (part, left) = rest.split_at(end);
        rest = left;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use bitnet_models::tokenizer::Special;

    use super::*;
    use crate::data::sources::{Form, Source};

    fn stories(count: u64) -> Sources {
        Sources::new(vec![Source::Stories {
            count,
            seed: 1,
            form: Form::Stories,
        }])
    }

    #[test]
    fn the_most_frequent_pair_is_merged_first_and_ties_go_to_older_tokens() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "aab aab aab ab ab dcd dcd").unwrap();
        let path = file.path().to_path_buf();
        let sources = Sources::new(vec![Source::Text {
            path,
            separator: None,
        }]);
        let bundle = Bpe::new(300).unwrap().train(&sources).unwrap();
        let token = |id| bundle.tokenizer().token(id).unwrap();
        // ab occurs 5 times, space+ab, d+c and the rest less often.
        assert_eq!(token(256), "ab");
        assert_eq!(token(257), "aab");
    }

    #[test]
    fn the_same_texts_give_the_same_files() {
        let train = || Bpe::new(600).unwrap().train(&stories(60)).unwrap();
        let (one, other) = (train(), train());
        assert_eq!(one.json(), other.json());
        assert_eq!(one.config(), other.config());
    }

    #[test]
    fn any_text_survives_and_known_words_are_short() {
        let bundle = Bpe::new(800).unwrap().train(&stories(80)).unwrap();
        let tokenizer = bundle.tokenizer();
        assert_eq!(tokenizer.vocab_size(), 800);
        for text in [
            "Once upon a time,\n\n there was — Привет 🙂!\t",
            " a  b",
            "",
        ] {
            let ids = tokenizer.encode(text, Special::AsText).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
        let text = stories(1).samples().next().unwrap().unwrap();
        let ids = tokenizer.encode(text.texts()[0], Special::AsText).unwrap();
        assert!(
            ids.len() * 2 < text.len() as usize,
            "{} of {}",
            ids.len(),
            text.len()
        );
    }

    #[test]
    fn special_tokens_are_the_last_and_known_by_their_meaning() {
        let bundle = Bpe::new(300).unwrap().train(&stories(5)).unwrap();
        let tokenizer = Tokenizer::from_json_with_config(bundle.json(), bundle.config()).unwrap();
        assert_eq!(tokenizer.bos_id(), Some(295));
        assert_eq!(tokenizer.eos_ids(), [296, 299]);
        assert_eq!(tokenizer.encode_prompt("", Special::Parse).unwrap(), [295]);
        assert_eq!(
            tokenizer.encode("<|eot_id|>", Special::Parse).unwrap(),
            [299]
        );
    }

    #[test]
    fn parts_of_a_text_end_with_lines_and_lose_nothing() {
        let text = "a line \n\n".repeat(PART);
        let cut: Vec<&str> = parts(&text).collect();
        assert!(cut.len() > 1 && cut.iter().all(|part| part.ends_with("e \n\n")));
        assert_eq!(cut.concat(), text);
    }

    #[test]
    fn too_small_a_vocabulary_and_no_text_are_refused() {
        let error = Bpe::new(256).unwrap_err().to_string();
        assert!(
            error.contains("found 256, expected at least 261"),
            "{error}"
        );
        let error = Bpe::new(300)
            .unwrap()
            .train(&stories(0))
            .unwrap_err()
            .to_string();
        assert!(error.contains("found none"), "{error}");
    }
}
