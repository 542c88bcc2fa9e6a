//! Runs that start from a checkpoint: masters of a BitNet, and a float Llama or Qwen3 that becomes one.

mod support;

use bitnet_kernels::ActivationQuantizer;
use bitnet_models::Model;
use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, LoadOptions, Masters};
use bitnet_models::tokenizer::Vocabulary;
use bitnet_models::weights::{
    self, ExportOptions, FloatKind, GgufLayout, GgufOptions, Variant, write_gguf,
};
use bitnet_train::data::tokenizer::TokenizerBundle;
use bitnet_train::model::{self, ModelConfig, Origin, StartModel, trainable};
use bitnet_train::recipes::qat;
use burn::tensor::{Device, Int, Tensor};
use serde_json::json;
use support::{Place, SMALL, model_fixture};
use tempfile::TempDir;

const BITNET: &str = "tiny-2b4t-bf16";
const LLAMA: &str = "tiny-falcon-e/bfloat16";

fn start(name: &str, sub_norms: bool, ternary: bool) -> ModelConfig {
    ModelConfig::Start(StartModel {
        from: model_fixture(name),
        sub_norms,
        ternary,
        activation_bits: None,
        dropout: 0.0,
    })
}

/// A float Qwen3 with made-up weights, in the sizes and with the tokenizer of the Llama.
fn qwen3() -> TempDir {
    let llama = model_fixture(LLAMA);
    let mut config = weights::open(&llama).expect("a fixture").config().clone();
    config.insert("architectures".into(), json!(["Qwen3ForCausalLM"]));
    config.insert("model_type".into(), "qwen3".into());
    let fresh = |slots: &[_]| model::Masters::fresh(slots, &config, &llama, 0.1, 3);
    let described = architectures::read(&fresh(&[]), Overrides::default()).expect("a Qwen3");
    let weights = fresh(&described.slots());
    let slots = described.slots_to_write(&weights).expect("floats");
    let folder = tempfile::tempdir().expect("a folder");
    let options = ExportOptions::new(Variant::Dequantized(FloatKind::F32));
    weights::export(&weights, &slots, folder.path(), &options, &mut |_, _| ()).expect("a Qwen3");
    folder
}

/// As the name of a fixture.
fn name(folder: &TempDir) -> &str {
    folder.path().to_str().expect("what this wrote")
}

fn load(config: &ModelConfig) -> Decoder {
    let origin = Origin::open(config).expect("a fixture");
    let description = origin.describe(0, None);
    let loaded = origin.load(&description, 0, &Device::flex());
    loaded.expect("a fixture")
}

fn logits(model: &Decoder) -> Vec<f32> {
    let ids = Tensor::<2, Int>::from_data([[5, 9, 2, 250, 17, 33, 1]], &model.device());
    model.forward(ids).into_data().iter().collect()
}

/// The small recipe, from a checkpoint.
fn place(name: &str, more: &str) -> Place {
    let (head, rest) = SMALL.split_once("[model]").expect("a section");
    let (_, tail) = rest.split_once("[batch]").expect("a section");
    let from = model_fixture(name);
    let head = head.replace("vocab_size = 300\n", "");
    let model = format!("[model]\nfrom = \"{}\"\n{more}\n", from.display());
    Place::of(&format!("{head}{model}[batch]{tail}"))
}

#[test]
fn masters_are_those_of_the_checkpoint() {
    for name in [BITNET, "tiny-falcon-e/prequantized", "tiny-1bitllm"] {
        let checkpoint = weights::open(&model_fixture(name)).unwrap();
        let started = load(&start(name, false, true));
        assert!(matches!(started.config().masters, Masters::Ternary(_)));
        let own = trainable(&*checkpoint, &Device::flex()).unwrap();
        let masters = |model: &Decoder| -> Vec<f32> {
            let layers = model.model.layers.iter();
            let latents = layers.flat_map(|layer| layer.projections().map(|p| p.latent().cloned()));
            latents
                .flat_map(|latent| {
                    latent
                        .unwrap()
                        .val()
                        .into_data()
                        .iter()
                        .collect::<Vec<f32>>()
                })
                .collect()
        };
        assert!(masters(&started) == masters(&own), "{name}");
        // Data that was prepared with the folder's tokenizer fits.
        let [one, other] = [
            TokenizerBundle::load(&model_fixture(name)).unwrap(),
            TokenizerBundle::of(&*checkpoint).unwrap().unwrap(),
        ];
        assert_eq!(one.json(), other.json());
    }
    let own = trainable(
        &*weights::open(&model_fixture(BITNET)).unwrap(),
        &Device::flex(),
    );
    assert!(logits(&load(&start(BITNET, false, true))) == logits(&own.unwrap()));
}

