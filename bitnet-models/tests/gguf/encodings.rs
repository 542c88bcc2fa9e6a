//! What the fixtures do not hold: block-quantized floats, other architectures, scales beside weights.

use bitnet_kernels::packing::Layout;
use bitnet_kernels::packing::i2_s::I2S;
use bitnet_kernels::packing::iq_bn::IqBn;
use bitnet_kernels::packing::q2_0::{Q2_0, Q2_0_GROUP128};
use bitnet_kernels::{PackedTernary, Scale};
use bitnet_models::weights::{Checkpoint, Gguf, Matrix};
use half::{bf16, f16};
use serde_json::{Value, json};

use crate::builder::{Builder, f32, text, u32};
use crate::reference::values;

const GATE: &str = "model.layers.0.mlp.gate_proj.weight";

fn open(builder: &Builder) -> Gguf {
    let (_folder, path) = builder.write();
    Gguf::open(&path).unwrap_or_else(|error| panic!("{error}"))
}

fn ternary(gguf: &Gguf, name: &str, d_out: usize, d_in: usize) -> PackedTernary {
    match gguf
        .matrix(name, d_out, d_in)
        .unwrap_or_else(|error| panic!("{error}"))
    {
        Matrix::Ternary(packed) => packed,
        Matrix::Float(_) => panic!("{name} is float"),
    }
}

fn trits(len: usize) -> Vec<i8> {
    (0..len).map(|i| (i * i / 7 % 3) as i8 - 1).collect()
}

#[test]
fn an_i2_s_file_of_another_build_needs_to_be_told() {
    let trits = trits(128 * 64);
    for layout in [I2S::Block128, I2S::Block64, I2S::Rows4] {
        let mut builder = Builder::new("bitnet-b1.58");
        let data = layout.pack(&trits, &Scale::Tensor(0.75), 128, 64).unwrap();
        (
            builder.tensor("blk.0.ffn_gate.weight").2,
            builder.tensor("blk.0.ffn_gate.weight").3,
        ) = (36, data);
        let (_folder, path) = builder.write();
        let gguf = Gguf::open_with(&path, layout).unwrap();
        assert_eq!(ternary(&gguf, GATE, 128, 64).trits(), trits);
    }
}

#[test]
fn q2_0_has_the_group_size_that_fits_the_room() {
    let trits = trits(64 * 128);
    let scales = |n: usize| {
        (1..=n)
            .map(|i| 1.0 / i.next_power_of_two() as f32)
            .collect::<Vec<_>>()
    };
    for (layout, size) in [(&Q2_0, 64), (&Q2_0_GROUP128, 128)] {
        let values = scales(64 * 128 / size);
        let scale = Scale::Group { size, values };
        let mut builder = Builder::new("qwen3");
        let down = builder.tensor("blk.0.ffn_down.weight");
        (down.2, down.3) = (42, layout.pack(&trits, &scale, 64, 128).unwrap());
        let gguf = open(&builder);
        let found = ternary(&gguf, "model.layers.0.mlp.down_proj.weight", 64, 128);
        assert_eq!((found.trits(), found.scale()), (trits.clone(), &scale));
        // Qwen3 without a norm before each projection keeps its activations.
        let decided = &gguf.config()["bitnet_burn"];
        assert_eq!(decided["quantize_activations"], false);
        assert_eq!(gguf.config()["architectures"], json!(["Qwen3ForCausalLM"]));
    }
}

