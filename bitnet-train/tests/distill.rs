//! Distillation: the student comes closer to its teacher, a resumed run equals the unbroken one in every stage, and what
//! cannot be learned from is refused.

mod support;

use std::path::Path;

use bitnet_models::Model;
use bitnet_train::metrics::{Row, Terms};
use bitnet_train::recipes::{Ended, qat};
use burn::tensor::Device;
use support::{Place, model_fixture};

/// A student that starts from its teacher.
const DISTILL: &str = r#"
recipe = "distill"
output = "RUN/out"
[teacher]
from = "TEACHER"
[model]
from = "TEACHER"
[data]
folder = "RUN/data"
sources = ["stories:40"]
validation = 0.1
[pretraining]
steps = 3
blend = { kind = "linear", steps = 2 }
[distillation]
steps = 3
[batch]
rows = 4
length = 16
[optimizer]
lr = 1e-3
[log]
every = 1
trits_every = 1
[validation]
every = 2
batches = 2
[checkpoint]
every = 2
"#;

const LLAMA: &str = "tiny-falcon-e/bfloat16";

fn place(teacher: &Path) -> Place {
    Place::of(&DISTILL.replace("TEACHER", teacher.to_str().expect("a fixture")))
}

#[test]
fn a_student_comes_closer_to_its_teacher_in_logits_and_relations() {
    let place = place(&model_fixture(LLAMA));
    let settings = [
        "pretraining.steps=0",
        "pretraining.blend.kind=none",
        "distillation.steps=24",
        "distillation.logits=10", // the teacher is made of random weights: the targets say otherwise
        "optimizer.lr=2e-3",
    ];
    let summary = place.train(&settings, false).unwrap();
    assert_eq!((summary.ended, summary.step), (Ended::Finished, 24));
    let rows = place.rows();
    let terms = |at: usize| rows[at].terms.unwrap();
    let mean = |of: fn(&Terms) -> f64, begin: usize| {
        (begin..begin + 4).map(|at| of(&terms(at))).sum::<f64>() / 4.0
    };
    let (first, last) = (mean(|t| t.logits, 0), mean(|t| t.logits, 20));
    assert!(
        first > 0.0 && last < 0.8 * first,
        "logits: {first} to {last}"
    );
    let (first, last) = (mean(|t| t.attention, 0), mean(|t| t.attention, 20));
    assert!(first > 0.0 && last < first, "attention: {first} to {last}");
    let Row { loss, terms, .. } = rows[5].clone();
    let terms = terms.unwrap();
    let sum = terms.cross_entropy + 10.0 * terms.logits + terms.attention;
    assert!((loss - sum).abs() < 1e-4, "{loss}, {terms:?}");
    let curves = std::fs::read_to_string(place.output(qat::CURVES)).unwrap();
    assert!(curves.contains("distance from the teacher"));
    assert!(Model::load(place.output(qat::PACKED), &Device::flex()).is_ok());
}

#[test]
fn a_student_may_be_smaller_and_have_other_heads() {
    let place = place(&model_fixture(LLAMA));
    let sizes = "model={hidden_size=32, intermediate_size=48, n_layers=1, n_heads=2, context=32}";
    let settings = [sizes, "distillation.relation_heads=4"];
    assert_eq!(place.train(&settings, false).unwrap().step, 6);
    assert!(place.rows()[5].terms.unwrap().attention > 0.0);
}

#[test]
fn a_run_that_is_resumed_in_any_stage_equals_the_unbroken_one() {
    let llama = model_fixture(LLAMA);
    let settings = [
        "model.sub_norms=true",
        "batch.at_once=3",
        "pretraining.data={folder=\"RUN/plain\", sources=[\"questions:60\"]}",
    ];
    let (whole, broken) = (place(&llama), place(&llama));
    let run = |place: &Place, resume, steps| {
        let folder = place.0.path().to_str().unwrap();
        let settings = settings.map(|setting| setting.replace("RUN", folder));
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        place.train_until(&settings, resume, steps).unwrap()
    };
    run(&whole, false, u64::MAX);
    // In the first stage, between both, in the second.
    assert_eq!(run(&broken, false, 1).step, 1);
    assert_eq!(run(&broken, true, 2).step, 3);
    assert_eq!(run(&broken, true, 2).step, 5);
    assert_eq!(run(&broken, true, u64::MAX).ended, Ended::Finished);
    let rows = whole.rows();
    assert_eq!(broken.rows(), rows);
    let spoken: Vec<bool> = rows.iter().map(|row| row.terms.is_some()).collect();
    assert_eq!(spoken, [false, false, false, true, true, true]);
    let blends: Vec<f64> = rows.iter().map(|row| row.blend).collect();
    assert_eq!(blends, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
    assert!(place_holds(&broken, "plain") && place_holds(&broken, "data"));
}

fn place_holds(place: &Place, folder: &str) -> bool {
    place.0.path().join(folder).join("data.json").exists()
}

#[test]
fn a_plan_holds_the_teacher_too_and_a_step_can_be_timed() {
    let place = place(&model_fixture(LLAMA));
    let recipe = place.recipe(&[]).unwrap();
    let plan = recipe.plan().unwrap();
    assert_eq!(plan.steps, 6);
    let (projections, rest) = plan.parameters;
    assert!(plan.bytes > 20 * (projections + rest));
    assert!(recipe.time_step(&Device::flex()).unwrap().as_nanos() > 0);
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let llama = model_fixture(LLAMA);
    let refusal = |place: &Place, settings: &[&str]| {
        let result = place
            .recipe(settings)
            .and_then(|_| place.train(settings, false));
        result.unwrap_err().to_string()
    };
    for (setting, words) in [
        (
            "distillation.temperature=0",
            "`distillation.temperature`: found 0",
        ),
        ("distillation.logits=-1", "`distillation.logits`: found -1"),
        ("distillation.relation_heads=5", "a divisor of 96"),
        (
            "distillation.layer_from_end=2",
            "found 2, expected less than 2",
        ),
        ("pretraining.blend.steps=3", "`pretraining.blend.steps`"),
        ("distillation.steps=0", "`distillation.steps`: found 0"),
        ("data.vocab_size=300", "`data.vocab_size`: found 300"),
        ("distillation.beta=1", "`beta`"),
    ] {
        let error = refusal(&place(&llama), &[setting]);
        assert!(error.contains(words), "{setting}: {error}");
    }
    let other = model_fixture("tiny-1bitllm");
    let teacher = format!("teacher.from={}", other.display());
    let error = refusal(&place(&llama), &[&teacher]);
    assert!(
        error.contains("vocabulary") || error.contains("logits of"),
        "{error}"
    );
}
