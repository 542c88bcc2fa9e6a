//! Rank files of tiktoken: a line for each token, its bytes in base64 and its rank.
//!
//! The file holds neither the rule for cutting text nor the special tokens. It is read as Meta's file for Llama 3, the
//! only one that BitNet checkpoints come with: the rule `llama-bpe` and, unless `tokenizer_config.json` lists others,
//! the 256 special tokens of Llama 3 behind the ranks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::from_vocabulary::{Kind, merges_of_ranks};
use super::settings::Added;
use super::{Vocabulary, byte_level, refusal};
use crate::ModelError;

/// Whether the first line is a token and a rank.
pub(super) fn is_rank_file(bytes: &[u8]) -> bool {
    bytes
        .split(|&byte| byte == b'\n')
        .next()
        .is_some_and(|line| entry(line).is_some())
}

/// The vocabulary of a rank file, with the special tokens behind it.
pub(super) fn vocabulary(bytes: &[u8], added: &[Added]) -> Result<Vocabulary, ModelError> {
    let lines = bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty());
    let mut ranked = Vec::new();
    for line in lines {
        let damaged = || {
            let found = String::from_utf8_lossy(line)
                .chars()
                .take(40)
                .collect::<String>();
            refusal(
                "rank file",
                format!("`{found}`"),
                "a token in base64 and its rank",
                "Download it again",
            )
        };
        ranked.push(entry(line).ok_or_else(damaged)?);
    }
    ranked.sort_unstable_by_key(|(_, rank)| *rank);
    let in_order = ranked
        .iter()
        .enumerate()
        .all(|(place, (_, rank))| place == *rank);
    if !in_order {
        return Err(refusal(
            "rank file",
            "ranks with gaps or twice",
            "ranks 0, 1, 2, ...",
            "Download it again",
        ));
    }
    let ranks: Vec<Vec<u8>> = ranked.into_iter().map(|(token, _)| token).collect();
    let alphabet = byte_level::alphabet();
    let text = |token: &Vec<u8>| {
        token
            .iter()
            .map(|&byte| alphabet[usize::from(byte)])
            .collect()
    };
    let mut vocabulary = Vocabulary {
        model: "gpt2".to_owned(),
        pre: Some("llama-bpe".to_owned()),
        tokens: ranks.iter().map(text).collect(),
        token_types: vec![Kind::Normal as i32; ranks.len()],
        merges: merges_of_ranks(&ranks),
        ..Vocabulary::default()
    };
    let behind = added
        .iter()
        .filter(|token| token.id as usize >= ranks.len());
    if behind.clone().next().is_some() {
        vocabulary.extend(behind)?;
    } else {
        let tokens = llama3_specials();
        vocabulary
            .token_types
            .extend(vec![Kind::Control as i32; tokens.len()]);
        vocabulary.tokens.extend(tokens);
    }
    let id = |name: &str| {
        let place = vocabulary.tokens.iter().position(|token| token == name);
        place.and_then(|place| u32::try_from(place).ok())
    };
    (vocabulary.bos_id, vocabulary.eos_id) = (id("<|begin_of_text|>"), id("<|end_of_text|>"));
    Ok(vocabulary)
}

fn entry(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (token, rank) = std::str::from_utf8(line).ok()?.trim().split_once(' ')?;
    let token = STANDARD
        .decode(token)
        .ok()
        .filter(|token| !token.is_empty())?;
    Some((token, rank.parse().ok()?))
}

/// In the order of their ids: 128000 `<|begin_of_text|>` to 128255 `<|reserved_special_token_250|>`.
fn llama3_specials() -> Vec<String> {
    let reserved = |range: std::ops::RangeInclusive<u32>| {
        range.map(|n| format!("<|reserved_special_token_{n}|>"))
    };
    let named = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    let mut tokens = named(&["<|begin_of_text|>", "<|end_of_text|>"]);
    tokens.extend(reserved(0..=3));
    tokens.extend(named(&["<|start_header_id|>", "<|end_header_id|>"]));
    tokens.extend(reserved(4..=4));
    tokens.extend(named(&["<|eot_id|>"]));
    tokens.extend(reserved(5..=250));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_has_256_special_tokens() {
        let tokens = llama3_specials();
        assert_eq!((tokens.len(), tokens[9].as_str()), (256, "<|eot_id|>"));
    }

    #[test]
    fn merges_are_all_splits_by_rank() {
        let file = b"YQ== 0\nYg== 1\nYWI= 2\nYWFi 3\n"; // a, b, ab, aab
        assert!(is_rank_file(file));
        let vocabulary = vocabulary(file, &[]).unwrap();
        assert_eq!(vocabulary.merges, ["a b", "a ab"]);
        assert_eq!(vocabulary.tokens.len(), 4 + 256);
    }

    #[test]
    fn damaged_rank_files_are_errors() {
        for bad in [
            "YQ== 0\nYg== 2\n",
            "YQ== 0\nYg== 0\n",
            "YQ== 0\n!! 1\n",
            "YQ== 0\nYg==\n",
        ] {
            assert!(vocabulary(bad.as_bytes(), &[]).is_err(), "{bad}");
        }
        assert!(!is_rank_file(b"\x0a\x0e\x0a\x05<unk>"));
    }
}
