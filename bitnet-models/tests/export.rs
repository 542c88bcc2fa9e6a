//! Folders that are written: equal to their sources, to the published revisions of one model, and whole or not there.

#[path = "support/checkpoints.rs"]
mod checkpoints;

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_kernels::quantize::{WeightQuantizer, ternarize};
use bitnet_kernels::{ActivationQuantizer, Granularity, PackedTernary, Scale};
use bitnet_models::ModelError;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::Masters;
use bitnet_models::weights::{
    self, Arithmetic, Checkpoint, ConfigMap, ExportOptions, FloatKind, Floats, Matrix, Role, Slot,
    TensorInfo, Variant, export,
};
use checkpoints::{folders, folders_packed, raw, slots};
use half::bf16;
use serde_json::{Value, json};

/// Exports a folder into a new one.
fn exported(source: &Path, options: &ExportOptions) -> tempfile::TempDir {
    let target = tempfile::tempdir().expect("a folder for temporary files");
    let checkpoint = weights::open(source).expect("a whole checkpoint");
    export(
        checkpoint.as_ref(),
        &slots(checkpoint.as_ref()),
        target.path(),
        options,
        &mut |_, _| (),
    )
    .unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    target
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// The layers of a folder, as trits or masters.
fn linears(folder: &Path) -> Vec<(Slot, Result<PackedTernary, Vec<f32>>)> {
    let checkpoint = weights::open(folder).expect("a whole checkpoint");
    let mut linears = Vec::new();
    for slot in slots(checkpoint.as_ref()) {
        if let Role::Linear { d_out, d_in } = slot.role {
            let matrix = checkpoint.matrix(&slot.name, d_out, d_in).expect("whole");
            let layer = match matrix {
                Matrix::Ternary(packed) => Ok(packed),
                Matrix::Float(floats) => Err(floats.to_f32()),
            };
            linears.push((slot, layer));
        }
    }
    assert!(!linears.is_empty(), "{}: no layer", folder.display());
    linears
}

/// The revision of the one model that has three.
fn revision(name: &str) -> PathBuf {
    let end = Path::new("tiny-falcon-e").join(name);
    let found = folders().into_iter().find(|folder| folder.ends_with(&end));
    found.unwrap_or_else(|| panic!("no {}", end.display()))
}

fn assert_same_weights(found: &Path, expected: &Path) {
    let (found, expected) = (raw(found), raw(expected));
    let names =
        |tensors: &[checkpoints::Raw]| tensors.iter().map(|t| t.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found == expected, "{} differs", expected.0);
    }
}

#[test]
fn packed_weights_come_back_byte_for_byte() {
    for source in folders_packed(true) {
        let target = exported(&source, &ExportOptions::new(Variant::Packed));
        assert_same_weights(target.path(), &source);
        let class = |folder: &Path| {
            let class = &json(&folder.join("config.json"))["quantization_config"]["linear_class"];
            class.as_str().unwrap_or("bitlinear").to_owned()
        };
        assert_eq!(class(target.path()), class(&source));
    }
}

#[test]
fn masters_come_back_byte_for_byte_under_their_own_names() {
    for source in folders_packed(false) {
        let target = exported(&source, &ExportOptions::new(Variant::Master));
        let prefixed = |name: &str| raw(&source).iter().any(|tensor| tensor.0.starts_with(name));
        if prefixed("model.") {
            assert_same_weights(target.path(), &source);
        }
        let (from, to) = (
            weights::open(&source).unwrap(),
            weights::open(target.path()).unwrap(),
        );
        for info in from.tensors() {
            let read = |c: &dyn Checkpoint| {
                c.floats(&info.name, &info.shape)
                    .unwrap()
                    .bytes
                    .into_owned()
            };
            assert_eq!(read(to.as_ref()), read(from.as_ref()), "{}", info.name);
        }
        assert_eq!(
            to.config()["quantization_config"]["quantization_mode"],
            "online"
        );
    }
}

