//! Tokenizers against reference ids, in every form that a checkpoint may bring them: `tokenizer.json`, rank file,
//! SentencePiece model, GGUF lists. And hostile files.

#[path = "../../bitnet-kernels/tests/support/mod.rs"]
mod fixtures;
mod support {
    pub(crate) mod texts;
}

use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine;
use bitnet_models::ModelError;
use bitnet_models::tokenizer::{Special, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::texts::{self, llama3, llama3_json, tiny_models, tiny_tokenizer};

/// Texts that every pair of equal tokenizers must agree on.
fn assert_same_ids(one: &Tokenizer, other: &Tokenizer) {
    for text in texts::many() {
        for special in [Special::Parse, Special::AsText] {
            let ids = one.encode(&text, special).expect("a sound tokenizer");
            assert_eq!(
                other.encode(&text, special).expect("a sound tokenizer"),
                ids,
                "{text:?} {special:?}"
            );
        }
        let ids = one
            .encode_prompt(&text, Special::Parse)
            .expect("a sound tokenizer");
        assert_eq!(
            other
                .encode_prompt(&text, Special::Parse)
                .expect("a sound tokenizer"),
            ids
        );
        let [a, b] = [one, other].map(|t| t.decode(&ids, true).expect("a sound tokenizer"));
        assert_eq!(a, b);
    }
    assert_eq!(one.vocab_size(), other.vocab_size());
    assert_eq!(one.bos_id(), other.bos_id());
}

#[test]
fn the_llama_3_tokenizer_gives_the_reference_ids_and_their_text() {
    let reference: Value =
        serde_json::from_slice(&fixtures::fixture("llama3-tokenizer/strings.json")).unwrap();
    for case in reference["strings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids = texts::ids(&case["ids"]);
        assert_eq!(
            llama3().encode(text, Special::Parse).unwrap(),
            ids,
            "{text:?}"
        );
        assert_eq!(llama3().decode(&ids, false).unwrap(), text);
        let plain = case.get("ids_specials_as_text").map_or(ids, texts::ids);
        assert_eq!(
            llama3().encode(text, Special::AsText).unwrap(),
            plain,
            "{text:?}"
        );
        assert_eq!(llama3().decode(&plain, true).unwrap(), text);
    }
    let id = |key: &str| reference[key].as_u64().map(|id| id as u32);
    assert_eq!(llama3().bos_id(), id("bos_id"));
    for end in ["eos_id", "eot_id"] {
        assert!(llama3().eos_ids().contains(&id(end).unwrap()), "{end}");
    }
}

/// The rank file of a byte-level `tokenizer.json` with `ignore_merges`: its vocabulary without the special tokens.
fn rank_file(json: &[u8]) -> String {
    let json: Value = serde_json::from_slice(json).expect("JSON");
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..);
    let others: Vec<u8> = (0..=255).filter(|byte| !printable(byte)).collect();
    let byte = |c: char| match u32::from(c) {
        code @ 0..0x100 => code as u8,
        code => others[code as usize - 0x100],
    };
    let line = |(token, rank): (&String, &Value)| {
        let bytes: Vec<u8> = token.chars().map(byte).collect();
        format!(
            "{} {rank}\n",
            base64::engine::general_purpose::STANDARD.encode(bytes)
        )
    };
    json["model"]["vocab"]
        .as_object()
        .expect("a vocabulary")
        .iter()
        .map(line)
        .collect()
}

#[test]
fn a_rank_file_gives_the_ids_of_the_whole_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.model", "llama3.tiktoken"] {
        let path = folder.path().join(name);
        std::fs::write(&path, rank_file(&llama3_json())).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_same_ids(llama3(), &tokenizer);
        assert_eq!(tokenizer.id("<|eot_id|>"), llama3().id("<|eot_id|>"));
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn the_llama_3_tokenizer_survives_gguf_lists_and_json() {
    let vocabulary = llama3().to_vocabulary().unwrap();
    assert_eq!(vocabulary.pre.as_deref(), Some("llama-bpe"));
    assert_eq!(vocabulary.eot_id, llama3().id("<|eot_id|>"));
    let mut unnamed = vocabulary.clone();
    unnamed.pre = None; // as in the official file
    unnamed.eot_id = None;
    let rebuilt = Tokenizer::from_vocabulary(&unnamed).unwrap();
    assert_same_ids(llama3(), &rebuilt);
    assert_eq!(rebuilt.eos_ids(), llama3().eos_ids());
    assert_same_ids(
        llama3(),
        &Tokenizer::from_json_bytes(&rebuilt.to_json().unwrap()).unwrap(),
    );
}

