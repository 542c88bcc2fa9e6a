//! Byte-level BPE learned from texts, in the pipeline of Llama 3.
//!
//! Method (Sennrich et al., arXiv 1508.07909): cut text into words, count them, and merge the most frequent pair of tokens until
//! the vocabulary is full. Ties go to the pair whose tokens are older, so that the result depends on the counts alone.
//! The trainer of the crate `tokenizers` keeps several queue entries for one pair and pops them in the order of a random hash.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use bitnet_models::chat::ChatTemplate;
use bitnet_models::tokenizer::{Tokenizer, Vocabulary};
use rayon::prelude::*;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

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
/// Characters that are cut into words at once.
const CHUNK: usize = 1 << 20;

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
    /// `progress` is told the tokens that are there.
    ///
    /// # Errors
    /// When the sources fail or hold no text.
    pub fn train(
        &self,
        sources: &Sources,
        mut progress: impl FnMut(usize),
    ) -> Result<TokenizerBundle, TrainError> {
        let alphabet = alphabet();
        let cutter = cutter(&alphabet)?;
        let words = count_words(sources, &cutter)?;
        let learned = self.vocab_size - SPECIAL_TOKENS.len();
        let (tokens, merges) = learn(alphabet, &words, learned, &mut progress);
        let tokenizer = tokenizer(tokens, merges)?;
        TokenizerBundle::new(tokenizer, Some(ChatTemplate::builtin("llama3")?))
    }
}

/// The printable characters that stand for bytes in the files of byte-level tokenizers, by byte: printable Latin-1 for itself,
/// the others from U+0100 on.
fn alphabet() -> Vec<String> {
    let mut next = 0x100;
    let mut spelled = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("below the surrogates")
        }
    };
    (0..=255).map(|byte| spelled(byte).to_string()).collect()
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

/// The pipeline before anything is learned: it cuts text into words.
fn cutter(alphabet: &[String]) -> Result<tokenizers::Tokenizer, TrainError> {
    let json = tokenizer(alphabet.to_vec(), Vec::new())?.to_json()?;
    Ok(tokenizers::Tokenizer::from_bytes(json).expect("our own file, read back"))
}

type Words = HashMap<String, u64>;

/// How often each word occurs, spelled in the alphabet of bytes.
fn count_words(sources: &Sources, cutter: &tokenizers::Tokenizer) -> Result<Words, TrainError> {
    let mut words = Words::new();
    let (mut chunk, mut size) = (Vec::new(), 0);
    for sample in sources.samples() {
        for text in sample?.texts() {
            for part in parts(text) {
                size += part.len();
                chunk.push(part.to_owned());
            }
        }
        if size >= CHUNK {
            count(&std::mem::take(&mut chunk), cutter, &mut words);
            size = 0;
        }
    }
    count(&chunk, cutter, &mut words);
    if words.is_empty() {
        return Err(TrainError::Request {
            what: "texts to learn a vocabulary from",
            found: "none".to_owned(),
            expected: "some text".to_owned(),
            way_out: "Give sources with text, or an existing tokenizer for sources of ids"
                .to_owned(),
        });
    }
    Ok(words)
}

/// A long text in parts that end with a line, so that cores share it and no word is cut.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len().min(CHUNK / 16);
        end = rest.as_bytes()[end..]
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(rest.len(), |at| end + at + 1);
        // Line breaks that follow each other are one word.
        end += rest.as_bytes()[end..]
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(part)
    })
}

fn count(texts: &[String], cutter: &tokenizers::Tokenizer, words: &mut Words) {
    let pre_tokenizer = cutter
        .get_pre_tokenizer()
        .expect("byte-level BPE cuts words");
    let counted: Vec<Words> = texts
        .par_iter()
        .map(|text| {
            let mut pieces = PreTokenizedString::from(text.as_str());
            pre_tokenizer
                .pre_tokenize(&mut pieces)
                .expect("any text can be cut");
            let mut words = Words::new();
            for (word, _, _) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                match words.get_mut(word) {
                    Some(count) => *count += 1,
                    None => {
                        words.insert(word.to_owned(), 1);
                    }
                }
            }
            words
        })
        .collect();
    for (word, count) in counted.into_iter().flatten() {
        *words.entry(word).or_default() += count;
    }
}

/// Two tokens side by side.
type Pair = (u32, u32);

/// A word as tokens, and how often it occurs.
struct Word {
    tokens: Vec<u32>,
    count: u64,
}

