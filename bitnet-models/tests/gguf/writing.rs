//! Files that we write hold what their source holds, and are there whole or not at all.

use std::path::Path;

use bitnet_kernels::{ActivationQuantizer, PackedTernary, Scale};
use bitnet_models::ModelError;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, LoadOptions};
use bitnet_models::tokenizer::Vocabulary;
use bitnet_models::weights::{
    Checkpoint, ConfigMap, FloatKind, Floats, Gguf, GgufLayout, GgufOptions, Matrix, Role, Slot,
    TensorInfo, write_gguf,
};
use burn::tensor::Device;
use half::f16;
use safetensors::Dtype;
use serde_json::json;

use crate::builder::{Builder, u32};
use crate::reference::values;
use crate::source::{Source, files, fixture};

const LAYOUTS: [GgufLayout; 5] = [
    GgufLayout::I2S,
    GgufLayout::Tq1,
    GgufLayout::Tq2,
    GgufLayout::Q2,
    GgufLayout::F16,
];

/// A safetensors checkpoint as the source of a conversion.
#[derive(Debug)]
struct Folder {
    source: Source,
    path: std::path::PathBuf,
}

impl Checkpoint for Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn format(&self) -> &'static str {
        "safetensors"
    }

    fn config(&self) -> &ConfigMap {
        &self.source.config
    }

    fn generation(&self) -> &ConfigMap {
        &self.source.config
    }

    fn tensors(&self) -> &[TensorInfo] {
        &[]
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Floats<'_>, ModelError> {
        let (dtype, found, bytes) = &self.source.tensors[name];
        assert_eq!(found, shape, "{name}");
        let kind = match dtype {
            Dtype::F32 => FloatKind::F32,
            Dtype::F16 => FloatKind::F16,
            _ => FloatKind::BF16,
        };
        let (shape, bytes) = (found.clone(), bytes.into());
        Ok(Floats { kind, shape, bytes })
    }

    fn matrix(&self, name: &str, d_out: usize, d_in: usize) -> Result<Matrix<'_>, ModelError> {
        if self.source.tensors[name].0 != Dtype::U8 {
            return self.floats(name, &[d_out, d_in]).map(Matrix::Float);
        }
        let (trits, scale) = self.source.ternary(name, d_out);
        let packed = PackedTernary::from_trits(&trits, Scale::Tensor(scale), d_out, d_in);
        packed
            .map(Matrix::Ternary)
            .map_err(ModelError::ternary(&self.path, name))
    }
}

impl Folder {
    fn open(path: &str) -> Self {
        let path = fixture(path);
        let source = Source::open(&path);
        Self { source, path }
    }

    fn slots(&self) -> Vec<Slot> {
        let tensors = self.source.tensors.iter();
        tensors
            .filter(|(name, _)| !name.ends_with("_scale"))
            .map(|(name, (dtype, shape, _))| {
                let rows = if *dtype == Dtype::U8 { 4 } else { 1 } * shape[0];
                slot(name, &[&[rows], &shape[1..]].concat())
            })
            .collect()
    }
}

fn slot(name: &str, shape: &[usize]) -> Slot {
    let role = match *shape {
        [len] => Role::Vector(len),
        [d_out, d_in] if name.ends_with("_proj.weight") => Role::Linear { d_out, d_in },
        [rows, columns] => Role::Table { rows, columns },
        _ => panic!("{name}: {shape:?}"),
    };
    let name = name.to_owned();
    Slot { name, role }
}

fn slots(gguf: &Gguf) -> Vec<Slot> {
    gguf.tensors()
        .iter()
        .map(|info| slot(&info.name, &info.shape))
        .collect()
}

fn ternary(checkpoint: &dyn Checkpoint, slot: &Slot) -> PackedTernary {
    let Role::Linear { d_out, d_in } = slot.role else {
        panic!("{slot:?}")
    };
    match checkpoint
        .matrix(&slot.name, d_out, d_in)
        .expect("a matrix")
    {
        Matrix::Ternary(packed) => packed,
        Matrix::Float(_) => panic!("{slot:?} is float"),
    }
}