#[test]
fn tiny_tokenizers_survive_gguf_lists_and_json() {
    let models = tiny_models();
    assert!(!models.is_empty());
    for folder in models {
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let vocabulary = tokenizer.to_vocabulary().unwrap();
        let rebuilt = Tokenizer::from_vocabulary(&vocabulary).unwrap();
        assert_same_ids(&tokenizer, &rebuilt);
        assert_eq!(rebuilt.to_vocabulary().unwrap(), vocabulary);
        let (json, config) = (rebuilt.to_json().unwrap(), rebuilt.to_config_json(None));
        let reread = Tokenizer::from_json_with_config(&json, &config).unwrap();
        assert_same_ids(&tokenizer, &reread);
        assert_eq!(reread.eos_ids(), rebuilt.eos_ids());
        assert_eq!(reread.pad_id(), rebuilt.pad_id());
    }
}

/// The folder of the SentencePiece fixture, which `make.py` in it made.
fn sentence_piece() -> &'static Path {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/sentence-piece"
    ))
}

static PIECES: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::load(sentence_piece()).expect("the fixture is a tokenizer"));

#[test]
fn a_sentence_piece_model_gives_the_ids_and_texts_of_sentencepiece() {
    let reference = std::fs::read(sentence_piece().join("strings.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let rebuilt = Tokenizer::from_vocabulary(&PIECES.to_vocabulary().unwrap()).unwrap();
    let reread = Tokenizer::from_json_bytes(&PIECES.to_json().unwrap()).unwrap();
    assert_eq!(
        PIECES.vocab_size() as u64,
        reference["n_pieces"].as_u64().unwrap()
    );
    for case in reference["strings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids = texts::ids(&case["ids"]);
        for tokenizer in [&*PIECES, &rebuilt, &reread] {
            assert_eq!(
                tokenizer.encode(text, Special::AsText).unwrap(),
                ids,
                "{text:?}"
            );
            assert_eq!(
                tokenizer.decode(&ids, true).unwrap(),
                case["decoded"].as_str().unwrap()
            );
        }
    }
}

#[test]
fn a_sentence_piece_prompt_begins_with_its_token_and_added_tokens_continue_the_list() {
    let hello = PIECES.encode("the", Special::Parse).unwrap();
    let prompt = PIECES.encode_prompt("the", Special::Parse).unwrap();
    assert_eq!(prompt, [&[1], hello.as_slice()].concat());
    assert_eq!(
        (PIECES.bos_id(), PIECES.eos_ids()),
        (Some(1), [2].as_slice())
    );

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::copy(
        sentence_piece().join("tokenizer.model"),
        folder.path().join("tokenizer.model"),
    )
    .unwrap();
    let n = PIECES.vocab_size();
    write("added_tokens.json", &json!({"<pad>": n}).to_string());
    write(
        "tokenizer_config.json",
        r#"{"add_bos_token": false, "pad_token": {"content": "<pad>"}}"#,
    );
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.pad_id(), Some(n as u32));
    assert_eq!(
        tokenizer.encode_prompt("the", Special::Parse).unwrap(),
        hello
    );
    assert_eq!(
        tokenizer.encode("<pad>", Special::Parse).unwrap(),
        [n as u32]
    );
    assert_ne!(
        tokenizer.encode("<pad>", Special::AsText).unwrap(),
        [n as u32]
    );

    write("added_tokens.json", &json!({"<pad>": n + 1}).to_string());
    let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("tokenizer.model") && message.contains("<pad>"),
        "{message}"
    );
}

