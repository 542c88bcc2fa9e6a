//! Norm, gate, rotation and products that share an input: every kernel and every device against formulas in f64 and against
//! the default bodies.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;

use bitnet_kernels::cpu::{self, kernels, set_threads};
use bitnet_kernels::packing::words;
use bitnet_kernels::{
    Activation, ActivationQuantizer, PackedTernary, Scale, TernaryTensor, gated, rms_norm, rotate,
    ternary_linear, ternary_linear_pair, ternary_linear_triple,
};
use burn::tensor::{Device, Tensor, TensorData};
use devices::devices;
use random::Random;

const EPSILON: f64 = 1e-5;

/// Largest difference, relative to numbers above 1.
fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
        assert!(error < 1e-6, "{what}: {found} at {at}, expected {expected}");
    }
}

fn norm_in_f64(x: &[f32], gamma: &[f32]) -> Vec<f64> {
    let rows = x.chunks(gamma.len()).flat_map(|row| {
        let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
        let root = (squares / row.len() as f64 + EPSILON).sqrt();
        let values = row.iter().zip(gamma);
        values.map(move |(&x, &gamma)| f64::from(x) / root * f64::from(gamma))
    });
    rows.collect()
}

fn gated_in_f64(gate: &[f32], up: &[f32], activation: Activation) -> Vec<f64> {
    let pairs = gate.iter().zip(up);
    let value = |(&gate, &up): (&f32, &f32)| {
        let (gate, up) = (f64::from(gate), f64::from(up));
        match activation {
            Activation::Silu => gate / (1.0 + (-gate).exp()) * up,
            Activation::Relu2 => gate.max(0.0).powi(2) * up,
        }
    };
    pairs.map(value).collect()
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

#[test]
fn norm_and_gate_are_the_formulas_on_every_device() {
    let mut random = Random(1);
    for d in [1, 15, 16, 33, 320, 2560] {
        let (x, gamma) = (random.floats(3 * d), random.floats(d));
        let up = random.floats(3 * d);
        for (name, device) in devices() {
            let on = |values: &[f32]| tensor(values, [1, 3, d], &device);
            let found = rms_norm(on(&x), tensor(&gamma, [d], &device), EPSILON);
            assert_close(
                &values(found),
                &norm_in_f64(&x, &gamma),
                &format!("norm of {d}, {name}"),
            );
            for activation in [Activation::Silu, Activation::Relu2] {
                let found = gated(on(&x), on(&up), activation);
                let expected = gated_in_f64(&x, &up, activation);
                assert_close(
                    &values(found),
                    &expected,
                    &format!("{activation:?} {d}, {name}"),
                );
            }
        }
    }
}

#[test]
fn a_gate_leaves_a_tensor_that_is_still_in_use_alone() {
    for (name, device) in devices() {
        let gate = tensor(&[-1.0, 2.0], [2], &device);
        let kept = gate.clone();
        let y = gated(gate, tensor(&[3.0, 5.0], [2], &device), Activation::Relu2);
        assert_eq!(values(y), [0.0, 20.0], "{name}");
        assert_eq!(values(kept), [-1.0, 2.0], "{name}");
    }
}

#[test]
fn a_gate_passes_nan_on_to_the_output() {
    for kernel in kernels() {
        for activation in [Activation::Silu, Activation::Relu2] {
            let mut gate = [f32::NAN, 1.0];
            cpu::gated(kernel, activation, &mut gate, &[1.0, 1.0]);
            assert!(gate[0].is_nan() && gate[1].is_finite(), "{}", kernel.name());
        }
    }
}

#[test]
fn rotation_turns_every_head_by_the_angles_of_its_row_and_position() {
    let mut random = Random(2);
    let (batch, heads, seq, d) = (2, 3, 5, 6);
    let x = random.floats(batch * heads * seq * d);
    for (batches, positions) in [(2, 5), (1, 5), (1, 1)] {
        let angles = random.floats(batches * positions * d / 2);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let mut expected = vec![0.0; x.len()];
        for row in 0..batch * heads * seq {
            let (b, p) = (row / (heads * seq) % batches, row % seq % positions);
            for i in 0..d / 2 {
                let at = (b * positions + p) * d / 2 + i;
                let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
                let (first, second) = (row * d + i, row * d + i + d / 2);
                let (u, v) = (f64::from(x[first]), f64::from(x[second]));
                expected[first] = u * cos - v * sin;
                expected[second] = v * cos + u * sin;
            }
        }
        for (name, device) in devices() {
            let shape = [batches, 1, positions, d / 2];
            let x = tensor(&x, [batch, heads, seq, d], &device);
            let found = rotate(
                x,
                tensor(&cos, shape, &device),
                tensor(&sin, shape, &device),
            );
            assert_close(&values(found), &expected, name);
        }
    }
}

#[test]
fn outputs_are_the_same_bits_on_any_kernel_and_number_of_threads() {
    let mut random = Random(3);
    let (rows, d) = (64, 2560);
    let (x, gamma) = (random.floats(rows * d), random.floats(d));
    let norm = |kernel, threads| {
        set_threads(threads);
        let mut out = vec![0.0; x.len()];
        cpu::rms_norm(kernel, &x, &gamma, EPSILON as f32, &mut out);
        let mut gate = x.clone();
        cpu::gated(kernel, Activation::Relu2, &mut gate, &out);
        set_threads(0);
        (out, gate)
    };
    let kernels = kernels();
    let expected = norm(kernels[0], 1);
    for kernel in kernels {
        for threads in [1, 2, 5] {
            assert!(
                norm(kernel, threads) == expected,
                "{} {threads}",
                kernel.name()
            );
        }
    }
}

#[test]
fn products_that_share_an_input_are_those_that_do_not() {
    let mut random = Random(4);
    let d_in = 100;
    let shapes = [70, 3, 16];
    for (name, device) in devices() {
        let weights = shapes.map(|d_out| {
            let codes = words::pack(&random.trits(d_out * d_in), d_out, d_in).expect("trits");
            let packed = PackedTernary::new(codes, Scale::Tensor(0.5), d_out, d_in);
            TernaryTensor::from_packed(packed.expect("a valid weight"), &device)
        });
        for rows in [1, 9] {
            let x = tensor(&random.floats(rows * d_in), [rows, d_in], &device);
            for activations in [
                ActivationQuantizer::Int8,
                ActivationQuantizer::Int4,
                ActivationQuantizer::None,
            ] {
                let alone = weights
                    .each_ref()
                    .map(|weight| values(ternary_linear(x.clone(), weight, activations)));
                let three = ternary_linear_triple(x.clone(), weights.clone(), activations);
                assert_eq!(three.map(values), alone, "{name}");
                let [a, b, _] = weights.clone();
                let two = ternary_linear_pair(x.clone(), [a, b], activations);
                assert_eq!(two.map(values)[..], alone[..2], "{name}");
            }
        }
    }
}
