//! A vocabulary list becomes a tokenizer: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
//!
//! Method: trailing control tokens stay outside the BPE model, as in the published files, so that no text can merge
//! into one. SentencePiece has scores in place of merges: every split of a piece into two pieces is a merge, the highest
//! score first and, within a piece, the longest left part first.
//! Invariant: the id of a token is its place in the list, checked at the end.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::tokenizer::{AddedToken, NormalizerWrapper};

use super::pre_tokenizers::{PRE_TOKENIZERS, PreTokenizer};
use super::settings::{Mark, Settings};
use super::{Tokenizer, Vocabulary, byte_level, foreign, part, pre_tokenizers, refusal};
use crate::ModelError;

/// `tokenizer.ggml.token_type` and the piece types of SentencePiece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    /// `None` for a number that is no kind.
    pub(super) fn new(number: i32) -> Option<Self> {
        use Kind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        let kinds = [Normal, Unknown, Control, UserDefined, Unused, Byte];
        kinds.into_iter().find(|kind| *kind as i32 == number)
    }

    /// Whether tokens of this kind are sought in text before anything else.
    fn is_added(self) -> bool {
        matches!(self, Self::Control | Self::UserDefined)
    }
}

/// Where SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// Bytes of a piece, at most: trying every split of it takes the square of that. Known pieces have a few dozen.
const LONGEST_PIECE: usize = 1024;

/// Left parts, right parts.
type Merges = Vec<(String, String)>;

impl Tokenizer {
    /// From GGUF metadata alone. A byte-level vocabulary that names no pre-tokenizer is read with the rule of Llama 3,
    /// which the official BitNet files leave out.
    ///
    /// # Errors
    /// When the lists contradict each other, or name a kind of tokenizer or pre-tokenizer that is not known.
    pub fn from_vocabulary(vocabulary: &Vocabulary) -> Result<Self, ModelError> {
        Self::from_vocabulary_with(vocabulary, Settings::default())
    }

    /// The same, with what other files say; they win over the vocabulary.
    pub(super) fn from_vocabulary_with(
        vocabulary: &Vocabulary,
        mut settings: Settings,
    ) -> Result<Self, ModelError> {
        let kinds = kinds(vocabulary)?;
        let (inner, adds_bos) = match vocabulary.model.as_str() {
            "gpt2" => byte_level_bpe(vocabulary, &kinds)?,
            "llama" => (sentence_piece_bpe(vocabulary, &kinds)?, true),
            other => {
                return Err(refusal(
                    "tokenizer.ggml.model",
                    format!("`{other}`"),
                    "`gpt2` or `llama`",
                    "Give a tokenizer.json beside the model",
                ));
            }
        };
        let inner = with_added_tokens(inner, vocabulary, &kinds)?;
        settings.bos.extend(vocabulary.bos_id.map(Mark::Id));
        settings.eos.extend(vocabulary.eos_id.map(Mark::Id));
        settings.eos.extend(vocabulary.eot_id.map(Mark::Id));
        settings.pad.extend(vocabulary.pad_id.map(Mark::Id));
        let assumed = adds_bos && vocabulary.bos_id.is_some();
        let add_bos = settings.add_bos.or(vocabulary.add_bos);
        settings.add_bos = Some(add_bos.unwrap_or(assumed));
        settings.add_eos = settings.add_eos.or(vocabulary.add_eos);
        Self::new(inner, &settings)
    }
}