/// Learns merges until there are `vocab_size` tokens: all tokens, and the merges as "left right".
fn learn(
    mut tokens: Vec<String>,
    counted: &Words,
    vocab_size: usize,
    progress: &mut impl FnMut(usize),
) -> (Vec<String>, Vec<String>) {
    let mut ids: HashMap<String, u32> = (0..).zip(&tokens).map(|(id, t)| (t.clone(), id)).collect();
    let spell = |word: &str| {
        word.chars()
            .map(|c| ids[c.encode_utf8(&mut [0; 4]) as &str])
            .collect()
    };
    let word = |(word, &count): (&String, &u64)| Word {
        tokens: spell(word),
        count,
    };
    let mut words: Vec<Word> = counted.iter().map(word).collect();

    // How often each pair occurs, and in which words: all of them, perhaps more.
    let mut counts: HashMap<Pair, u64> = HashMap::new();
    let mut places: HashMap<Pair, BTreeSet<usize>> = HashMap::new();
    for (at, word) in words.iter().enumerate() {
        for pair in word.tokens.windows(2).map(|pair| (pair[0], pair[1])) {
            *counts.entry(pair).or_default() += word.count;
            places.entry(pair).or_default().insert(at);
        }
    }
    // An entry whose count is out of date is dropped: the change has pushed a new one.
    let mut queue: BinaryHeap<(u64, Reverse<Pair>)> = counts
        .iter()
        .map(|(&pair, &count)| (count, Reverse(pair)))
        .collect();
    let mut merges = Vec::new();
    while tokens.len() < vocab_size {
        let Some((count, Reverse(pair))) = queue.pop() else {
            break;
        };
        if count == 0 || counts.get(&pair) != Some(&count) {
            continue;
        }
        let (left, right) = (&tokens[pair.0 as usize], &tokens[pair.1 as usize]);
        merges.push(format!("{left} {right}"));
        let merged = format!("{left}{right}");
        let id = *ids.entry(merged.clone()).or_insert(tokens.len() as u32);
        if id as usize == tokens.len() {
            tokens.push(merged);
            progress(tokens.len());
        }
        let mut changed = BTreeSet::new();
        for at in places.remove(&pair).unwrap_or_default() {
            let word = &mut words[at];
            let pairs =
                |tokens: &[u32]| -> Vec<Pair> { tokens.windows(2).map(|p| (p[0], p[1])).collect() };
            for pair in pairs(&word.tokens) {
                *counts.entry(pair).or_default() -= word.count;
                changed.insert(pair);
            }
            word.tokens = merge(&word.tokens, pair, id);
            for pair in pairs(&word.tokens) {
                *counts.entry(pair).or_default() += word.count;
                places.entry(pair).or_default().insert(at);
                changed.insert(pair);
            }
        }
        for pair in changed {
            queue.push((counts[&pair], Reverse(pair)));
        }
    }
    (tokens, merges)
}

/// The tokens with each occurrence of the pair, from the left, replaced.
fn merge(tokens: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut merged = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].starts_with(&[pair.0, pair.1]) {
            merged.push(id);
            at += 2;
        } else {
            merged.push(tokens[at]);
            at += 1;
        }
    }
    merged
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
        let words = [
            ("aab".to_owned(), 3),
            ("ab".to_owned(), 2),
            ("cd".to_owned(), 3),
        ]
        .into();
        let bytes = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let (tokens, merges) = learn(bytes, &words, 100, &mut |_| ());
        // ab 5 times; then a+ab and c+d 3 times each, of which the first has the older left token.
        assert_eq!(merges, ["a b", "a ab", "c d"]);
        assert_eq!(tokens[4..], ["ab", "aab", "cd"]);
    }

    #[test]
    fn runs_of_one_token_merge_from_the_left() {
        assert_eq!(merge(&[1, 1, 1], (1, 1), 9), [9, 1]);
        let words = [("aaaa".to_owned(), 1)].into();
        let (tokens, _) = learn(vec!["a".to_owned()], &words, 100, &mut |_| ());
        assert_eq!(tokens, ["a", "aa", "aaaa"]);
    }

    #[test]
    fn the_same_texts_give_the_same_files() {
        let train = || Bpe::new(600).unwrap().train(&stories(60), |_| ()).unwrap();
        let (one, other) = (train(), train());
        assert_eq!(one.json(), other.json());
        assert_eq!(one.config(), other.config());
    }

    #[test]
    fn any_text_survives_and_known_words_are_short() {
        let bundle = Bpe::new(800).unwrap().train(&stories(80), |_| ()).unwrap();
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
        let bundle = Bpe::new(300).unwrap().train(&stories(5), |_| ()).unwrap();
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
        let text = "a line\n\n".repeat(CHUNK / 20);
        let cut: Vec<&str> = parts(&text).collect();
        assert!(cut.len() > 1 && cut.iter().all(|part| part.ends_with("\n\n")));
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
            .train(&stories(0), |_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("found none"), "{error}");
    }
}