fn halves(floats: &Floats<'_>) -> Vec<f16> {
    values(floats).into_iter().map(f16::from_f32).collect()
}

/// Everything in `slots` is the same, floats and scales as far as F16 goes.
fn assert_same(found: &dyn Checkpoint, source: &dyn Checkpoint, slots: &[Slot], exact: bool) {
    for slot in slots {
        match slot.role {
            Role::Vector(len) => {
                let read =
                    |c: &dyn Checkpoint| values(&c.floats(&slot.name, &[len]).expect("a vector"));
                assert_eq!(read(found), read(source), "{slot:?}");
            }
            Role::Table { rows, columns } => {
                let read = |c: &dyn Checkpoint| {
                    halves(&c.floats(&slot.name, &[rows, columns]).expect("a table"))
                };
                assert_eq!(read(found), read(source), "{slot:?}");
            }
            Role::Linear { .. } => {
                let (found, source) = (ternary(found, slot), ternary(source, slot));
                assert_eq!(found.trits(), source.trits(), "{slot:?}");
                let (Scale::Tensor(found), Scale::Tensor(expected)) =
                    (found.scale(), source.scale())
                else {
                    panic!("{slot:?}: {:?}", found.scale().granularity())
                };
                let expected = if exact {
                    *expected
                } else {
                    f16::from_f32(*expected).to_f32()
                };
                assert_eq!(*found, expected, "{slot:?}");
            }
        }
    }
}

/// A layout, and inputs treated as the source says.
fn options(source: &dyn Checkpoint, layout: GgufLayout) -> GgufOptions {
    let decided = source.config().get("bitnet_burn");
    let plain = decided.is_some_and(|decided| decided["quantize_activations"] == false);
    GgufOptions::new(layout).with_activations(if plain {
        ActivationQuantizer::None
    } else {
        ActivationQuantizer::Int8
    })
}

fn write(
    source: &dyn Checkpoint,
    slots: &[Slot],
    vocabulary: &Vocabulary,
    layout: GgufLayout,
    path: &Path,
) -> Result<Gguf, String> {
    let text = |error: ModelError| error.to_string();
    let options = options(source, layout);
    let mut counts = Vec::new();
    let mut count = |done, all| counts.push((done, all));
    write_gguf(source, slots, vocabulary, path, &options, &mut count).map_err(text)?;
    let expected = (1..=slots.len()).map(|done| (done, slots.len()));
    assert_eq!(counts, expected.collect::<Vec<_>>());
    Gguf::open(path).map_err(text)
}

#[test]
fn a_file_comes_back_in_every_layout_that_has_room_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut written = 0;
    for (file, _) in files() {
        let source = Gguf::open(&file).unwrap();
        let slots = slots(&source);
        let matrices: Vec<_> = slots
            .iter()
            .filter_map(|slot| match slot.role {
                Role::Linear { d_in, .. } => Some(d_in),
                _ => None,
            })
            .collect();
        for layout in LAYOUTS {
            let path = folder.path().join(format!("{written}-{layout:?}.gguf"));
            let vocabulary = source.vocabulary().unwrap();
            let fits = matrices.iter().all(|d_in| match layout {
                GgufLayout::Tq1 | GgufLayout::Tq2 => d_in % 256 == 0,
                GgufLayout::Q2 => d_in % 64 == 0,
                GgufLayout::I2S => d_in % 128 == 0,
                GgufLayout::F16 => true,
            });
            let result = write(&source, &slots, vocabulary, layout, &path);
            let written_file = match result {
                Ok(gguf) => gguf,
                Err(message) => {
                    assert!(message.contains("tensor `model.layers."), "{message}");
                    assert!(!fits, "{message}");
                    assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), written);
                    continue;
                }
            };
            assert!(fits, "{} as {layout:?}", file.display());
            written += 1;
            let exact = layout == GgufLayout::I2S;
            assert_same(&written_file, &source, &slots, exact);
            assert_eq!(written_file.config(), source.config(), "{}", file.display());
            let expected = Vocabulary {
                pre: Some("llama-bpe".to_owned()),
                ..vocabulary.clone()
            };
            assert_eq!(written_file.vocabulary(), Some(&expected));
        }
    }
    assert!(written >= files().len());
}