/// The kind of each token; all normal if the list is absent, save those that look like `<|this|>`.
fn kinds(vocabulary: &Vocabulary) -> Result<Vec<Kind>, ModelError> {
    let tokens = &vocabulary.tokens;
    if tokens.is_empty() {
        return Err(damaged("tokenizer.ggml.tokens", "no tokens", "some"));
    }
    if vocabulary.token_types.is_empty() {
        let declared = [vocabulary.bos_id, vocabulary.eos_id, vocabulary.eot_id];
        let kind = |(id, token): (usize, &String)| {
            let looks_special = token.starts_with("<|") && token.ends_with("|>");
            let is_declared = declared
                .iter()
                .flatten()
                .any(|&declared| declared as usize == id);
            if looks_special || is_declared {
                Kind::Control
            } else {
                Kind::Normal
            }
        };
        return Ok(tokens.iter().enumerate().map(kind).collect());
    }
    let types = &vocabulary.token_types;
    let kinds: Option<Vec<Kind>> = types.iter().map(|&number| Kind::new(number)).collect();
    match kinds {
        Some(kinds) if kinds.len() == tokens.len() => Ok(kinds),
        Some(kinds) => {
            let found = format!("{} types", kinds.len());
            let expected = format!("{}, one for each token", tokens.len());
            Err(damaged("tokenizer.ggml.token_type", found, expected))
        }
        None => Err(damaged(
            "tokenizer.ggml.token_type",
            "an unknown type",
            "types 1 to 6",
        )),
    }
}

/// The tokenizer, and whether its prompts begin with a token where the file does not say.
fn byte_level_bpe(
    vocabulary: &Vocabulary,
    kinds: &[Kind],
) -> Result<(tokenizers::Tokenizer, bool), ModelError> {
    let rule = PreTokenizer::named(vocabulary.pre.as_deref()).ok_or_else(|| {
        let known: Vec<_> = PRE_TOKENIZERS
            .iter()
            .flat_map(|rule| rule.names)
            .copied()
            .collect();
        refusal(
            "tokenizer.ggml.pre",
            format!("`{}`", vocabulary.pre.as_deref().unwrap_or_default()),
            format!("one of {}", known.join(", ")),
            "Give the tokenizer.json of the original model",
        )
    })?;
    let n_model = kinds
        .iter()
        .rposition(|kind| !kind.is_added())
        .map_or(0, |last| last + 1);
    let merges = vocabulary.merges.iter().map(|merge| {
        let (left, right) = merge.split_once(' ').unwrap_or((merge, ""));
        (left.to_owned(), right.to_owned())
    });
    let bpe = bpe(&vocabulary.tokens[..n_model], merges.collect(), |builder| {
        builder.ignore_merges(rule.ignore_merges)
    })?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    if let Some(json) = rule.normalizer_json() {
        with_normalizer(&mut inner, json)?;
    }
    inner.with_pre_tokenizer(Some(part::<tokenizers::PreTokenizerWrapper>(rule.json())?));
    inner.with_decoder(Some(part::<tokenizers::DecoderWrapper>(
        pre_tokenizers::byte_level(),
    )?));
    Ok((inner, rule.adds_bos))
}

fn sentence_piece_bpe(
    vocabulary: &Vocabulary,
    kinds: &[Kind],
) -> Result<tokenizers::Tokenizer, ModelError> {
    let (tokens, scores) = (&vocabulary.tokens, &vocabulary.scores);
    if scores.len() != tokens.len() || scores.iter().any(|score| score.is_nan()) {
        let expected = format!("{} numbers, one for each token", tokens.len());
        return Err(damaged(
            "tokenizer.ggml.scores",
            format!("{} scores", scores.len()),
            expected,
        ));
    }
    if let Some(piece) = tokens.iter().find(|piece| piece.len() > LONGEST_PIECE) {
        let found = format!("a piece of {} bytes", piece.len());
        let expected = format!("at most {LONGEST_PIECE} in each");
        return Err(damaged("tokenizer.ggml.tokens", found, expected));
    }
    let unknown = kinds.iter().position(|&kind| kind == Kind::Unknown);
    let unknown = vocabulary.unknown_id.map(|id| id as usize).or(unknown);
    let unknown = unknown.and_then(|id| tokens.get(id)).cloned();
    let has_bytes = kinds.contains(&Kind::Byte);
    let bpe = bpe(tokens, merges_of_scores(tokens, scores, kinds), |builder| {
        let builder = builder.byte_fallback(has_bytes).fuse_unk(true);
        match unknown {
            Some(token) => builder.unk_token(token),
            None => builder,
        }
    })?;
    let prefix = vocabulary.add_space_prefix.unwrap_or(true);
    let mut inner = tokenizers::Tokenizer::new(bpe);
    with_normalizer(&mut inner, sentence_piece_normalizer(prefix))?;
    let decoder = sentence_piece_decoder(prefix);
    inner.with_decoder(Some(part::<tokenizers::DecoderWrapper>(decoder)?));
    Ok(inner)
}

