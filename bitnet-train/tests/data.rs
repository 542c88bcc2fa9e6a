//! From sources to batches, through files: what is written is read back, what is damaged is refused, and a run that is
//! resumed sees what the unbroken run sees.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bitnet_models::chat::Message;
use bitnet_models::tokenizer::{Special, Tokenizer};
use bitnet_train::TrainError;
use bitnet_train::data::Stories;
use bitnet_train::data::batches::{
    Batch, BatchConfig, Batches, Packing, Position, Prefetch, Sampling,
};
use bitnet_train::data::shards::{self, BuildOptions, Index, Split, TokenData};
use bitnet_train::data::sources::{Source, Sources};
use bitnet_train::data::tokenizer::{Bpe, Characters, TokenizerBundle};
use tempfile::TempDir;

const NO_VALIDATION: Split = Split::Samples {
    fraction: 0.0,
    seed: 0,
};

fn sources(names: &[&str]) -> Sources {
    Sources::new(
        names
            .iter()
            .map(|name| name.parse().expect("a source"))
            .collect(),
    )
}

fn build(
    sources: &Sources,
    bundle: &TokenizerBundle,
    folder: &Path,
    options: &BuildOptions,
) -> Result<Index, TrainError> {
    shards::build(sources, bundle, folder, options, |_| ())
}

fn bpe(sources: &Sources) -> TokenizerBundle {
    Bpe::new(500)
        .expect("large enough")
        .train(sources)
        .expect("text")
}

/// Stories in several small shards.
fn stories(count: u64) -> (TempDir, TokenData) {
    let folder = tempfile::tempdir().expect("a folder");
    let sources = sources(&[&format!("stories:{count}")]);
    let options = BuildOptions::default()
        .with_split(NO_VALIDATION)
        .with_shard_tokens(3000);
    build(&sources, &bpe(&sources), folder.path(), &options).expect("stories");
    let data = TokenData::open(folder.path()).expect("just built");
    (folder, data)
}

fn batches(data: &TokenData, config: BatchConfig) -> Batches {
    config
        .init(data.split("train").expect("undamaged"))
        .expect("enough data")
}

/// The files of a folder with their bytes.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let content = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, fs::read(entry.path()).expect("a file"))
    };
    entries.map(content).collect()
}

#[test]
fn what_is_written_is_read_back_over_the_borders_of_shards() {
    let (_folder, data) = stories(40);
    let tokens = data.split("train").unwrap();
    assert!(data.index().train.shards.len() > 3);
    assert_eq!(
        (tokens.documents(), tokens.len()),
        (40, data.index().train.tokens)
    );
    let bundle = data.tokenizer().unwrap();
    let (mut ids, mut learned) = (Vec::new(), Vec::new());
    tokens.read(0..tokens.len(), &mut ids, &mut learned);
    for (number, story) in (0..40).zip(Stories::new(0)) {
        let range = tokens.document(number);
        let ids: Vec<u32> = ids[range.start as usize..range.end as usize]
            .iter()
            .map(|&id| id as u32)
            .collect();
        let text = format!("<|begin_of_text|>{}<|end_of_text|>", story.story);
        assert_eq!(bundle.tokenizer().decode(&ids, false).unwrap(), text);
    }
    assert!(learned.iter().all(|&learned| learned) && !tokens.is_masked());
}

#[test]
fn building_twice_gives_the_same_bytes() {
    let (one, other) = (stories(30).0, stories(30).0);
    assert_eq!(contents(one.path()), contents(other.path()));
    assert!(
        contents(one.path())
            .keys()
            .all(|name| !name.starts_with('.')),
        "no temporary files"
    );
}

#[test]
fn samples_are_split_by_hash_and_each_is_in_one_split() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(&["stories:400"]);
    let bundle = bpe(&sources);
    let build = |seed| {
        let options = BuildOptions::default().with_split(Split::Samples {
            fraction: 0.2,
            seed,
        });
        build(
            &sources,
            &bundle,
            folder.path(),
            &options.with_overwrite(true),
        )
        .unwrap()
    };
    let (one, other) = (build(1), build(2));
    for index in [&one, &other] {
        assert_eq!(index.train.documents + index.validation.documents, 400);
        assert!((50..110).contains(&index.validation.documents), "{index:?}");
    }
    assert_ne!(one.validation.tokens, other.validation.tokens);
    TokenData::open(folder.path())
        .unwrap()
        .split("validation")
        .unwrap();
}