#[test]
fn masters_of_packed_weights_quantize_to_the_same_trits_and_scales() {
    for source in folders_packed(true) {
        let target = exported(&source, &ExportOptions::new(Variant::Master));
        for ((slot, packed), (_, master)) in
            linears(&source).into_iter().zip(linears(target.path()))
        {
            let (packed, master) = (packed.unwrap(), master.unwrap_err());
            let (d_out, d_in) = (packed.d_out(), packed.d_in());
            let (quantizer, granularity) = (WeightQuantizer::AbsMean, Granularity::Tensor);
            let again = ternarize(&master, d_out, d_in, quantizer, granularity).unwrap();
            assert_eq!(again, packed, "{}", slot.name);
        }
        let config = json(&target.path().join("config.json"));
        assert_eq!(
            config["quantization_config"]["linear_class"],
            "autobitlinear"
        );
        assert_eq!(config["quantization_config"]["quantization_mode"], "online");
        assert_eq!(config["torch_dtype"], "float32");
    }
}

#[test]
fn masters_pack_to_their_trits_and_the_bf16_of_their_scales() {
    for source in folders_packed(false) {
        let target = exported(&source, &ExportOptions::new(Variant::Packed));
        let checkpoint = weights::open(target.path()).unwrap();
        let class = &checkpoint.config()["quantization_config"]["linear_class"];
        let multiplies = class == "autobitlinear";
        for (slot, master) in linears(&source) {
            let Role::Linear { d_out, d_in } = slot.role else {
                unreachable!("a layer")
            };
            let (quantizer, granularity) = (WeightQuantizer::AbsMean, Granularity::Tensor);
            let expected =
                ternarize(&master.unwrap_err(), d_out, d_in, quantizer, granularity).unwrap();
            // By the shape of the model: the bytes of a matrix hold a multiple of four rows.
            let Matrix::Ternary(packed) = checkpoint.matrix(&slot.name, d_out, d_in).unwrap()
            else {
                panic!("{} is packed", slot.name)
            };
            assert_eq!(packed.words(), expected.words(), "{}", slot.name);
            let round = |scale: f32| bf16::from_f32(scale).to_f32();
            let scale = expected.scale().values()[0];
            let scale = if multiplies {
                round(scale)
            } else {
                1.0 / round(1.0 / scale)
            };
            assert_eq!(packed.scale().values(), [scale], "{}", slot.name);
        }
    }
}

#[test]
fn bf16_arithmetic_makes_the_published_packed_and_dequantized_revisions() {
    let bf16 = |variant| ExportOptions::new(variant).with_arithmetic(Arithmetic::Bf16);
    let packed = exported(&revision("prequantized"), &bf16(Variant::Packed));
    assert_same_weights(packed.path(), &revision("bitnet"));
    let plain = Variant::Dequantized(FloatKind::BF16);
    for source in ["prequantized", "bitnet"] {
        let dequantized = exported(&revision(source), &bf16(plain));
        assert_same_weights(dequantized.path(), &revision("bfloat16"));
        let config = json(&dequantized.path().join("config.json"));
        assert_eq!(config, json(&revision("bfloat16").join("config.json")));
    }
}

/// What the library would run: whether floats are masters, and what happens to inputs.
fn read(folder: &Path) -> (bool, ActivationQuantizer) {
    let checkpoint = weights::open(folder).expect("a whole checkpoint");
    let config = architectures::read(checkpoint.as_ref(), Overrides::default()).expect("whole");
    (config.masters != Masters::Float, config.activations)
}

#[test]
fn every_folder_is_read_as_it_was_written() {
    use ActivationQuantizer::{Int4, Int8, None};
    for source in folders() {
        for (variant, activations, expected) in [
            (Variant::Packed, Int8, (true, Int8)),
            (Variant::Packed, Int4, (true, Int4)),
            (Variant::Packed, None, (true, None)),
            (Variant::Master, Int8, (true, Int8)),
            (Variant::Master, Int4, (true, Int4)),
            (Variant::Master, None, (true, None)),
            (Variant::Dequantized(FloatKind::F32), Int8, (false, None)),
        ] {
            let options = ExportOptions::new(variant).with_activations(activations);
            let target = exported(&source, &options);
            let what = format!("{}: {variant:?}, {activations:?}", source.display());
            assert_eq!(read(target.path()), expected, "{what}");
            // And again from there, whatever the key of our own said.
            let plain = ExportOptions::new(Variant::Packed);
            let again = exported(target.path(), &plain);
            assert_eq!(read(again.path()), (true, Int8), "{what}");
        }
    }
}