/// Spaces to their sign, and one in front.
pub(super) fn sentence_piece_normalizer(prefix: bool) -> Value {
    let mut steps = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
    if prefix {
        steps.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
    }
    json!({"type": "Sequence", "normalizers": steps})
}

fn sentence_piece_decoder(prefix: bool) -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": u8::from(prefix), "stop": 0},
    ]})
}

/// Every split of a normal piece into two normal pieces, in the order of merging.
fn merges_of_scores(tokens: &[String], scores: &[f32], kinds: &[Kind]) -> Merges {
    let normal = |id: &usize| kinds[*id] == Kind::Normal;
    let ids: HashMap<&str, usize> = (0..tokens.len())
        .filter(normal)
        .map(|id| (tokens[id].as_str(), id))
        .collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for id in (0..tokens.len()).filter(normal) {
        let piece = tokens[id].as_str();
        let splits = piece
            .char_indices()
            .skip(1)
            .map(|(at, _)| piece.split_at(at));
        let known = splits.filter(|(l, r)| ids.contains_key(l) && ids.contains_key(r));
        merges.extend(known.map(|(left, right)| (scores[id], left, right)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.len().cmp(&a.1.len())));
    merges
        .into_iter()
        .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}

/// The BPE model, after the checks that the crate's builder lacks: it panics on merges that make no token.
fn bpe(
    tokens: &[String],
    merges: Merges,
    configure: impl FnOnce(tokenizers::models::bpe::BpeBuilder) -> tokenizers::models::bpe::BpeBuilder,
) -> Result<BPE, ModelError> {
    let entries = tokens
        .iter()
        .zip(0u32..)
        .map(|(token, id)| (token.clone(), id));
    let vocab: HashMap<String, u32, _> = entries.collect();
    if vocab.len() != tokens.len() {
        let found = format!("{} tokens, {} of them different", tokens.len(), vocab.len());
        return Err(damaged("tokenizer.ggml.tokens", found, "no token twice"));
    }
    let is_token = |text: &str| vocab.contains_key(text);
    for (left, right) in &merges {
        if !(is_token(left) && is_token(right) && is_token(&[left.as_str(), right].concat())) {
            let found = format!("`{left} {right}`");
            return Err(damaged(
                "tokenizer.ggml.merges",
                found,
                "two tokens that make a third",
            ));
        }
    }
    let builder = configure(BPE::builder().vocab_and_merges(vocab, merges));
    foreign("vocabulary", || builder.build())
}

fn with_normalizer(inner: &mut tokenizers::Tokenizer, json: Value) -> Result<(), ModelError> {
    let normalizer = part::<NormalizerWrapper>(json)?;
    foreign("normalizer", || {
        inner.with_normalizer(Some(normalizer)).map(|_| ())
    })
}

/// Registers the tokens that are sought in text, in the order of their ids, and checks that they got them.
fn with_added_tokens(
    mut inner: tokenizers::Tokenizer,
    vocabulary: &Vocabulary,
    kinds: &[Kind],
) -> Result<tokenizers::Tokenizer, ModelError> {
    let tokens = &vocabulary.tokens;
    let sought = |id: &usize| kinds[*id].is_added() || kinds[*id] == Kind::Unknown;
    let added = (0..tokens.len()).filter(sought).map(|id| {
        let special = kinds[id] != Kind::UserDefined;
        AddedToken::from(tokens[id].clone(), special).normalized(false)
    });
    foreign("control tokens", || inner.add_tokens(added).map(|_| ()))?;
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| sought(id)) {
        if inner.token_to_id(token) != u32::try_from(id).ok() {
            let found = format!("token `{token}` a second time, or empty, at {id}");
            return Err(damaged("tokenizer.ggml.tokens", found, "different tokens"));
        }
    }
    Ok(inner)
}