/// A text of characters, its last tenth for validation.
fn characters(text: &str) -> (TempDir, TokenData) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("text.txt");
    fs::write(&path, text).expect("a file");
    let sources = Sources::new(vec![Source::Text {
        path,
        separator: None,
    }]);
    let bundle = Characters::train(&sources).expect("text");
    let options = BuildOptions::default().with_split(Split::Tail { fraction: 0.1 });
    build(&sources, &bundle, &folder.path().join("data"), &options).expect("text");
    let data = TokenData::open(&folder.path().join("data")).expect("just built");
    (folder, data)
}

fn alphabet(count: usize) -> String {
    (0..count)
        .map(|at| char::from(b'a' + (at * at % 26) as u8))
        .collect()
}

#[test]
fn the_last_fraction_of_one_text_is_cut_by_characters() {
    let text = alphabet(990) + "äöüß–abcde";
    let (_folder, data) = characters(&text);
    let mut joined = String::new();
    for (split, count) in [("train", 900), ("validation", 100)] {
        let tokens = data.split(split).unwrap();
        let (mut ids, mut learned) = (Vec::new(), Vec::new());
        tokens.read(0..tokens.len(), &mut ids, &mut learned);
        assert_eq!(ids.len(), count);
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        joined += &data
            .tokenizer()
            .unwrap()
            .tokenizer()
            .decode(&ids, false)
            .unwrap();
    }
    assert_eq!(joined, text);
}

#[test]
fn exported_character_tokenizers_load_like_any_other() {
    let (folder, data) = characters("Hello,\n world");
    let tokenizer = Tokenizer::load(&folder.path().join("data")).unwrap();
    assert_eq!(tokenizer.vocab_size(), data.index().vocab_size);
    assert_eq!(tokenizer.encode("\n ", Special::Parse).unwrap(), [0, 1]);
}

const SAMPLINGS: [Sampling; 3] = [
    Sampling::Shuffled,
    Sampling::Sequential,
    Sampling::RandomWindows,
];

#[test]
fn resuming_anywhere_gives_the_batches_of_the_unbroken_run() {
    let (_folder, data) = stories(40);
    for sampling in SAMPLINGS {
        let config = BatchConfig::new(4, 32).with_sampling(sampling).with_seed(3);
        let batches = Arc::new(batches(&data, config));
        let epoch = batches.steps_per_epoch();
        assert!(epoch > 10);
        let unbroken: Vec<Batch> = batches.iter().take(2 * epoch as usize + 3).collect();
        for step in [0, 1, epoch / 2, epoch - 1, epoch, epoch + 5] {
            // As a checkpoint stores it.
            let position = serde_json::to_string(&batches.position(step)).unwrap();
            let position: Position = serde_json::from_str(&position).unwrap();
            let resumed: Vec<Batch> = batches.iter_from(position).take(7).collect();
            let expected = unbroken.iter().skip(step as usize).take(7);
            assert!(resumed.iter().eq(expected), "{sampling:?} at {step}");
        }
    }
}

#[test]
fn prefetched_batches_are_the_same_and_the_position_is_that_of_the_next() {
    let (_folder, data) = stories(30);
    let config = BatchConfig::new(4, 32);
    let batches = Arc::new(batches(&data, config));
    let mut prefetch = Prefetch::new(Arc::clone(&batches), Position::default(), 3);
    for batch in batches.iter().take(5) {
        assert_eq!(prefetch.next().unwrap(), batch);
    }
    let position = prefetch.position();
    assert_eq!(position, batches.position(5));
    drop(prefetch);
    let resumed = Prefetch::new(Arc::clone(&batches), position, 1)
        .next()
        .unwrap();
    assert_eq!(resumed, batches.iter().nth(5).unwrap());
}

#[test]
fn a_prefetched_sequential_pass_ends() {
    let (_folder, data) = stories(10);
    let batches = Arc::new(batches(
        &data,
        BatchConfig::new(8, 64).with_sampling(Sampling::Sequential),
    ));
    let count = Prefetch::new(Arc::clone(&batches), Position::default(), 2).count();
    assert_eq!(count as u64, batches.steps_per_epoch());
}

