//! A screen before the output head changes no token: in files, in memory, with every setting of a sampler; and a damaged one
//! is refused.

#[path = "../../bitnet-kernels/tests/support/devices.rs"]
mod devices;
#[allow(dead_code, reason = "`golden.rs` uses the rest")]
#[path = "support/golden.rs"]
mod golden;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_kernels::packing::Packing;
use bitnet_kernels::{CacheFormat, ScreenTensor, TableFormat};
use bitnet_models::decoder::LoadOptions;
use bitnet_models::generation::{
    ContextOptions, Generation, SamplingConfig, Session, StopConditions,
};
use bitnet_models::weights::{self, Arithmetic, PackOptions, Random, write_packed};
use bitnet_models::{Model, ModelError, architectures};
use burn::tensor::{Bytes, Device};
use devices::devices;
use golden::{models, root};

/// Packs a checkpoint with these tables.
fn pack(source: &Path, to: &Path, table: TableFormat, screen: bool) -> Result<(), ModelError> {
    let checkpoint: Arc<dyn weights::Checkpoint> = match source.to_str() {
        Some("random") => Arc::new(Random::new("tiny", 0).expect("a fixture")),
        _ => Arc::from(weights::open(source).expect("a fixture")),
    };
    let config =
        architectures::read(&*checkpoint, architectures::Overrides::default()).expect("a fixture");
    let options = PackOptions {
        table,
        screen,
        ternary: Packing::Words,
        arithmetic: Arithmetic::F32,
        tokenizer: None,
        tokenizer_config: None,
        overwrite: false,
    };
    write_packed(to, &checkpoint, &config, &options, |_, _| ())
}

fn load(path: &Path, table: Option<TableFormat>, device: &Device) -> Model {
    let options = LoadOptions {
        table,
        ..LoadOptions::exact()
    };
    Model::load_with(path, device, &options, &mut |_, _| ()).expect("a fixture")
}

fn ids(model: &Model, sampling: &SamplingConfig) -> Vec<u32> {
    let prompts = [[1, 5, 9, 2].as_slice(), &[7]];
    let context = ContextOptions {
        cache: CacheFormat::F32,
        ..ContextOptions::new(24)
    };
    let mut session = Session::new(model.decoder(), prompts.len(), context).expect("a fixture");
    let stop = StopConditions::new(&[3], 12);
    let tokens = Generation::new(&mut session, &prompts, sampling, &stop).expect("a fixture");
    tokens.map(|token| token.expect("a fixture").id).collect()
}

/// Settings of every kind: those that few logits decide, and those that need all.
fn settings() -> Vec<SamplingConfig> {
    let greedy = SamplingConfig::default();
    let warm = SamplingConfig {
        temperature: 1.5,
        seed: 3,
        ..greedy.clone()
    };
    vec![
        SamplingConfig {
            suppress: (0..40).collect(),
            min_new_tokens: 6,
            ..greedy.clone()
        },
        SamplingConfig {
            repetition_penalty: 1.3,
            ..greedy.clone()
        },
        SamplingConfig {
            logprobs: Some(3),
            ..greedy.clone()
        },
        greedy,
        SamplingConfig {
            top_k: 5,
            ..warm.clone()
        },
        SamplingConfig {
            top_k: 40,
            top_p: 0.8,
            min_keep: 2,
            suppress: vec![1, 2],
            ..warm.clone()
        },
        SamplingConfig { top_p: 0.9, ..warm },
    ]
}