#[test]
fn row_scales_move_with_the_rows_of_interleaved_files() {
    // Two heads of 32 rows; row r has the scale r + 1 and a trit in column r.
    let mut trits = vec![0; 64 * 64];
    (0..64).for_each(|row| trits[row * 64 + row] = 1);
    let scale = Scale::Row((1..=64).map(|r| r as f32).collect());
    let mut builder = Builder::new("llama");
    let q = builder.tensor("blk.0.attn_q.weight");
    (q.2, q.3) = (135, IqBn::Iq2.pack(&trits, &scale, 64, 64).unwrap());
    let bias: Vec<f32> = (0..64).map(|r| r as f32).collect();
    builder.add("blk.0.attn_q.bias", &[64], &bias);
    let gguf = open(&builder);
    let found = ternary(&gguf, "model.layers.0.self_attn.q_proj.weight", 64, 64);
    let from = |row: usize| {
        let (head, i) = (row / 32, row % 32);
        32 * head + if i < 16 { 2 * i } else { 2 * (i - 16) + 1 }
    };
    let scales: Vec<_> = (0..64).map(|row| from(row) as f32 + 1.0).collect();
    assert_eq!(found.scale(), &Scale::Row(scales));
    for row in 0..64 {
        assert_eq!(found.trits()[row * 64 + from(row)], 1);
    }
    let found = gguf
        .floats("model.layers.0.self_attn.q_proj.bias", &[64])
        .unwrap();
    assert_eq!(
        values(&found),
        (0..64).map(|row| from(row) as f32).collect::<Vec<_>>()
    );
}

#[test]
fn a_scale_beside_a_weight_multiplies() {
    let mut builder = Builder::new("bitnet");
    builder.add("blk.0.ffn_gate.scale", &[1], &[3.0]);
    builder.add("blk.0.ffn_up.scale", &[1], &[3.0]);
    builder.tensor("blk.0.ffn_up.weight").3[..4].copy_from_slice(&0.125_f32.to_le_bytes());
    let gguf = open(&builder);
    assert_eq!(ternary(&gguf, GATE, 128, 64).scale(), &Scale::Tensor(1.5));
    let Ok(Matrix::Float(master)) = gguf.matrix("model.layers.0.mlp.up_proj.weight", 128, 64)
    else {
        panic!("not a master")
    };
    assert_eq!(values(&master)[..2], [0.375, 1.5]);
}

#[test]
fn floats_of_a_bitnet_are_trits_within_rounding_and_otherwise_masters() {
    let up = "model.layers.0.mlp.up_proj.weight";
    let set = |builder: &mut Builder, value: f32| {
        let data = &mut builder.tensor("blk.0.ffn_up.weight").3;
        data[4..8].copy_from_slice(&value.to_le_bytes());
        data[8..12].copy_from_slice(&(-0.5_f32).to_le_bytes());
        data[12..16].copy_from_slice(&0_f32.to_le_bytes());
    };
    for (architecture, value, is_ternary) in [
        ("bitnet", 0.5, true),
        ("bitnet", 0.499, true),
        ("bitnet", 0.001, true),
        ("bitnet", 0.4, false),
        ("bitnet", f32::NAN, false),
        ("llama", 0.5, true),
        ("llama", 0.499, false),
    ] {
        let mut builder = Builder::new(architecture);
        set(&mut builder, value);
        let gguf = open(&builder);
        match gguf.matrix(up, 128, 64).unwrap() {
            Matrix::Ternary(found) => {
                assert!(is_ternary, "{architecture}: {value}");
                let second = if value < 0.25 { 0 } else { 1 };
                assert_eq!(found.trits()[..5], [1, second, -1, 0, 1]);
                assert_eq!(found.scale(), &Scale::Tensor(0.5));
            }
            Matrix::Float(_) => assert!(!is_ternary, "{architecture}: {value}"),
        }
        // The first projection is ternary, so the model is.
        assert_eq!(
            gguf.config()["quantization_config"]["quantization_mode"],
            "offline"
        );
    }
}

#[test]
fn a_float_model_is_online_if_it_is_a_bitnet_and_ordinary_otherwise() {
    for (architecture, mode) in [
        ("bitnet", Some("online")),
        ("bitnet-25", Some("online")),
        ("llama", None),
    ] {
        let mut builder = Builder::new(architecture);
        for tensor in &mut builder.tensors {
            tensor.3[..4].copy_from_slice(&0.3_f32.to_le_bytes());
        }
        let gguf = open(&builder);
        let found = gguf
            .config()
            .get("quantization_config")
            .map(|q| &q["quantization_mode"]);
        assert_eq!(found, mode.map(Value::from).as_ref(), "{architecture}");
        assert!(matches!(gguf.matrix(GATE, 128, 64), Ok(Matrix::Float(_))));
    }
}