#[test]
fn targets_are_the_ids_that_follow() {
    let (_folder, data) = stories(20);
    for sampling in SAMPLINGS {
        let batch = batches(&data, BatchConfig::new(3, 16).with_sampling(sampling))
            .iter()
            .next()
            .unwrap();
        assert_eq!(
            (batch.shape, batch.inputs.len(), batch.targets.len()),
            ([3, 16], 48, 48)
        );
        for row in 0..3 {
            assert_eq!(
                batch.inputs[row * 16 + 1..row * 16 + 16],
                batch.targets[row * 16..row * 16 + 15]
            );
        }
    }
}

#[test]
fn an_epoch_meets_every_row_once_and_the_next_one_in_another_order() {
    let (_folder, data) = stories(20);
    let batches = batches(&data, BatchConfig::new(1, 16));
    let epoch = batches.steps_per_epoch() as usize;
    let rows: Vec<Vec<i32>> = batches
        .iter()
        .take(2 * epoch)
        .map(|batch| batch.inputs)
        .collect();
    let (first, second) = rows.split_at(epoch);
    let distinct = |rows: &[Vec<i32>]| rows.iter().cloned().collect::<HashSet<_>>();
    assert_eq!(distinct(first), distinct(second));
    assert_ne!(first, second);
    let tokens = data.split("train").unwrap();
    let (mut ids, mut learned) = (Vec::new(), Vec::new());
    tokens.read(0..tokens.len(), &mut ids, &mut learned);
    let expected: HashSet<Vec<i32>> = ids[..epoch * 16].chunks(16).map(<[i32]>::to_vec).collect();
    assert_eq!(distinct(first), expected);
}

#[test]
fn a_sequential_pass_learns_every_target_once() {
    let (_folder, data) = stories(10);
    let config = BatchConfig::new(8, 50).with_sampling(Sampling::Sequential);
    let batches = batches(&data, config);
    let passed: Vec<Batch> = batches.iter().collect();
    let learned: usize = passed.iter().map(Batch::learned).sum();
    let all = (data.index().train.tokens as usize - 1) / 50 * 50;
    assert_eq!(learned, all);
    assert!(
        passed
            .iter()
            .all(|batch| batch.shape == [8, 50] && batch.mask.is_some())
    );
}

#[test]
fn ranks_take_disjoint_rows_of_the_same_batch() {
    let (_folder, data) = stories(20);
    let tokens = Arc::new(data.split("train").unwrap());
    for sampling in SAMPLINGS {
        let config = BatchConfig::new(6, 20).with_sampling(sampling);
        let third = |config: BatchConfig| {
            config
                .init(Arc::clone(&tokens))
                .unwrap()
                .iter()
                .nth(2)
                .unwrap()
        };
        let joined: Vec<i32> = (0..3)
            .flat_map(|rank| third(config.with_rank(rank, 3)).inputs)
            .collect();
        assert_eq!(joined, third(config).inputs);
    }
}

#[test]
fn random_windows_begin_anywhere_and_differ_from_step_to_step() {
    let text = alphabet(2000);
    let (_folder, data) = characters(&text);
    let batches = batches(
        &data,
        BatchConfig::new(32, 8).with_sampling(Sampling::RandomWindows),
    );
    let tokenizer = data.tokenizer().unwrap();
    let mut places = HashSet::new();
    for batch in batches.iter().take(20) {
        for row in batch.inputs.chunks(8) {
            let ids: Vec<u32> = row.iter().map(|&id| id as u32).collect();
            let window = tokenizer.tokenizer().decode(&ids, false).unwrap();
            places.insert(text[..1800].find(&window).expect("a part of the text") % 8);
        }
    }
    assert_eq!(places.len(), 8, "windows are not aligned");
}

/// Conversations as JSON Lines, and their data.
fn conversations(count: usize) -> (TempDir, TokenData) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.jsonl");
    let line = |at: usize| {
        let answer = "blue ".repeat(1 + at % 7);
        let messages = [
            Message::new("user", format!("Number {at}?")),
            Message::new("assistant", answer.trim()),
        ];
        serde_json::json!({ "messages": messages }).to_string() + "\n"
    };
    fs::write(&path, (0..count).map(line).collect::<String>()).expect("a file");
    let sources = Sources::new(vec![Source::JsonLines(path)]);
    let options = BuildOptions::default().with_split(NO_VALIDATION);
    build(
        &sources,
        &bpe(&sources),
        &folder.path().join("data"),
        &options,
    )
    .expect("conversations");
    let data = TokenData::open(&folder.path().join("data")).expect("just built");
    (folder, data)
}

