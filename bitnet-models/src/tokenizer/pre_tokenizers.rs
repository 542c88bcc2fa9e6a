//! How byte-level tokenizers cut text into words before merging: one entry for each rule that a GGUF file can name.
//!
//! `tokenizer.ggml.pre` is only a name, so the rules stand here. Sources: the `tokenizer.json` files of the models, and
//! the names that llama.cpp and ik_llama.cpp give to them.

use serde_json::{Value, json};

/// A rule for cutting text, with what goes along with it.
#[derive(Debug)]
pub struct PreTokenizer {
    /// Its names in `tokenizer.ggml.pre`; the first is the one written.
    pub names: &'static [&'static str],
    /// Regular expressions, applied one after the other; each match is a piece.
    pub(super) splits: &'static [&'static str],
    /// Whether text is brought into the composed Unicode form first.
    pub(super) composes: bool,
    /// Whether a piece that is a token is taken whole, before any merge.
    pub(super) ignore_merges: bool,
    /// Whether prompts begin with the begin-of-text token where the file does not say.
    pub(super) adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Every known rule. A file that names none is read with the first: the converter of the official BitNet files wrote no
/// name for their Llama-3 tokenizer.
pub static PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "falcon_e",
            "falcon-e",
        ],
        splits: &[concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        composes: false,
        ignore_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        splits: &[concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        composes: true,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["gpt-2", "gpt2", "phi-2", "olmo"],
        splits: &[GPT2],
        composes: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        splits: &[r"\p{N}", GPT2],
        composes: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["default"],
        splits: &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ],
        composes: false,
        ignore_merges: false,
        adds_bos: false,
    },
];

impl PreTokenizer {
    /// The rule with this name, the first one without a name.
    pub(super) fn named(name: Option<&str>) -> Option<&'static Self> {
        let wanted = |rule: &&Self| name.is_none_or(|name| rule.names.contains(&name));
        PRE_TOKENIZERS.iter().find(wanted)
    }

    /// The rule that a `tokenizer.json` writes out in these parts.
    pub(super) fn written_as(
        normalizer: &Value,
        pre_tokenizer: &Value,
        model: &Value,
    ) -> Option<&'static Self> {
        let composes = match normalizer["type"].as_str() {
            None => false,
            Some("NFC") => true,
            Some(_) => return None,
        };
        let mut splits = Vec::new();
        read_splits(pre_tokenizer, &mut splits)?;
        let ignore_merges = model["ignore_merges"].as_bool().unwrap_or(false);
        PRE_TOKENIZERS.iter().find(|rule| {
            rule.splits == splits
                && rule.composes == composes
                && rule.ignore_merges == ignore_merges
        })
    }

    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn json(&self) -> Value {
        let split = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let mut parts: Vec<Value> = self.splits.iter().map(split).collect();
        parts.push(byte_level());
        json!({"type": "Sequence", "pretokenizers": parts})
    }

    /// The `normalizer` of a `tokenizer.json`.
    pub(super) fn normalizer_json(&self) -> Option<Value> {
        self.composes.then(|| json!({"type": "NFC"}))
    }
}

/// Bytes to characters and back, without a rule of its own.
pub(super) fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// Collects the regular expressions; `None` for a part that is none.
fn read_splits<'a>(part: &'a Value, splits: &mut Vec<&'a str>) -> Option<()> {
    match part["type"].as_str()? {
        "Sequence" => {
            let parts = part["pretokenizers"].as_array()?;
            parts
                .iter()
                .try_for_each(|part| read_splits(part, splits))?;
        }
        "Split" if part["behavior"] == "Isolated" && part["invert"] == false => {
            splits.push(part["pattern"]["Regex"].as_str()?);
        }
        "ByteLevel" if part["add_prefix_space"] == false => {
            if part["use_regex"].as_bool().unwrap_or(true) {
                splits.push(GPT2);
            }
        }
        "Digits" if part["individual_digits"] == true => splits.push(r"\p{N}"),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_recognised_in_its_written_form() {
        for rule in PRE_TOKENIZERS {
            let normalizer = rule.normalizer_json().unwrap_or_default();
            let model = json!({"ignore_merges": rule.ignore_merges});
            let found = PreTokenizer::written_as(&normalizer, &rule.json(), &model);
            assert_eq!(found.map(|rule| rule.names), Some(rule.names));
        }
    }

    #[test]
    fn names_are_unique() {
        let names: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|rule| rule.names).collect();
        for name in &names {
            let rule = PreTokenizer::named(Some(name)).unwrap();
            assert!(rule.names.contains(name));
            assert_eq!(names.iter().filter(|other| other == &name).count(), 1);
        }
    }
}
