//! BitLinear inside a user's model under Burn's own training loop: `SupervisedTraining` and its `Learner`.

#![cfg(feature = "flex")]

use bitnet_models::{BitLinear, BitLinearConfig};
use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::nn::loss::{MseLoss, Reduction};
use burn::optim::AdamWConfig;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::metric::LossMetric;
use burn::train::{
    ExecutionStrategy, InferenceStep, Learner, RegressionOutput, SupervisedTraining, TrainOutput,
    TrainStep,
};

const FEATURES: usize = 16;

#[derive(Clone)]
struct Rows;

#[derive(Clone, Debug)]
struct Batch {
    x: Tensor<2>,
    y: Tensor<2>,
}

impl Batcher<[f32; FEATURES], Batch> for Rows {
    /// The target is the sum of the first half less that of the second: weights +1 and -1.
    fn batch(&self, items: Vec<[f32; FEATURES]>, device: &Device) -> Batch {
        let rows = items.len();
        let target = |row: &[f32; FEATURES]| {
            row[..FEATURES / 2].iter().sum::<f32>() - row[FEATURES / 2..].iter().sum::<f32>()
        };
        let y: Vec<f32> = items.iter().map(target).collect();
        let x: Vec<f32> = items.into_iter().flatten().collect();
        Batch {
            x: Tensor::from_data(TensorData::new(x, [rows, FEATURES]), device),
            y: Tensor::from_data(TensorData::new(y, [rows, 1]), device),
        }
    }
}

#[derive(Module, Debug)]
struct Regressor {
    hidden: BitLinear,
    output: BitLinear,
}

impl Regressor {
    fn predict(&self, batch: Batch) -> RegressionOutput {
        let output = self.output.forward(relu(self.hidden.forward(batch.x)));
        let loss = MseLoss::new().forward(output.clone(), batch.y.clone(), Reduction::Mean);
        RegressionOutput {
            loss,
            output,
            targets: batch.y,
        }
    }
}

impl TrainStep for Regressor {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> TrainOutput<RegressionOutput> {
        let output = self.predict(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Regressor {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> RegressionOutput {
        self.predict(batch)
    }
}

#[test]
fn burns_learner_trains_a_model_of_bit_linear_layers() {
    let device = Device::flex();
    device.seed(1);
    let training = device.clone().autodiff();
    let value = |i: usize, j: usize| ((i * 31 + j * 57 + i * j) % 97) as f32 / 48.0 - 1.0;
    let rows: Vec<[f32; FEATURES]> = (0..256)
        .map(|i| std::array::from_fn(|j| value(i, j)))
        .collect();
    let loader = |device: &Device| {
        let loader = DataLoaderBuilder::new(Rows)
            .batch_size(32)
            .set_device(device.clone());
        loader.build(InMemDataset::new(rows.clone()))
    };
    let linear = |d_in, d_out| {
        BitLinearConfig::new(d_in, d_out)
            .with_bias(true)
            .init(&training)
    };
    let model = Regressor {
        hidden: linear(FEATURES, 64),
        output: linear(64, 1),
    };
    let all = || Rows.batch(rows.clone(), &device);
    let before = model.valid().predict(all()).loss.into_scalar::<f32>();

    let directory = std::env::temp_dir().join(format!("bitnet-learner-{}", std::process::id()));
    let trained = SupervisedTraining::new(
        directory.to_str().expect("a path in UTF-8"),
        loader(&training),
        loader(&device),
    )
    .metric_train_numeric(LossMetric::new())
    .with_training_strategy(ExecutionStrategy::single(training.clone()).into())
    .num_epochs(10)
    .launch(Learner::new(model, AdamWConfig::new().init(), 1e-2));
    std::fs::remove_dir_all(&directory).ok();

    let trained = trained.model;
    let after = trained.predict(all()).loss.into_scalar::<f32>();
    assert!(
        after < before / 3.0,
        "loss {before} before training, {after} after"
    );
}