#[test]
fn conversations_are_packed_whole_and_only_answers_are_learned() {
    let (_folder, data) = conversations(50);
    let bundle = data.tokenizer().unwrap();
    let tokenizer = bundle.tokenizer();
    let config = BatchConfig::new(2, 96)
        .with_packing(Packing::Whole)
        .with_sampling(Sampling::Sequential);
    let begin = tokenizer.bos_id().unwrap() as i32;
    let mut answers = String::new();
    let mut rows = 0;
    for batch in batches(&data, config).iter() {
        let mask = batch.mask.as_ref().unwrap();
        for (row, mask) in batch.inputs.chunks(96).zip(mask.chunks(96)) {
            rows += usize::from(mask.contains(&true));
            assert!(
                row[0] == begin || !mask.contains(&true),
                "a row begins with a conversation"
            );
        }
        let learned = batch.targets.iter().zip(mask).filter(|(_, mask)| **mask);
        let ids: Vec<u32> = learned.map(|(id, _)| *id as u32).collect();
        answers += &tokenizer.decode(&ids, false).unwrap();
    }
    let expected: String = (0..50)
        .map(|at| format!("{}<|eot_id|>", "blue ".repeat(1 + at % 7).trim()))
        .collect();
    assert_eq!(answers, expected);
    assert!(rows < 50, "several conversations share a row");
}

#[test]
fn documents_longer_than_a_row_are_cut_without_a_loss() {
    let (_folder, data) = stories(12);
    let config = BatchConfig::new(1, 40)
        .with_packing(Packing::Whole)
        .with_sampling(Sampling::Sequential);
    let batches = batches(&data, config);
    let learned: usize = batches.iter().map(|batch| batch.learned()).sum();
    // Every id but the first of each document.
    assert_eq!(learned as u64, data.index().train.tokens - 12);
}

#[test]
fn tensors_hold_the_batch() {
    let (_folder, data) = conversations(30);
    let batch = batches(&data, BatchConfig::new(2, 16))
        .iter()
        .next()
        .unwrap();
    let tensors = batch.to_tensors(&Default::default());
    assert_eq!(tensors.inputs.dims(), [2, 16]);
    let ids = tensors.targets.into_data().convert::<i32>();
    assert_eq!(ids.try_to_vec::<i32>().unwrap(), batch.targets);
    let mask = tensors.mask.unwrap().int().into_data().convert::<i32>();
    let mask: Vec<bool> = mask
        .try_to_vec::<i32>()
        .unwrap()
        .iter()
        .map(|&mask| mask == 1)
        .collect();
    assert_eq!(Some(mask), batch.mask);
}

