//! Trains a small ternary network to tell noisy waves apart, packs it, and compares accuracy and memory.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use std::f64::consts::TAU;

use bitnet_burn::{BitLinear, BitLinearConfig};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor};

const SAMPLES: usize = 64; // of one wave
const CLASSES: usize = 6;

#[derive(Module, Debug)]
struct Classifier {
    hidden: BitLinear,
    output: BitLinear,
}

impl Classifier {
    fn forward(&self, waves: Tensor<2>) -> Tensor<2> {
        self.output.forward(relu(self.hidden.forward(waves)))
    }

    fn report(&self, state: &str, (waves, classes): (Tensor<2>, Tensor<1, Int>)) {
        let predicted = self.forward(waves).argmax(1).squeeze_dim::<1>(1);
        let right = predicted.equal(classes).float().mean();
        let right = 100.0 * right.into_scalar::<f64>();
        let bytes = self.hidden.bytes() + self.output.bytes();
        println!("{state}: {right:.2} % right, {bytes} bytes");
    }
}

/// Noisy waves of random phase with 1, 2, 3, … periods, and the number of their class.
fn waves(count: usize, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let random = |distribution| Tensor::<2>::random([count, 1], distribution, device);
    let class = random(Distribution::Uniform(0.0, CLASSES as f64)).floor();
    let phase = random(Distribution::Uniform(0.0, TAU));
    let time = Tensor::arange(0..SAMPLES as i64, device).float() / SAMPLES as f64;
    let wave = ((class.clone() + 1.0) * time.unsqueeze::<2>() * TAU + phase).sin();
    let noise = wave.random_like(Distribution::Normal(0.0, 1.0));
    (wave + noise, class.squeeze_dim::<1>(1).int())
}

fn main() {
    #[cfg(feature = "flex")]
    let device = Device::flex();
    #[cfg(not(feature = "flex"))]
    let device = Device::default();
    device.seed(42);
    let training = device.clone().autodiff();

    let linear = |d_in, d_out| BitLinearConfig::new(d_in, d_out).with_bias(true);
    let mut model = Classifier {
        hidden: linear(SAMPLES, 128).init(&training),
        output: linear(128, CLASSES).init(&training),
    };
    let mut optimizer = AdamWConfig::new().init();
    for step in 1..=200 {
        let (waves, classes) = waves(128, &training);
        let loss = CrossEntropyLossConfig::new().init(&training);
        let loss = loss.forward(model.forward(waves), classes);
        if step % 50 == 0 {
            println!("step {step}: loss {:.3}", loss.clone().into_scalar::<f64>());
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(3e-3, model, gradients);
    }

    let test = waves(10_000, &device);
    let mut model = model.valid();
    model.report("latent", test.clone());
    model.hidden = model.hidden.pack();
    model.output = model.output.pack();
    model.report("packed", test);
}