/// A vocabulary with one token less than the model has rows.
fn vocabulary(rows: usize) -> Vocabulary {
    Vocabulary {
        model: "llama".to_owned(),
        tokens: (1..rows).map(|id| format!("token {id}")).collect(),
        bos_id: Some(1),
        eos_id: Some(2),
        eot_id: Some(3),
        unknown_id: Some(0),
        add_bos: Some(true),
        add_eos: Some(false),
        add_space_prefix: Some(true),
        chat_template: Some("{{ messages }}".to_owned()),
        ..Vocabulary::default()
    }
}

#[test]
fn checkpoints_of_every_family_can_be_written_and_run() {
    let folder = tempfile::tempdir().unwrap();
    for (path, architecture) in [
        ("models/tiny-2b4t-packed", "bitnet-b1.58"),
        ("models/tiny-2b4t-bf16", "bitnet-b1.58"),
        ("models/tiny-1bitllm", "bitnet"),
        ("models/tiny-llama-bitnet", "llama"),
        ("models/tiny-falcon-e/bitnet", "llama"),
        ("models/tiny-embedding", "qwen3"),
    ] {
        let source = Folder::open(path);
        let (slots, rows) = (source.slots(), source.source.size("vocab_size"));
        let file = folder.path().join(path.replace('/', "-"));
        let layout = GgufLayout::F16;
        let found = write(&source, &slots, &vocabulary(rows), layout, &file)
            .unwrap_or_else(|error| panic!("{error}"));
        let (_, name) = found.metadata().unwrap()[0];
        assert_eq!(name.as_text(), Some(architecture));
        for key in [
            "architectures",
            "hidden_act",
            "hidden_size",
            "tie_word_embeddings",
            "rms_norm_eps",
        ] {
            assert_eq!(found.config()[key], source.config()[key], "{path}: {key}");
        }
        assert_eq!(
            found.config()["rope_theta"].as_f64(),
            source.config()["rope_theta"].as_f64()
        );
        let config = architectures::read(&found, Overrides::default()).unwrap();
        let (options, device) = (LoadOptions::exact(), Device::flex());
        Decoder::load(&config, &found, &options, &device, &mut |_, _| ())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        for slot in slots
            .iter()
            .filter(|slot| matches!(slot.role, Role::Linear { .. }))
        {
            let Role::Linear { d_out, .. } = slot.role else {
                unreachable!()
            };
            let (trits, scale) = source.source.ternary(&slot.name, d_out);
            let written = ternary(&found, slot);
            assert_eq!(written.trits(), trits, "{path}: {slot:?}");
            assert_eq!(
                written.scale(),
                &Scale::Tensor(f16::from_f32(scale).to_f32())
            );
        }
        let floats: Vec<_> = slots
            .into_iter()
            .filter(|s| !matches!(s.role, Role::Linear { .. }))
            .collect();
        assert_same(&found, &source, &floats, true);
        let read = found.vocabulary().unwrap();
        assert_eq!(read.tokens.len(), rows);
        assert_eq!(read.tokens[rows - 1], format!("[PAD{}]", rows - 1));
        assert_eq!(read.token_types[rows - 2..], [1, 5]);
        let expected = Vocabulary {
            tokens: read.tokens.clone(),
            token_types: read.token_types.clone(),
            ..vocabulary(rows)
        };
        assert_eq!(read, &expected);
    }
}