/// All pieces of a stream and its flush.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut stream = tokenizer.decode_stream(skip_special);
    let mut pieces: Vec<String> = ids
        .iter()
        .map(|&id| stream.push(id).expect("a sound tokenizer"))
        .collect();
    pieces.push(stream.flush().expect("a sound tokenizer"));
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_of_any_ids_is_their_text(ids in prop::collection::vec(0u32..800, 0..40), skip: bool) {
        for tokenizer in [tiny_tokenizer(), &*PIECES] {
            let pieces = streamed(tokenizer, &ids, skip);
            prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, skip).unwrap());
        }
    }

    #[test]
    fn a_stream_of_text_never_shows_half_a_character(text in "\\PC{0,20}[\u{1F300}-\u{1F6FF}é日a ]{0,20}") {
        prop_assume!(!text.contains(char::REPLACEMENT_CHARACTER));
        let text = text.replace(char::REPLACEMENT_CHARACTER, "");
        for tokenizer in [tiny_tokenizer(), &*PIECES, llama3()] {
            let ids = tokenizer.encode(&text, Special::AsText).unwrap();
            let pieces = streamed(tokenizer, &ids, true);
            let broken = pieces.iter().any(|piece| piece.contains(char::REPLACEMENT_CHARACTER));
            prop_assert!(!broken);
            prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, true).unwrap());
        }
    }

    #[test]
    fn byte_level_ids_give_back_any_text(text in "\\PC{0,60}") {
        for tokenizer in [tiny_tokenizer(), llama3()] {
            let ids = tokenizer.encode(&text, Special::AsText).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.clone());
        }
    }

    #[test]
    fn damaged_files_are_errors_or_work(at in 0.0f64..1.0, byte: u8, cut: bool) {
        let mut json = texts::tiny_json();
        let at = (at * (json.len() - 1) as f64) as usize;
        if cut { json.truncate(at) } else { json[at] = byte }
        if let Ok(tokenizer) = Tokenizer::from_json_bytes(&json) {
            let ids = tokenizer.encode("Hello <|eot_id|> 12", Special::Parse).unwrap_or_default();
            tokenizer.decode(&ids, true).ok();
        }
        let mut model = std::fs::read(sentence_piece().join("tokenizer.model")).unwrap();
        let at = at % model.len();
        if cut { model.truncate(at) } else { model[at] = byte }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.model"), model).unwrap();
        if let Ok(tokenizer) = Tokenizer::load(folder.path()) {
            tokenizer.encode("Hello <s> 12", Special::Parse).ok();
        }
    }
}

#[test]
fn files_that_make_the_foreign_crate_panic_are_errors() {
    let model = |more: Value| {
        let mut model = json!({"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"]]});
        model
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        model
    };
    let tokenizer = |key: &str, part: Value| {
        let mut json = json!({"version": "1.0", "added_tokens": [], "model": model(json!({}))});
        json[key] = part;
        Tokenizer::from_json_bytes(json.to_string().as_bytes()).map_err(Box::new)
    };
    assert!(tokenizer("truncation", Value::Null).is_ok());
    let too_long = tokenizer("model", model(json!({"merges": [["aa", "aa"]]})));
    assert!(matches!(*too_long.unwrap_err(), ModelError::Text { .. }));
    let prefix = tokenizer("model", model(json!({"continuing_subword_prefix": "####"})));
    assert!(matches!(*prefix.unwrap_err(), ModelError::Text { .. }));
    let template = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
        "pair": [], "special_tokens": {}});
    assert!(tokenizer("post_processor", template).is_err());
    let strip = json!({"type": "Strip", "content": "a", "start": 0, "stop": 9});
    assert!(
        tokenizer("decoder", strip)
            .unwrap()
            .decode(&[0], true)
            .is_err()
    );
}

#[test]
fn a_begin_token_is_never_doubled() {
    let bos = llama3().bos_id().unwrap();
    let once = llama3().encode_prompt("hi", Special::Parse).unwrap();
    assert_eq!(once[0], bos);
    let written = llama3()
        .encode_prompt("<|begin_of_text|>hi", Special::Parse)
        .unwrap();
    assert_eq!(written, once);
    let typed = llama3()
        .encode_prompt("<|begin_of_text|>hi", Special::AsText)
        .unwrap();
    assert_eq!(typed.iter().filter(|&&id| id == bos).count(), 1);
    assert!(typed.len() > once.len());
}