#[test]
fn a_screened_file_writes_the_tokens_of_the_same_file_without() {
    let folder = tempfile::tempdir().unwrap();
    let (mut screened, mut refused) = (0, 0);
    for (number, path) in models().into_iter().enumerate() {
        let at = |name: &str| -> PathBuf { folder.path().join(format!("{number}-{name}.bpk")) };
        let table = [TableFormat::F16, TableFormat::BF16, TableFormat::F32][number % 3];
        let source = root().join(&path);
        match pack(&source, &at("screen"), table, true) {
            Ok(()) => screened += 1,
            Err(error) => {
                // No head, or a ternary one.
                assert!(
                    error.to_string().contains("behind a screen"),
                    "{path}: {error}"
                );
                assert!(!at("screen").exists(), "nothing is half-written");
                refused += 1;
                continue;
            }
        }
        pack(&source, &at("plain"), table, false).unwrap();
        for (name, device) in devices() {
            let (with, without) = (
                load(&at("screen"), None, &device),
                load(&at("plain"), None, &device),
            );
            let used = with.decoder().head().screen().is_some();
            assert_eq!(used, ScreenTensor::is_read_on(&device), "{path}, {name}");
            for sampling in settings() {
                let what = format!("{path}, {name}: {sampling:?}");
                assert_eq!(ids(&with, &sampling), ids(&without, &sampling), "{what}");
            }
        }
    }
    assert!(screened > 0, "{refused} refused");
}

#[test]
fn the_copy_serves_as_the_int8_table_of_the_same_floats() {
    let folder = tempfile::tempdir().unwrap();
    let (screened, plain) = (folder.path().join("s.bpk"), folder.path().join("p.bpk"));
    pack(Path::new("random"), &screened, TableFormat::F16, true).unwrap();
    pack(Path::new("random"), &plain, TableFormat::F16, false).unwrap();
    let tables = [&screened, &plain].map(|path| {
        let model = load(path, Some(TableFormat::Int8), &Device::flex());
        let table = model.decoder().head().packed().unwrap();
        assert_eq!(table.format(), TableFormat::Int8);
        table.to_packed().unwrap()
    });
    assert_eq!(tables[0], tables[1]);
}

#[test]
fn integers_get_no_screen() {
    let folder = tempfile::tempdir().unwrap();
    for table in [TableFormat::Int8, TableFormat::Int4] {
        let path = folder.path().join("refused.bpk");
        let error = pack(Path::new("random"), &path, table, true)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(table.name()) && error.contains("f16"),
            "{error}"
        );
        assert!(!path.exists());
    }
}

#[test]
fn a_damaged_screen_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.bpk");
    pack(Path::new("random"), &path, TableFormat::BF16, true).unwrap();
    type Damage = fn(&str, Bytes) -> Option<Bytes>;
    let damages: [(&str, Damage); 4] = [
        ("screen.error", |_, _| None),
        ("screen.scale", |_, _| None),
        ("screen.error", |_, bytes| Some(with_nan(&bytes))),
        ("screen.scale", |_, bytes| Some(with_nan(&bytes))),
    ];
    for (number, (part, damage)) in damages.into_iter().enumerate() {
        let damaged = folder.path().join(format!("{number}.bpk"));
        rewrite(&path, &damaged, |name, bytes| match name.ends_with(part) {
            true => damage(name, bytes),
            false => Some(bytes),
        });
        let options = LoadOptions::exact();
        let error = Model::load_with(&damaged, &Device::flex(), &options, &mut |_, _| ());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains("expected"),
            "{error}"
        );
    }
}

fn with_nan(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    Bytes::from_bytes_vec(bytes)
}

/// Copies a packed file, tensor by tensor; `change` may change one or leave it out.
fn rewrite(from: &Path, to: &Path, change: impl Fn(&str, Bytes) -> Option<Bytes>) {
    let bytes = Bytes::from_bytes_vec(std::fs::read(from).expect("a packed file"));
    let reader = burn_pack::Reader::from_bytes(bytes).expect("a packed file");
    let metadata = reader.metadata().clone();
    let tensors = reader
        .into_tensors()
        .expect("a packed file")
        .into_iter()
        .filter_map(|tensor| {
            let (name, dtype, shape, id, bytes) = tensor.into_parts().expect("a packed file");
            let bytes = change(&name, bytes)?;
            Some(burn_pack::Tensor::new(
                name,
                dtype,
                shape.to_vec(),
                id,
                bytes,
            ))
        });
    let mut writer = burn_pack::Writer::new(tensors.collect()).auto_extension(false);
    for (key, value) in &metadata {
        writer = writer.with_metadata(key, value);
    }
    writer.write_to_file(to).expect("a packed file");
}