fn message<T>(result: Result<T, TrainError>) -> String {
    match result {
        Ok(_) => panic!("this must be refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn empty_sources_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.txt");
    fs::write(&path, "").unwrap();
    let empty = Sources::new(vec![Source::Text {
        path,
        separator: None,
    }]);
    assert!(message(Bpe::new(300).unwrap().train(&empty)).contains("found none"));
    assert!(message(Characters::train(&empty)).contains("found none"));
    let bundle = bpe(&sources(&["stories:3"]));
    let out = folder.path().join("data");
    let error = message(build(&empty, &bundle, &out, &BuildOptions::default()));
    assert!(
        error.contains("samples to learn from: found none") && error.contains("empty.txt"),
        "{error}"
    );
    assert!(contents(&out).is_empty());
}

#[test]
fn data_shorter_than_a_sequence_or_a_batch_is_refused_with_its_size() {
    let (_folder, data) = characters("abcdefghij");
    let init = |config: BatchConfig| message(config.init(data.split("train").unwrap()));
    let error = init(BatchConfig::new(1, 9));
    assert!(
        error.contains("found 9 ids, expected at least 10"),
        "{error}"
    );
    let error = init(BatchConfig::new(1, 9).with_sampling(Sampling::RandomWindows));
    assert!(error.contains("found 9 ids"), "{error}");
    let error = init(BatchConfig::new(5, 2));
    assert!(
        error.contains("found 4 sequences, expected at least 5"),
        "{error}"
    );
    for config in [
        BatchConfig::new(0, 2),
        BatchConfig::new(4, 2).with_rank(0, 3),
        BatchConfig::new(4, 2).with_rank(2, 2),
    ] {
        init(config);
    }
}

#[test]
fn another_tokenizer_in_the_folder_is_noticed() {
    let (folder, data) = stories(5);
    let (same, other) = (data.tokenizer().unwrap(), bpe(&sources(&["stories:90:8"])));
    data.expect_tokenizer(&same).unwrap();
    assert!(message(data.expect_tokenizer(&other)).contains("another one"));
    fs::write(folder.path().join("tokenizer.json"), other.json()).unwrap();
    let error = message(TokenData::open(folder.path()));
    assert!(
        error.contains("tokenizer.json") && error.contains("expected the one that"),
        "{error}"
    );
}

#[test]
fn shards_of_other_data_are_noticed() {
    let (folder, _) = stories(40);
    let (_other, foreign) = conversations(60);
    let name = &foreign.index().train.shards[0];
    let from = _other.path().join("data").join(&name.file);
    fs::copy(from, folder.path().join("train-00000.tokens")).unwrap();
    message(TokenData::open(folder.path()).unwrap().split("train"));
}

#[test]
fn every_kind_of_damage_is_noticed() {
    let (folder, data) = stories(8);
    let path = folder.path().join("train-00000.tokens");
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        // Replaced by a new file, so that no mapping sees the change.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = message(data.split("train"));
        assert!(
            error.contains("train-00000.tokens") && error.contains("Prepare the data again"),
            "{error}"
        );
    };
    for at in [0, 9, 20, 50, 80, 90, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        refused(&changed);
    }
    for len in [1, 87, 88, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..len]);
    }
    refused(&[whole.clone(), vec![0]].concat());
    fs::remove_file(&path).unwrap();
    assert!(message(data.split("train")).contains("cannot open"));
    fs::write(folder.path().join("data.json"), "{}").unwrap();
    assert!(message(TokenData::open(folder.path())).contains("data.json"));
    fs::remove_file(folder.path().join("data.json")).unwrap();
    assert!(message(TokenData::open(folder.path())).contains("cannot read"));
}

#[test]
fn bad_lines_stop_a_build_or_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixed.jsonl");
    fs::write(
        &path,
        "{\"text\": \"one\"}\nnonsense\n{\"text\": \"two\"}\n{\"messages\": 3}\n",
    )
    .unwrap();
    let mixed = Sources::new(vec![Source::JsonLines(path)]);
    let bundle = bpe(&sources(&["stories:3"]));
    let options = BuildOptions::default().with_split(NO_VALIDATION);
    let out = folder.path().join("data");
    let error = message(build(&mixed, &bundle, &out, &options));
    assert!(error.contains("mixed.jsonl, line 2"), "{error}");
    assert!(contents(&out).is_empty(), "no traces");
    let mixed = mixed.with_skip_bad(true);
    let index = build(&mixed, &bundle, &out, &options).unwrap();
    assert_eq!((index.train.documents, mixed.skipped()), (2, 2));
}

#[test]
fn a_sample_that_cannot_be_encoded_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Characters::train(&sources(&["stories:3"])).unwrap();
    let options = BuildOptions::default().with_split(NO_VALIDATION);
    let error = message(build(
        &sources(&["stories:3", "dialogues:2"]),
        &bundle,
        folder.path(),
        &options,
    ));
    assert!(
        error.starts_with("sample 4 of stories:3:0, dialogues:2:0")
            && error.contains("chat template"),
        "{error}"
    );
}

#[test]
fn what_the_disk_refuses_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let sources = sources(&["stories:3"]);
    let bundle = bpe(&sources);
    let error = message(build(
        &sources,
        &bundle,
        &file.join("data"),
        &BuildOptions::default(),
    ));
    assert!(error.contains("cannot create"), "{error}");
    let error = message(build(
        &sources,
        &bundle,
        folder.path(),
        &BuildOptions::default(),
    ));
    assert!(error.contains("found files in it"), "{error}");
}

#[test]
fn replacing_leaves_no_old_shards() {
    let (folder, _) = stories(40);
    let sources = sources(&["stories:2"]);
    let options = BuildOptions::default()
        .with_split(NO_VALIDATION)
        .with_overwrite(true);
    build(&sources, &bpe(&sources), folder.path(), &options).unwrap();
    let names: Vec<String> = contents(folder.path()).into_keys().collect();
    assert_eq!(
        names,
        [
            "data.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "train-00000.tokens"
        ]
    );
}