#[test]
fn sub_norms_that_are_inserted_keep_the_float_function_at_first() {
    let qwen3 = qwen3();
    for from in [LLAMA, name(&qwen3)] {
        let float = trainable(
            &*weights::open(&model_fixture(from)).unwrap(),
            &Device::flex(),
        );
        let expected = logits(&float.unwrap());
        let mut model = load(&start(from, true, true));
        assert!(model.config().sub_norms && model.model.layers[0].mlp.ffn_sub_norm.is_some());
        model.set_blend(0.0);
        model.set_sub_norm_blend(0.0);
        assert!(
            logits(&model) == expected,
            "{from}: the function is another one"
        );
        for lambda in [0.5, 1.0] {
            model.set_sub_norm_blend(lambda);
            assert!(logits(&model) != expected, "{from}: no norm at {lambda}");
        }
    }
    // Nothing is inserted where there are sub-norms.
    let bitnet = start(BITNET, true, true);
    assert!(!Origin::open(&bitnet).unwrap().inserts_sub_norms());
}

#[test]
fn a_float_model_becomes_a_bitnet_and_resumes_on_the_way() {
    let qwen3 = qwen3();
    for from in [LLAMA, name(&qwen3)] {
        let more = "sub_norms = true";
        let (whole, broken) = (place(from, more), place(from, more));
        let settings = [
            "steps=4",
            "blend.kind=linear",
            "blend.steps=3",
            "checkpoint.every=1",
        ];
        whole.train(&settings, false).unwrap();
        broken.train_until(&settings, false, 2).unwrap();
        broken.train(&settings, true).unwrap();
        assert_eq!(broken.rows(), whole.rows());

        let device = Device::flex();
        let saved = weights::open(&whole.output(qat::BEST)).unwrap();
        let latent = trainable(&*saved, &device).unwrap();
        let options = LoadOptions::exact();
        let packed = Model::load_with(whole.output(qat::PACKED), &device, &options, &mut |_, _| ());
        let packed = packed.unwrap();
        let config = packed.decoder().config();
        assert!(packed.tokenizer().is_ok() && config.sub_norms);
        assert_eq!(config.head_norms, from != LLAMA);
        let (found, expected) = (logits(packed.decoder()), logits(&latent));
        let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let difference = differences.fold(0.0, f32::max);
        assert!(difference < 1e-4, "{difference}");
        // Only our own formats can say that such a model has sub-norms.
        let (slots, vocabulary) = (
            latent.config().slots(),
            Vocabulary::of(&*saved).unwrap().unwrap(),
        );
        let (path, options) = (
            whole.output("model.gguf"),
            GgufOptions::new(GgufLayout::Tq2),
        );
        let written = write_gguf(
            &*saved,
            &slots,
            &vocabulary,
            &path,
            &options,
            &mut |_, _| (),
        );
        let error = written.unwrap_err().to_string();
        assert!(error.contains("found sub-norms, expected none"), "{error}");
    }
}

#[test]
fn inputs_have_the_bits_that_the_recipe_says_or_else_those_of_the_checkpoint() {
    use ActivationQuantizer::{Int4, Int8};
    let trained = place(BITNET, "activation_bits = 4");
    trained.train(&["steps=2"], false).unwrap();
    let four_bits = trained.output(qat::BEST);
    for (from, activation_bits, expected) in [
        (model_fixture(BITNET), None, Int8),
        (model_fixture(LLAMA), None, Int8),
        (model_fixture(LLAMA), Some(4), Int4),
        (four_bits.clone(), None, Int4),
        (four_bits, Some(8), Int8),
    ] {
        let model = load(&ModelConfig::Start(StartModel {
            from: from.clone(),
            sub_norms: false,
            ternary: true,
            activation_bits,
            dropout: 0.0,
        }));
        let mut layers = model.model.layers.iter();
        let what = format!("{}: {activation_bits:?}", from.display());
        assert_eq!(model.config().activations, expected, "{what}");
        assert!(
            layers.all(|layer| layer
                .projections()
                .iter()
                .all(|p| p.activations == expected)),
            "{what}"
        );
    }
}