#[test]
fn dequantized_weights_are_scale_times_trit() {
    for source in folders_packed(true) {
        let target = exported(
            &source,
            &ExportOptions::new(Variant::Dequantized(FloatKind::F32)),
        );
        for ((slot, packed), (_, floats)) in
            linears(&source).into_iter().zip(linears(target.path()))
        {
            assert_eq!(
                floats.unwrap_err(),
                packed.unwrap().dequantize(),
                "{}",
                slot.name
            );
        }
        let config = json(&target.path().join("config.json"));
        assert_eq!(config["quantization_config"], Value::Null);
        assert_eq!(config["torch_dtype"], "float32");
    }
}

#[test]
fn configuration_and_tokenizer_are_kept() {
    for source in folders() {
        let target = exported(&source, &ExportOptions::new(Variant::Packed));
        let (from, to) = (
            weights::open(&source).unwrap(),
            weights::open(target.path()).unwrap(),
        );
        for (key, value) in from.config() {
            if !["quantization_config", "torch_dtype", "dtype"].contains(&key.as_str()) {
                assert_eq!(&to.config()[key], value, "{key}");
            }
        }
        let quantization = from
            .config()
            .get("quantization_config")
            .and_then(Value::as_object);
        for (key, value) in quantization.into_iter().flatten() {
            if key != "quantization_mode" {
                assert_eq!(&to.config()["quantization_config"][key], value, "{key}");
            }
        }
        assert_eq!(to.generation(), from.generation());
        let mut copied = 0;
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "1_Pooling/config.json",
        ] {
            if let Ok(expected) = fs::read(source.join(name)) {
                assert_eq!(
                    fs::read(target.path().join(name)).unwrap(),
                    expected,
                    "{name}"
                );
                copied += 1;
            }
        }
        assert!(copied > 0, "{}: no tokenizer", source.display());
    }
}

/// A checkpoint in memory: one layer, whatever it holds.
#[derive(Debug)]
struct OneLayer {
    config: ConfigMap,
    empty: ConfigMap,
    matrix: Matrix<'static>,
}

impl OneLayer {
    fn new(matrix: Matrix<'static>) -> Self {
        let config = json!({
            "architectures": ["BitNetForCausalLM"],
            "vocab_size": 4,
            "hidden_size": 2,
            "intermediate_size": 3,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "rms_norm_eps": 1e-5,
            "hidden_act": "relu2",
        });
        let config = config.as_object().expect("an object").clone();
        Self {
            config,
            empty: ConfigMap::new(),
            matrix,
        }
    }

    /// Two rows of three trits with these scales.
    fn ternary(scale: Scale) -> Self {
        let packed = PackedTernary::from_trits(&[1, 0, -1, 1, 1, 0], scale, 2, 3);
        Self::new(Matrix::Ternary(packed.expect("a matrix")))
    }

    fn masters(values: &[f32; 6]) -> Self {
        let bytes = FloatKind::F32.encode(values);
        Self::new(Matrix::Float(Floats::new(
            FloatKind::F32,
            vec![2, 3],
            bytes,
        )))
    }

    fn export(&self, folder: &Path, variant: Variant) -> Result<(), ModelError> {
        let role = Role::Linear { d_out: 2, d_in: 3 };
        let slot = |name: &str| Slot {
            name: name.into(),
            role,
        };
        let slots = [slot("a_proj.weight"), slot("b_proj.weight")];
        let options = ExportOptions::new(variant);
        export(self, &slots, folder, &options, &mut |_, _| ())
    }
}

