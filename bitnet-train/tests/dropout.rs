//! Dropout: seeded by step, on in training and off in evaluation. A file of its own, because Burn has one generator of
//! random numbers for the whole process: no other test may draw from it meanwhile.

mod support;

use bitnet_models::decoder::Decoder;
use bitnet_train::model::trainable;
use bitnet_train::recipes::qat;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use support::Place;

#[test]
fn dropout_is_for_training_alone_and_a_resumed_run_drops_what_the_unbroken_one_did() {
    let settings = ["model.dropout=0.2", "batch.at_once=3"];
    let (whole, broken, plain) = (Place::new(), Place::new(), Place::new());
    whole.train(&settings, false).unwrap();
    broken.train_until(&settings, false, 2).unwrap();
    broken.train_until(&settings, true, 2).unwrap();
    broken.train(&settings, true).unwrap();
    assert_eq!(broken.rows(), whole.rows());
    plain.train(&settings[1..], false).unwrap();
    assert_ne!(plain.rows()[0].loss, whole.rows()[0].loss);

    let saved = bitnet_models::weights::open(&whole.output(qat::LAST)).unwrap();
    let device = Device::flex().autodiff();
    let sure = trainable(&*saved, &device).unwrap();
    let mut dropping = sure.clone();
    dropping.set_dropout(0.5);
    let forward = |model: &Decoder| {
        let ids = Tensor::<2, Int>::from_data([[5, 9, 2, 250, 17]], &model.device());
        model.forward(ids).into_data()
    };
    assert_eq!(forward(&dropping.valid()), forward(&sure.valid()));
    let (first, second) = (forward(&dropping), forward(&dropping));
    assert_ne!(first, second);
    assert_ne!(first, forward(&sure));
}