#[test]
fn a_file_that_exists_is_kept_unless_it_may_be_overwritten() {
    let (folder, path) = Builder::new("bitnet").write();
    let source = Gguf::open(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let (slots, vocabulary) = (slots(&source), source.vocabulary().unwrap());
    let layout = GgufLayout::Q2;
    let write = |overwrite| {
        let options = options(&source, layout).with_overwrite(overwrite);
        let written = write_gguf(&source, &slots, vocabulary, &path, &options, &mut |_, _| ());
        written.map_err(|error| error.to_string())
    };
    let message = write(false).unwrap_err();
    assert!(
        message.contains("model.gguf: output: found a file") && message.contains("overwritten"),
        "{message}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // The source is the file that is replaced: it stays readable until it is closed.
    write(true).unwrap();
    assert_same(&Gguf::open(&path).unwrap(), &source, &slots, true);
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

#[test]
fn what_gguf_cannot_hold_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let (_source_folder, file) = Builder::new("bitnet").write();
    let source = Gguf::open(&file).unwrap();
    let (all, vocabulary) = (slots(&source), source.vocabulary().unwrap());
    let refuse = |slots: &[Slot], vocabulary: &Vocabulary, layout, parts: &[&str]| {
        let options = options(&source, layout);
        let error = write_gguf(&source, slots, vocabulary, &path, &options, &mut |_, _| ());
        let error = error.unwrap_err();
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?}: {message}");
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    };
    let parts = [
        "self_attn.q_proj.weight`",
        "tq2_0",
        "64 x 64",
        "multiple of 256",
    ];
    refuse(&all, vocabulary, GgufLayout::Tq2, &parts);
    // Two rows fill a block of 128, but bitnet.cpp reads whole blocks of a row.
    let parts = [
        "self_attn.q_proj.weight`",
        "64 columns",
        "multiple of 128",
        "F16",
    ];
    refuse(&all, vocabulary, GgufLayout::I2S, &parts);
    let mut with_stranger = all.clone();
    with_stranger.push(slot("model.vision.weight", &[3]));
    let parts = ["`model.vision.weight`", "without a name", "safetensors"];
    refuse(&with_stranger, vocabulary, GgufLayout::F16, &parts);
    refuse(
        &all[1..],
        vocabulary,
        GgufLayout::F16,
        &["embed_tokens", "nothing", "a table"],
    );
    let mut many = vocabulary.clone();
    many.tokens.push("seventh".to_owned());
    refuse(
        &all,
        &many,
        GgufLayout::F16,
        &["vocabulary", "7 tokens", "at most 6"],
    );
    let mut absent = all.clone();
    absent.push(slot("model.layers.3.input_layernorm.weight", &[64]));
    refuse(
        &absent,
        vocabulary,
        GgufLayout::F16,
        &["`blk.3.attn_norm.weight`: found nothing"],
    );
}

#[test]
fn scales_that_differ_within_a_tensor_are_refused_by_i2_s() {
    let mut builder = Builder::new("qwen3");
    let mut row_scales = Vec::new();
    for row in 0..64 {
        row_scales.extend(((row + 1) as f32).to_le_bytes());
        row_scales.extend([0b10_10_10_10; 32]);
    }
    let down = builder.tensor("blk.0.ffn_down.weight");
    (down.2, down.3) = (135, row_scales);
    let (_folder, file) = builder.write();
    let source = Gguf::open(&file).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.gguf");
    let (slots, vocabulary) = (slots(&source), source.vocabulary().unwrap());
    // Of the projections, only this one has rows that are long enough.
    let mut few = slots.clone();
    few.retain(|slot| {
        ["embed_tokens", "down_proj"]
            .iter()
            .any(|end| slot.name.contains(end))
    });
    let error = write(&source, &few, vocabulary, GgufLayout::I2S, &path).unwrap_err();
    assert!(
        error.contains("mlp.down_proj.weight`: i2_s: holds one scale per tensor"),
        "{error}"
    );
    assert_eq!(out.path().read_dir().unwrap().count(), 0);
    let found = write(&source, &slots, vocabulary, GgufLayout::Q2, &path).unwrap();
    let down = slots
        .iter()
        .find(|slot| slot.name.contains("down_proj"))
        .unwrap();
    assert_eq!(
        ternary(&found, down).dequantize(),
        ternary(&source, down).dequantize()
    );
}

#[test]
fn quantization_that_an_architecture_does_not_imply_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    for (architecture, other, implied) in [
        ("bitnet", ActivationQuantizer::None, "Int8"),
        (
            "bitnet",
            ActivationQuantizer::Int4,
            "found Int4, expected Int8",
        ),
        ("qwen3", ActivationQuantizer::Int8, "None"),
    ] {
        let (_source_folder, file) = Builder::new(architecture).write();
        let source = Gguf::open(&file).unwrap();
        let (all, vocabulary) = (slots(&source), source.vocabulary().unwrap());
        let refuse = |slots: &[Slot], options: GgufOptions| {
            let error = write_gguf(&source, slots, vocabulary, &path, &options, &mut |_, _| ());
            assert_eq!(folder.path().read_dir().unwrap().count(), 0);
            error.unwrap_err().to_string()
        };
        let options = options(&source, GgufLayout::F16);
        let error = refuse(&all, options.with_activations(other));
        assert!(error.contains(implied), "{error}");
        let mut mixed = all.clone();
        let layers = mixed.iter_mut();
        let layer = layers
            .rev()
            .find(|slot| slot.name.ends_with("_proj.weight"));
        let layer = layer.unwrap();
        let Role::Linear { d_out, d_in } = layer.role else {
            panic!("{layer:?}")
        };
        layer.role = Role::Table {
            rows: d_out,
            columns: d_in,
        };
        let error = refuse(&mixed, options);
        assert!(
            error.contains("a float projection, model.layers."),
            "{error}"
        );
    }
}