impl Checkpoint for OneLayer {
    fn path(&self) -> &Path {
        Path::new("memory")
    }
    fn format(&self) -> &'static str {
        "memory"
    }
    fn config(&self) -> &ConfigMap {
        &self.config
    }
    fn generation(&self) -> &ConfigMap {
        &self.empty
    }
    fn tensors(&self) -> &[TensorInfo] {
        &[]
    }
    fn floats(&self, _: &str, _: &[usize]) -> Result<Floats<'_>, ModelError> {
        unreachable!("it has one layer")
    }
    fn matrix(&self, _: &str, _: usize, _: usize) -> Result<Matrix<'_>, ModelError> {
        Ok(self.matrix.clone())
    }
}

#[test]
fn what_a_variant_cannot_hold_is_refused_and_leaves_nothing_behind() {
    let rows = || OneLayer::ternary(Scale::Row(vec![1.0, 2.0]));
    let cases = [
        (
            rows(),
            Variant::Packed,
            "holds one scale per tensor, not one scale per row that differ",
        ),
        (rows(), Variant::Master, "holds one scale per tensor"),
        (
            OneLayer::ternary(Scale::Tensor(-1.0)),
            Variant::Packed,
            "weight_scale in bf16: scale -1 at index 0",
        ),
        (
            OneLayer::ternary(Scale::Tensor(0.0)),
            Variant::Packed,
            "weight_scale in bf16: scale 0",
        ),
        (
            OneLayer::ternary(Scale::Tensor(1e-6)),
            Variant::Master,
            "float masters: scale 0.000001",
        ),
        (
            OneLayer::ternary(Scale::Tensor(1e6)),
            Variant::Dequantized(FloatKind::F16),
            "F16: scale 1000000",
        ),
        (
            OneLayer::masters(&[1.0, 2.0, f32::NAN, 0.0, 0.0, 0.0]),
            Variant::Packed,
            "NaN at index 2",
        ),
    ];
    for (checkpoint, variant, words) in cases {
        let parent = tempfile::tempdir().unwrap();
        let error = checkpoint
            .export(&parent.path().join("new"), variant)
            .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(words) && error.contains("memory: tensor `a_proj.weight`"),
            "{error}"
        );
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}

#[test]
fn scales_of_rows_that_agree_are_one_and_rows_that_do_not_fill_a_byte_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new");
    OneLayer::ternary(Scale::Row(vec![2.0, 2.0]))
        .export(&target, Variant::Packed)
        .unwrap();
    let checkpoint = weights::open(&target).unwrap();
    let Matrix::Ternary(packed) = checkpoint.matrix("b_proj.weight", 2, 3).unwrap() else {
        panic!("packed")
    };
    assert_eq!(
        (packed.trits(), packed.scale()),
        (vec![1, 0, -1, 1, 1, 0], &Scale::Tensor(2.0))
    );
    assert_eq!(
        checkpoint.config()["quantization_config"]["linear_class"],
        "autobitlinear"
    );
    assert_eq!(checkpoint.config()["torch_dtype"], "bfloat16");
}

#[test]
fn a_folder_is_overwritten_when_told_even_by_itself() {
    let source = &folders_packed(true)[0];
    let options = ExportOptions::new(Variant::Packed);
    let target = exported(source, &options);
    let checkpoint = weights::open(target.path()).unwrap();
    let slots = slots(checkpoint.as_ref());
    let again = |options: &ExportOptions| {
        let source = checkpoint.as_ref();
        export(source, &slots, target.path(), options, &mut |_, _| ())
    };
    let refused = again(&options).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("expected a new or empty folder"),
        "{refused}"
    );
    let options = ExportOptions::new(Variant::Dequantized(FloatKind::BF16)).with_overwrite(true);
    again(&options).unwrap();
    // The source is still mapped, and holds what it held.
    let packed = linears(source).into_iter().map(|(_, layer)| layer.unwrap());
    for ((slot, floats), packed) in linears(target.path()).into_iter().zip(packed) {
        assert_eq!(floats.unwrap_err().len(), packed.d_out() * packed.d_in());
        let matrix = checkpoint
            .matrix(&slot.name, packed.d_out(), packed.d_in())
            .unwrap();
        assert!(matches!(matrix, Matrix::Ternary(mapped) if mapped == packed));
    }
    let left = fs::read_dir(target.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(
        left.into_iter()
            .all(|name| !name.to_string_lossy().ends_with(".partial"))
    );
}