#[test]
fn masters_of_every_family_are_saved_under_the_names_of_their_family() {
    let qwen3 = qwen3();
    for name in [BITNET, "tiny-1bitllm", name(&qwen3)] {
        let place = place(name, "");
        place.train(&["steps=2"], false).unwrap();
        for output in [qat::BEST, qat::PACKED] {
            assert!(Model::load(place.output(output), &Device::flex()).is_ok());
        }
        let [before, after] = [model_fixture(name), place.output(qat::LAST)].map(|folder| {
            let checkpoint = weights::open(&folder).unwrap();
            let tensors = checkpoint.tensors().iter();
            let mut names: Vec<String> = tensors.map(|tensor| tensor.file_name.clone()).collect();
            names.sort();
            names
        });
        assert_eq!(before, after);
    }
}

#[test]
fn the_float_twin_of_a_checkpoint_stays_float() {
    let place = place(BITNET, "ternary = false");
    place.train(&["steps=2"], false).unwrap();
    let saved = trainable(
        &*weights::open(&place.output(qat::BEST)).unwrap(),
        &Device::flex(),
    );
    assert!(
        saved
            .unwrap()
            .config()
            .is_ternary("self_attn.q_proj")
            .is_none()
    );
    assert!(place.rows().iter().all(|row| row.trits.is_none()));
}

#[test]
fn packed_weights_other_vocabularies_and_sizes_are_refused() {
    let refusal = |place: &Place, settings: &[&str]| {
        let result = place
            .recipe(settings)
            .and_then(|_| place.train(settings, false));
        result.unwrap_err().to_string()
    };
    let error = refusal(&place("tiny-2b4t-packed", ""), &[]);
    assert!(
        error.contains("packed ternary weights, expected float masters"),
        "{error}"
    );
    let error = refusal(&place("tiny-embedding", ""), &[]);
    assert!(error.contains("no output head"), "{error}");
    let error = refusal(&place(BITNET, "n_layers = 3"), &[]);
    assert!(
        error.contains("`model") && error.contains("unknown field `n_layers`"),
        "{error}"
    );
    let error = refusal(&place(BITNET, ""), &["data.vocab_size=300"]);
    assert!(
        error.contains("`data.vocab_size`") && error.contains(BITNET),
        "{error}"
    );
    let error = refusal(&place(BITNET, ""), &["batch.length=100000"]);
    assert!(error.contains("`batch.length`: found 100000"), "{error}");

    let other = Place::new();
    other.train_until(&[], false, 1).unwrap();
    let folder = format!("data.folder={}", other.0.path().join("data").display());
    let error = refusal(&place(BITNET, ""), &[&folder]);
    assert!(error.contains("another one, of 300 tokens"), "{error}");
    assert!(error.contains(&format!("{BITNET}, of ")), "{error}");
}

#[test]
fn a_plan_counts_the_model_of_the_checkpoint() {
    let place = place(LLAMA, "sub_norms = true");
    let plan = place.recipe(&[]).unwrap().plan().unwrap();
    let checkpoint = weights::open(&model_fixture(LLAMA)).unwrap();
    let own = trainable(&*checkpoint, &Device::flex()).unwrap();
    let (linear, rest) = own.config().parameters();
    let config = own.config();
    let norms = config.n_layers * (config.n_heads * config.head_dim + config.intermediate_size);
    assert_eq!(plan.parameters, (linear, rest + norms as u64));
    assert!(
        place
            .recipe(&[])
            .unwrap()
            .time_step(&Device::flex())
            .unwrap()
            .as_nanos()
            > 0
    );
}