#[test]
fn declared_rules_win_over_the_post_processor_and_are_written_back() {
    let json = texts::tiny_json();
    let config =
        br#"{"add_bos_token": false, "add_eos_token": true, "eos_token": "<|end_of_text|>"}"#;
    let tokenizer = Tokenizer::from_json_with_config(&json, config).unwrap();
    let eos = tokenizer.id("<|end_of_text|>").unwrap();
    let text = tokenizer.encode("hi", Special::Parse).unwrap();
    assert!(tokenizer.appends_eos());
    let expected = [text.as_slice(), &[eos]].concat();
    assert_eq!(
        tokenizer.encode_prompt("hi", Special::Parse).unwrap(),
        expected
    );
    assert_eq!(
        tokenizer
            .encode_prompt("hi<|end_of_text|>", Special::Parse)
            .unwrap(),
        expected
    );
    let reread = Tokenizer::from_json_bytes(&tokenizer.to_json().unwrap()).unwrap();
    assert_eq!(
        reread.encode_prompt("hi", Special::Parse).unwrap(),
        expected
    );
    assert!(!llama3().appends_eos());
}

#[test]
fn special_tokens_that_a_file_forgot_to_mark_cannot_be_typed() {
    let mut json: Value = serde_json::from_slice(&texts::tiny_json()).unwrap();
    for token in json["added_tokens"].as_array_mut().unwrap() {
        token["special"] = false.into();
    }
    let tokenizer = Tokenizer::from_json_bytes(json.to_string().as_bytes()).unwrap();
    let eot = tokenizer.id("<|eot_id|>").unwrap();
    assert_eq!(
        tokenizer.encode("<|eot_id|>", Special::Parse).unwrap(),
        [eot]
    );
    assert!(
        !tokenizer
            .encode("<|eot_id|>", Special::AsText)
            .unwrap()
            .contains(&eot)
    );
}

#[test]
fn a_folder_declares_its_tokens_in_any_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("tokenizer.json", &texts::tiny_json());
    let bare = Tokenizer::load(folder.path()).unwrap();
    let [bos, end, turn] =
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"].map(|t| bare.id(t).unwrap());
    assert_eq!(
        (bare.bos_id(), bare.eos_ids(), bare.pad_id()),
        (Some(bos), [end, turn].as_slice(), None)
    );

    write(
        "generation_config.json",
        br#"{"eos_token_id": [7, 8], "pad_token_id": 9}"#,
    );
    write("config.json", br#"{"eos_token_id": 5, "x": 1, "x": 2}"#);
    write(
        "special_tokens_map.json",
        br#"{"eos_token": {"content": "<|eot_id|>"}}"#,
    );
    let full = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(
        (full.eos_ids(), full.pad_id()),
        ([turn, 7, 8, 5, end].as_slice(), Some(9))
    );

    write("generation_config.json", b"{");
    let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("generation_config.json"), "{message}");
}

#[test]
fn a_folder_without_a_tokenizer_says_what_was_sought() {
    let folder = tempfile::tempdir().unwrap();
    let message = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("tokenizer.json") && message.contains("tokenizer.model"),
        "{message}"
    );
    let mut file = std::fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    file.write_all(b"{\"version\": \"1.0\"").unwrap();
    let error = Tokenizer::load(folder.path()).unwrap_err();
    assert!(matches!(error, ModelError::File { .. }), "{error}");
    assert!(Tokenizer::load(&folder.path().join("absent")).is_err());
}

#[test]
fn what_gguf_cannot_express_is_an_error() {
    let mut json: Value = serde_json::from_slice(&texts::tiny_json()).unwrap();
    json["pre_tokenizer"] = json!({"type": "Whitespace"});
    let tokenizer = Tokenizer::from_json_bytes(json.to_string().as_bytes()).unwrap();
    let message = tokenizer.to_vocabulary().unwrap_err().to_string();
    assert!(message.contains("pre_tokenizer"), "{message}");
    let words = br#"{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
    assert!(
        Tokenizer::from_json_bytes(words)
            .unwrap()
            .to_vocabulary()
            .is_err()
    );
}