/// The merges of a rank list: every split of a token into two tokens, by the ranks of the whole, the left and the right.
pub(super) fn merges_of_ranks(tokens: &[Vec<u8>]) -> Vec<String> {
    let alphabet = byte_level::alphabet();
    let text = |bytes: &[u8]| -> String {
        bytes
            .iter()
            .map(|&byte| alphabet[usize::from(byte)])
            .collect()
    };
    let ranks: HashMap<&[u8], usize> = tokens
        .iter()
        .enumerate()
        .map(|(rank, token)| (token.as_slice(), rank))
        .collect();
    let mut merges = Vec::new();
    for token in tokens {
        let splits = (1..token.len()).map(|at| token.split_at(at));
        let mut known: Vec<(usize, usize)> = splits
            .filter_map(|(left, right)| Some((*ranks.get(left)?, *ranks.get(right)?)))
            .collect();
        known.sort_unstable();
        merges.extend(
            known
                .into_iter()
                .map(|(left, right)| format!("{} {}", text(&tokens[left]), text(&tokens[right]))),
        );
    }
    merges
}

fn damaged(key: &str, found: impl Into<String>, expected: impl Into<String>) -> ModelError {
    refusal(
        key,
        found,
        expected,
        "Download the file again, or give a tokenizer.json",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn an_unknown_rule_is_named_with_the_known_ones() {
        let vocabulary = Vocabulary {
            model: "gpt2".to_owned(),
            pre: Some("martian".to_owned()),
            tokens: strings(&["a"]),
            ..Vocabulary::default()
        };
        let message = Tokenizer::from_vocabulary(&vocabulary)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("`martian`") && message.contains("llama-bpe"),
            "{message}"
        );
    }

    #[test]
    fn lists_that_contradict_each_other_are_errors() {
        let sound = Vocabulary {
            model: "gpt2".to_owned(),
            tokens: strings(&["a", "b", "ab", "<|end_of_text|>"]),
            token_types: vec![1, 1, 1, 3],
            merges: strings(&["a b"]),
            ..Vocabulary::default()
        };
        assert!(Tokenizer::from_vocabulary(&sound).is_ok());
        let damage: [fn(&mut Vocabulary); 8] = [
            |v| v.model = "t5".to_owned(),
            |v| v.tokens.clear(),
            |v| v.tokens[1] = "a".to_owned(),
            |v| v.tokens[3] = String::new(),
            |v| v.token_types[0] = 9,
            |v| v.token_types.truncate(2),
            |v| v.merges.push("ab ab".to_owned()),
            |v| v.merges.push("ab".to_owned()),
        ];
        for harm in damage {
            let mut vocabulary = sound.clone();
            harm(&mut vocabulary);
            assert!(matches!(
                Tokenizer::from_vocabulary(&vocabulary),
                Err(ModelError::Text { .. })
            ));
        }
    }

    #[test]
    fn scores_become_merges_best_first() {
        let tokens = strings(&["a", "aa", "aaa", "<s>", "<", "s>"]);
        let kinds = [
            Kind::Normal,
            Kind::Normal,
            Kind::Normal,
            Kind::Control,
            Kind::Normal,
            Kind::Normal,
        ];
        let merges = merges_of_scores(&tokens, &[0.0, -1.0, 5.0, 9.0, 0.0, 0.0], &kinds);
        let merges: Vec<_> = merges
            .iter()
            .map(|(l, r)| (l.as_str(), r.as_str()))
            .collect();
        assert_eq!(merges, [("aa", "a"), ("a", "aa"), ("a", "a")]);
    }
}