#[test]
fn configurations_that_gguf_cannot_say_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (key, value, parts) in [
        (
            "architectures",
            json!(["GPT2LMHeadModel"]),
            ["GPT2LMHeadModel", "LlamaForCausalLM"],
        ),
        ("hidden_act", json!("gelu"), ["gelu", "`relu2`"]),
        (
            "rope_scaling",
            json!({"rope_type": "longrope"}),
            ["longrope", "`yarn`"],
        ),
        ("hidden_size", json!("many"), ["\"many\"", "a number"]),
        ("rms_norm_eps", json!(null), ["found nothing", "a number"]),
        ("pooling_type", json!("best"), ["best", "mean"]),
    ] {
        let mut source = Folder::open("models/tiny-2b4t-bf16");
        source.source.config.insert(key.to_owned(), value);
        let (slots, rows) = (source.slots(), source.source.size("vocab_size"));
        let path = folder.path().join("out.gguf");
        let message =
            write(&source, &slots, &vocabulary(rows), GgufLayout::F16, &path).unwrap_err();
        assert!(
            message.contains(&format!("config key `{key}`")),
            "{message}"
        );
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn rope_scaling_survives() {
    let (_folder, file) = {
        let mut builder = Builder::new("qwen3");
        builder.set("qwen3.rope.scaling.type", crate::builder::text("yarn"));
        builder.set("qwen3.rope.scaling.factor", crate::builder::f32(4.0));
        builder.set("qwen3.rope.scaling.original_context_length", u32(16));
        builder.set("qwen3.attention.key_length", u32(32));
        builder.write()
    };
    let source = Gguf::open(&file).unwrap();
    assert_eq!(source.config()["rope_scaling"]["rope_type"], "yarn");
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.gguf");
    let found = write(
        &source,
        &slots(&source),
        source.vocabulary().unwrap(),
        GgufLayout::Q2,
        &path,
    );
    assert_eq!(found.unwrap().config(), source.config());
}