#[test]
fn architectures_have_their_classes() {
    for (architecture, class, hidden_act) in [
        ("bitnet-b1.58", "BitNetForCausalLM", "relu2"),
        ("bitnet-25", "BitNetForCausalLM", "relu2"),
        ("bitnet", "BitnetForCausalLM", "silu"),
        ("llama", "LlamaForCausalLM", "silu"),
        ("qwen3", "Qwen3ForCausalLM", "silu"),
    ] {
        let gguf = open(&Builder::new(architecture));
        let config = gguf.config();
        assert_eq!(config["architectures"], json!([class]));
        assert_eq!(config["hidden_act"], hidden_act);
        assert_eq!(config["rope_theta"], 10000.0);
        assert_eq!(config["head_dim"], 32);
        assert_eq!(config["tie_word_embeddings"], true);
    }
}

#[test]
fn rope_scaling_has_the_keys_of_hugging_face() {
    let scaling = |set: &dyn Fn(&mut Builder)| {
        let mut builder = Builder::new("llama");
        set(&mut builder);
        let gguf = open(&builder);
        let divisors = gguf.config().get("rope_frequency_divisors").cloned();
        (gguf.config()["rope_scaling"].clone(), divisors)
    };
    let linear = |factor: f32| {
        move |b: &mut Builder| {
            b.set("llama.rope.scaling.type", text("linear"));
            b.set("llama.rope.scaling.factor", self::f32(factor));
        }
    };
    assert_eq!(scaling(&linear(1.0)), (Value::Null, None));
    let expected = json!({"rope_type": "linear", "factor": 2.5});
    assert_eq!(scaling(&linear(2.5)), (expected, None));
    let yarn = |b: &mut Builder| {
        b.set("llama.rope.scaling.type", text("yarn"));
        b.set("llama.rope.scaling.factor", self::f32(4.0));
        b.set("llama.rope.scaling.original_context_length", u32(8));
    };
    let expected =
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8});
    assert_eq!(scaling(&yarn), (expected, None));
    let divisors = |value: f32| {
        move |b: &mut Builder| {
            let mut values = [1.0; 16];
            values[15] = value;
            b.add("rope_freqs.weight", &[16], &values);
        }
    };
    assert_eq!(scaling(&divisors(1.0)), (Value::Null, None));
    let mut expected = vec![1.0; 16];
    expected[15] = 8.0;
    assert_eq!(
        scaling(&divisors(8.0)),
        (Value::Null, Some(json!(expected)))
    );
}

#[test]
fn block_quantized_floats_are_widened_as_the_reference_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gguf/blocks.gguf");
    let gguf = Gguf::open(path.as_ref()).unwrap();
    let mut compared = 0;
    for info in gguf
        .tensors()
        .iter()
        .filter(|info| info.name == info.encoding)
    {
        let read = |name: &str| values(&gguf.floats(name, &info.shape).unwrap());
        assert_eq!(
            read(&info.name),
            read(&format!("{}.f32", info.name)),
            "{info:?}"
        );
        compared += 1;
    }
    assert_eq!(compared, 4);
}

#[test]
fn half_floats_are_handed_out_as_they_are() {
    for (kind, one) in [(1, f16::ONE.to_le_bytes()), (30, bf16::ONE.to_le_bytes())] {
        let mut builder = Builder::new("llama");
        let norm = builder.tensor("output_norm.weight");
        (norm.2, norm.3) = (kind, one.repeat(64));
        let gguf = open(&builder);
        let found = gguf.floats("model.norm.weight", &[64]).unwrap();
        assert!(matches!(found.bytes, std::borrow::Cow::Borrowed(_)));
        assert_eq!(values(&found), [1.0; 64]);
    }
}
