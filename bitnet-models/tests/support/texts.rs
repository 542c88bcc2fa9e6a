//! Tokenizers of the fixtures, each loaded once, and texts to try on them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bitnet_models::tokenizer::Tokenizer;
use serde_json::Value;

use crate::fixtures::fixture;

/// The full Llama-3 `tokenizer.json`.
pub(crate) fn llama3_json() -> Vec<u8> {
    let mut json = Vec::new();
    let packed = fixture("llama3-tokenizer/tokenizer.json.gz");
    let mut decoder = flate2::read::GzDecoder::new(packed.as_slice());
    decoder.read_to_end(&mut json).expect("a gzip file");
    json
}

/// The full Llama-3 tokenizer.
pub(crate) fn llama3() -> &'static Tokenizer {
    static LLAMA3: LazyLock<Tokenizer> = LazyLock::new(|| {
        let config = fixture("llama3-tokenizer/tokenizer_config.json");
        Tokenizer::from_json_with_config(&llama3_json(), &config).expect("a sound tokenizer")
    });
    &LLAMA3
}

/// Every model folder that has a tokenizer.
pub(crate) fn tiny_models() -> Vec<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let root = std::env::var("BITNET_FIXTURES").unwrap_or_else(|_| default.to_owned());
    let mut found = Vec::new();
    collect(&Path::new(&root).join("models"), &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    if folder.join("tokenizer.json").is_file() {
        found.push(folder.to_path_buf());
    }
    for entry in std::fs::read_dir(folder)
        .expect("a folder of models")
        .flatten()
    {
        if entry.path().is_dir() {
            collect(&entry.path(), found);
        }
    }
}

/// One `tokenizer.json` of a few hundred tokens with the pipeline of Llama 3.
pub(crate) fn tiny_json() -> Vec<u8> {
    let folder = &tiny_models()[0];
    std::fs::read(folder.join("tokenizer.json")).expect("found before")
}

/// Its tokenizer.
pub(crate) fn tiny_tokenizer() -> &'static Tokenizer {
    static TINY: LazyLock<Tokenizer> =
        LazyLock::new(|| Tokenizer::from_json_bytes(&tiny_json()).expect("a sound tokenizer"));
    &TINY
}

/// A list of ids.
pub(crate) fn ids(json: &Value) -> Vec<u32> {
    let ids = json.as_array().expect("a list of ids").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// The reference texts, and many made of pieces that are cut or merged in different ways.
pub(crate) fn many() -> Vec<String> {
    let reference: Value =
        serde_json::from_slice(&fixture("llama3-tokenizer/strings.json")).expect("JSON");
    let cases = reference["strings"].as_array().expect("a list of texts");
    let mut texts: Vec<String> = cases
        .iter()
        .map(|case| case["text"].as_str().expect("a text").to_owned())
        .collect();
    let parts = [
        " the",
        "'ll",
        "\n",
        "  ",
        "\t",
        "1234",
        "Zürich",
        "日本",
        "🙂",
        "<|eot_id|>",
        "<|",
        "!?",
        "x",
        "ſ",
        "\u{301}",
        "é",
    ];
    for one in parts {
        for two in parts {
            texts.push([one, two, "a", two, one].concat());
        }
    }
    texts
}
