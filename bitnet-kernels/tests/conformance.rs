//! One suite over op x device x shape, against the oracle.
//!
//! Integer sums are compared with `==`: activations are integers with the largest code as maximum, so their scale is 1, and
//! with unit weight scales the output *is* the sum. Float results have one tolerance, [`close`].

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;

use bitnet_kernels::quantize::{absmax, fake_quantize};
use bitnet_kernels::{
    ActivationQuantizer, Granularity, PackedTernary, Scale, TernaryTensor, WeightQuantizer,
    defaults, quantize, reference, ternarize, ternary_linear, ternary_linear_latent,
};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use devices::devices;
use random::Random;

const INT8: ActivationQuantizer = ActivationQuantizer::Int8;
const INT4: ActivationQuantizer = ActivationQuantizer::Int4;
const FLOAT: ActivationQuantizer = ActivationQuantizer::None;
/// The quantizers with integer products, and their largest codes.
const INTEGERS: [(ActivationQuantizer, i8); 2] = [(INT8, 127), (INT4, 7)];

/// (rows, d_out, d_in): every dimension meets 1, 15, 16, 17, a block and its neighbours; both regimes of each kernel.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (1, 15, 16),
    (2, 16, 15),
    (7, 17, 17),
    (8, 1, 129),
    (9, 129, 1),
    (1, 127, 128),
    (3, 128, 127),
    (4, 129, 129),
    (33, 64, 64),
    (33, 65, 63),
    (64, 130, 192),
    (65, 31, 257),
    (130, 70, 320),
    (512, 48, 96),
    (1, 96, 2560),
    (2, 40, 3200),
    (8, 24, 6912),
    (33, 16, 8640),
    (1, 8, 14336),
];

/// The layers of BitNet b1.58 2B4T, 3B and Llama3-8B-1.58 as (d_out, d_in).
const LAYERS: &[(usize, usize)] = &[
    (2560, 2560),
    (640, 2560),
    (3840, 2560),
    (6912, 2560),
    (13824, 2560),
    (2560, 6912),
    (3200, 3200),
    (8640, 3200),
    (3200, 8640),
    (4096, 4096),
    (1024, 4096),
    (14336, 4096),
    (4096, 14336),
];

fn floats<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), shape),
        (device, DType::F32),
    )
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .cast(FloatDType::F32)
        .into_data()
        .try_to_vec()
        .expect("cast to f32")
}

fn granularities(d_in: usize) -> Vec<Granularity> {
    let mut all = vec![Granularity::Tensor, Granularity::Row];
    all.extend(
        [32, 64, 96, 128, 256]
            .into_iter()
            .filter(|&size| size < d_in + 32)
            .map(Granularity::Group),
    );
    all
}

fn scales(random: &mut Random, granularity: Granularity, d_out: usize, d_in: usize) -> Scale {
    let count = granularity.count(d_out, d_in);
    Scale::from_values(
        granularity,
        (0..count).map(|_| 0.5 + random.float().abs()).collect(),
    )
}

/// f32 sums in another order: relative error of a few units in the last place.
fn close(what: &str, found: &[f32], expected: &[f32]) {
    close_within(1e-5, what, found, expected);
}

/// Where Burn's own f32 products are one side: on CUDA they run in TF32, with ten bits of mantissa.
fn close_to_burn(device: &str, what: &str, found: &[f32], expected: &[f32]) {
    close_within(
        if device == "cuda" { 2e-3 } else { 1e-5 },
        what,
        found,
        expected,
    );
}

fn close_within(tolerance: f32, what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let magnitude = expected.iter().fold(1e-6f32, |m, e| m.max(e.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= tolerance * magnitude,
            "{what}: element {i} is {f}, expected {e}"
        );
    }
}

fn weight(trits: &[i8], scale: Scale, d_out: usize, d_in: usize, device: &Device) -> TernaryTensor {
    TernaryTensor::from_packed(
        PackedTernary::from_trits(trits, scale, d_out, d_in).expect("trits"),
        device,
    )
}

#[test]
fn integer_sums_equal_the_oracle_on_every_device() {
    let mut random = Random(1);
    let cases = SHAPES
        .iter()
        .flat_map(|shape| INTEGERS.map(|integers| (shape, integers)));
    for (&(rows, d_out, d_in), (activations, limit)) in cases {
        let trits = random.trits(d_out * d_in);
        let x = random.integer_rows(rows, d_in, limit);
        let (q, s) = reference::quantize(&x, d_in, limit);
        assert!(s.iter().all(|&s| s == 1.0));
        let sums: Vec<f32> = reference::ternary_sums(&q, &trits, d_in)
            .into_iter()
            .map(|sum| sum as f32)
            .collect();
        for (name, device) in devices() {
            for granularity in granularities(d_in) {
                let ones =
                    Scale::from_values(granularity, vec![1.0; granularity.count(d_out, d_in)]);
                let weight = weight(&trits, ones, d_out, d_in, &device);
                let y = values(ternary_linear(
                    floats(&x, [rows, d_in], &device),
                    &weight,
                    activations,
                ));
                assert!(
                    y == sums,
                    "{name}: {rows} rows, {d_out} x {d_in}, {granularity}, {activations:?}: {}",
                    first_difference(&y, &sums)
                );
            }
        }
    }
}

fn first_difference(found: &[f32], expected: &[f32]) -> String {
    let count = found.iter().zip(expected).filter(|(f, e)| f != e).count();
    let at = found
        .iter()
        .zip(expected)
        .position(|(f, e)| f != e)
        .expect("they differ");
    format!(
        "{count} of {} differ, first at {at}: {} instead of {}",
        found.len(),
        found[at],
        expected[at]
    )
}

#[test]
fn integer_sums_of_real_layers_agree_on_every_device() {
    let mut random = Random(2);
    for &(d_out, d_in) in LAYERS {
        let trits = random.trits(d_out * d_in);
        let packed = PackedTernary::from_trits(&trits, Scale::Tensor(1.0), d_out, d_in).unwrap();
        for rows in [1, 2, 9] {
            let x = random.integer_rows(rows, d_in, 127);
            let q = absmax(&x, d_in, 127).values;
            // The oracle on a sample of the weight rows; among the devices on all of them.
            let sample: Vec<usize> = (0..d_out).step_by(97).chain([d_out - 1]).collect();
            let mut first: Option<Vec<f32>> = None;
            for (name, device) in devices() {
                let weight = TernaryTensor::from_packed(packed.clone(), &device);
                let y = values(ternary_linear(
                    floats(&x, [rows, d_in], &device),
                    &weight,
                    INT8,
                ));
                for &n in &sample {
                    for (r, q) in q.chunks_exact(d_in).enumerate() {
                        let sum = reference::ternary_sums(q, &trits[n * d_in..][..d_in], d_in)[0];
                        assert_eq!(
                            y[r * d_out + n],
                            sum as f32,
                            "{name}: {d_out} x {d_in}, row {r}, output {n}"
                        );
                    }
                }
                let first = first.get_or_insert_with(|| y.clone());
                assert!(
                    &y == first,
                    "{name}: {d_out} x {d_in}: {}",
                    first_difference(&y, first)
                );
            }
        }
    }
}

#[test]
fn extreme_activations_stay_exact_at_the_widest_layer() {
    let (d_out, d_in) = (3, 14336);
    for trit in [-1i8, 1] {
        for sign in [-1.0f32, 1.0] {
            let x = vec![127.0 * sign; 2 * d_in];
            let expected = vec![127.0 * sign * f32::from(trit) * d_in as f32; 2 * d_out];
            for (name, device) in devices() {
                let weight = weight(
                    &vec![trit; d_out * d_in],
                    Scale::Tensor(1.0),
                    d_out,
                    d_in,
                    &device,
                );
                let y = values(ternary_linear(
                    floats(&x, [2, d_in], &device),
                    &weight,
                    INT8,
                ));
                assert_eq!(y, expected, "{name}: trit {trit}, sign {sign}");
            }
        }
    }
}

#[test]
fn activation_scales_are_equal_on_every_device_bit_for_bit() {
    // Powers, neighbours of powers, tiny and huge maxima: where an approximate division goes wrong.
    let mut random = Random(3);
    let mut maxima: Vec<f32> = vec![
        1e-5, 9e-6, 0.0, 1.0, 127.0, 126.99999, 0.99999994, 2.0, 3.0, 1e30, 3.4e38,
    ];
    maxima.extend((0..500).map(|_| random.float().abs() * 10f32.powf(random.float() * 8.0)));
    let rows = maxima.len();
    let d_in = 32;
    let mut x = Vec::new();
    for &max in &maxima {
        x.extend((0..d_in - 1).map(|_| random.float() * max));
        x.push(max);
    }
    // One weight of +1 selects one quantized activation: y = q / s.
    let mut trits = vec![0i8; d_in * d_in];
    (0..d_in).for_each(|i| trits[i * d_in + i] = 1);
    for (activations, limit) in INTEGERS {
        let quantized = absmax(&x, d_in, limit);
        let expected: Vec<f32> = quantized
            .values
            .chunks_exact(d_in)
            .zip(&quantized.scale)
            .flat_map(|(q, s)| q.iter().map(move |&q| f32::from(q) / s))
            .collect();
        for (name, device) in devices() {
            for chunk in [rows, 4] {
                let weight = weight(&trits, Scale::Tensor(1.0), d_in, d_in, &device);
                for start in (0..rows).step_by(chunk) {
                    let end = (start + chunk).min(rows);
                    let part = &x[start * d_in..end * d_in];
                    let y = values(ternary_linear(
                        floats(part, [end - start, d_in], &device),
                        &weight,
                        activations,
                    ));
                    for (i, (y, e)) in y.iter().zip(&expected[start * d_in..]).enumerate() {
                        // q is at most 127: a wrong q would be off by 1/127 or more, the division by 1e-6.
                        assert!(
                            (y - e).abs() <= e.abs() * 1e-6,
                            "{name}, {activations:?}: row {}: {y} instead of {e}",
                            start + i / d_in
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn outputs_with_scales_agree_with_the_oracle_in_every_activation_mode() {
    let mut random = Random(4);
    for &(rows, d_out, d_in) in SHAPES {
        let trits = random.trits(d_out * d_in);
        let x = random.floats(rows * d_in);
        for granularity in granularities(d_in) {
            let scale = scales(&mut random, granularity, d_out, d_in);
            let integers = INTEGERS.map(|(activations, limit)| {
                let (q, s) = reference::quantize(&x, d_in, limit);
                let y = reference::ternary_linear(&q, &s, &trits, &scale, d_in);
                (activations, y)
            });
            let float = reference::ternary_linear_float(&x, &trits, &scale, d_in);
            for (name, device) in devices() {
                let what = format!("{name}: {rows} rows, {d_out} x {d_in}, {granularity}");
                let weight = weight(&trits, scale.clone(), d_out, d_in, &device);
                let x = floats(&x, [rows, d_in], &device);
                for (activations, expected) in &integers {
                    close(
                        &format!("{what}, {activations:?}"),
                        &values(ternary_linear(x.clone(), &weight, *activations)),
                        expected,
                    );
                }
                close(
                    &format!("{what}, A16"),
                    &values(ternary_linear(x, &weight, FLOAT)),
                    &float,
                );
            }
        }
    }
}

#[test]
fn batches_of_any_rank_and_strided_inputs_are_rows() {
    let mut random = Random(5);
    let (d_out, d_in) = (20, 70);
    let trits = random.trits(d_out * d_in);
    let x = random.floats(2 * 3 * 5 * d_in);
    for (name, device) in devices() {
        let weight = weight(&trits, Scale::Tensor(0.7), d_out, d_in, &device);
        let flat = ternary_linear(floats(&x, [30, d_in], &device), &weight, INT8);
        let deep = ternary_linear(floats(&x, [2, 3, 5, d_in], &device), &weight, INT8);
        assert_eq!(deep.dims(), [2, 3, 5, d_out]);
        assert_eq!(values(deep), values(flat.clone()), "{name}");
        // A slice that starts in the middle of a buffer, and a transposed view.
        let part = floats(&x, [30, d_in], &device).slice([7..12, 0..d_in]);
        assert_eq!(
            values(ternary_linear(part, &weight, INT8)),
            values(flat.clone().slice([7..12, 0..d_out])),
            "{name}"
        );
        let turned = floats(&x, [30, d_in], &device)
            .transpose()
            .reshape([d_in, 30])
            .transpose();
        assert_eq!(
            values(ternary_linear(turned, &weight, INT8)),
            values(flat),
            "{name}"
        );
        let row = ternary_linear(floats(&x[..d_in], [d_in], &device), &weight, INT8);
        assert_eq!(row.dims(), [d_out], "{name}");
    }
}

#[test]
fn half_precision_inputs_are_widened_and_outputs_narrowed() {
    let mut random = Random(6);
    let (rows, d_out, d_in) = (11, 33, 64);
    let trits = random.trits(d_out * d_in);
    let x = random.floats(rows * d_in);
    for (name, device) in devices() {
        for dtype in [DType::F16, DType::BF16] {
            if !device.supports_dtype(dtype) {
                eprintln!("skipped: {name} has no {dtype:?}");
                continue;
            }
            let weight = weight(&trits, Scale::Tensor(0.7), d_out, d_in, &device);
            let half = floats(&x, [rows, d_in], &device).cast(FloatDType::from(dtype));
            let (q, s) = reference::quantize(&values(half.clone()), d_in, 127);
            let expected = reference::ternary_linear(&q, &s, &trits, &Scale::Tensor(0.7), d_in);
            let y = ternary_linear(half, &weight, INT8);
            assert_eq!(y.dtype(), dtype);
            let magnitude = expected.iter().fold(0f32, |m, e| m.max(e.abs()));
            for (y, e) in values(y).iter().zip(&expected) {
                assert!(
                    (y - e).abs() <= magnitude * 0.005,
                    "{name}: {y} instead of {e}"
                );
            }
        }
    }
}

#[test]
fn a_damaged_row_is_nan_and_its_neighbours_are_not() {
    let (rows, d_out, d_in) = (3, 5, 40);
    for (name, device) in devices() {
        for damage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = Random(7).floats(rows * d_in);
            x[d_in + 3] = damage;
            let weight = weight(
                &Random(8).trits(d_out * d_in),
                Scale::Tensor(1.0),
                d_out,
                d_in,
                &device,
            );
            for (activations, _) in INTEGERS {
                let y = values(ternary_linear(
                    floats(&x, [rows, d_in], &device),
                    &weight,
                    activations,
                ));
                for (i, y) in y.iter().enumerate() {
                    assert_eq!(
                        y.is_nan(),
                        i / d_out == 1,
                        "{name}, {activations:?}: {damage} gave {y} at {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_of_many_rows_are_those_of_the_dequantized_weight() {
    let mut random = Random(10);
    let (rows, d_out, d_in) = (300, 70, 90);
    let trits = random.trits(d_out * d_in);
    let dy = random.floats(rows * d_out);
    for granularity in granularities(d_in) {
        let scale = scales(&mut random, granularity, d_out, d_in);
        let expected = reference::ternary_linear_dx(&dy, &trits, &scale, d_in);
        let size = (expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32).sqrt();
        for (name, device) in devices() {
            let device = device.autodiff();
            let weight = weight(&trits, scale.clone(), d_out, d_in, &device);
            let x = Tensor::<2>::zeros([rows, d_in], &device).require_grad();
            let loss = (ternary_linear(x.clone(), &weight, INT8)
                * floats(&dy, [rows, d_out], &device))
            .sum();
            let dx = values(x.grad(&loss.backward()).expect("x is tracked"));
            // Matrix units may round operands to eleven bits (TF32).
            let error = dx.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let error = error.fold(0.0, f32::max);
            assert!(error < 4e-3 * size, "{name}, {granularity}: {error}");
        }
    }
}

#[test]
fn latent_gradients_of_many_rows_are_sums_over_quantized_inputs() {
    let mut random = Random(11);
    let (rows, d_out, d_in) = (1024, 36, 44);
    let (x, dy) = (random.floats(rows * d_in), random.floats(rows * d_out));
    let latent = random.floats(d_out * d_in);
    for (activations, limit) in INTEGERS {
        let mut expected = vec![0.0f64; d_out * d_in];
        let q = absmax(&x, d_in, limit);
        for row in 0..rows {
            for n in 0..d_out {
                for k in 0..d_in {
                    let seen = f32::from(q.values[row * d_in + k]) / q.scale[row];
                    expected[n * d_in + k] += f64::from(dy[row * d_out + n]) * f64::from(seen);
                }
            }
        }
        let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
        for (name, device) in devices() {
            let device = device.autodiff();
            let latent = floats(&latent, [d_out, d_in], &device).require_grad();
            let packed = ternarize(
                latent.clone(),
                WeightQuantizer::AbsMean,
                Granularity::Tensor,
            );
            let x = floats(&x, [rows, d_in], &device);
            let y = ternary_linear_latent(x, latent.clone(), &packed, activations, None);
            let loss = (y * floats(&dy, [rows, d_out], &device)).sum();
            let dw = values(
                latent
                    .grad(&loss.backward())
                    .expect("the weight is tracked"),
            );
            // Matrix units may round operands to eleven bits (TF32).
            let error = dw
                .iter()
                .zip(&expected)
                .map(|(a, b)| (f64::from(*a) - b).abs());
            let error = error.fold(0.0, f64::max);
            assert!(
                error < 4e-3 * size,
                "{name}, {activations:?}: {error} of {size}"
            );
        }
    }
}

#[test]
fn gradients_equal_those_of_burn_on_the_dequantized_weight() {
    let mut random = Random(9);
    for &(rows, d_out, d_in) in &SHAPES[..13] {
        let trits = random.trits(d_out * d_in);
        let (x, dy) = (random.floats(rows * d_in), random.floats(rows * d_out));
        for granularity in granularities(d_in) {
            let scale = scales(&mut random, granularity, d_out, d_in);
            let expected = reference::ternary_linear_dx(&dy, &trits, &scale, d_in);
            for (name, device) in devices() {
                let what = format!("{name}: {rows} rows, {d_out} x {d_in}, {granularity}");
                let device = device.autodiff();
                let weight = weight(&trits, scale.clone(), d_out, d_in, &device);
                let x = floats(&x, [rows, d_in], &device).require_grad();
                let loss = (ternary_linear(x.clone(), &weight, INT8)
                    * floats(&dy, [rows, d_out], &device))
                .sum();
                let dx = x.grad(&loss.backward()).expect("x is tracked");
                close(&what, &values(dx), &expected);
                let dense = values(weight.dequantize());
                assert_eq!(
                    dense,
                    PackedTernary::from_trits(&trits, scale.clone(), d_out, d_in)
                        .unwrap()
                        .dequantize()
                );
            }
        }
    }
}

#[test]
fn latent_weights_get_the_straight_through_gradient() {
    let mut random = Random(10);
    let (rows, d_out, d_in) = (6, 9, 70);
    let (x, w, dy) = (
        random.floats(rows * d_in),
        random.floats(d_out * d_in),
        random.floats(rows * d_out),
    );
    for (name, device) in devices() {
        let device = device.autodiff();
        for activations in [INT8, INT4, FLOAT] {
            let x = floats(&x, [2, rows / 2, d_in], &device).require_grad();
            let w = floats(&w, [d_out, d_in], &device).require_grad();
            let packed = ternarize(w.clone(), WeightQuantizer::AbsMean, Granularity::Tensor);
            let y = ternary_linear_latent(x.clone(), w.clone(), &packed, activations, None);
            let loss = (y * floats(&dy, [2, rows / 2, d_out], &device)).sum();
            let grads = loss.backward();
            // The same with Burn's own operations: x + (x̃ - x).detach(), W + (W̃ - W).detach().
            let seen = fake_quantize(x.clone(), activations);
            let plain_x = x.clone() + (seen - x.clone()).detach();
            let plain_w = w.clone() + (packed.dequantize() - w.clone()).detach();
            let plain = plain_x.matmul(plain_w.transpose().unsqueeze());
            let plain = (plain * floats(&dy, [2, rows / 2, d_out], &device))
                .sum()
                .backward();
            close_to_burn(
                name,
                &format!("{name}, {activations:?}: dx"),
                &values(x.grad(&grads).unwrap()),
                &values(x.grad(&plain).unwrap()),
            );
            close_to_burn(
                name,
                &format!("{name}, {activations:?}: dW"),
                &values(w.grad(&grads).unwrap()),
                &values(w.grad(&plain).unwrap()),
            );
        }
    }
}

#[test]
fn weights_are_quantized_alike_on_every_device() {
    let mut random = Random(11);
    for (d_out, d_in) in [(1, 1), (5, 7), (16, 64), (33, 100), (20, 300), (300, 1000)] {
        let latent = random.floats(d_out * d_in);
        for quantizer in [WeightQuantizer::AbsMean, WeightQuantizer::Sign] {
            for granularity in granularities(d_in) {
                let expected =
                    quantize::ternarize(&latent, d_out, d_in, quantizer, granularity).unwrap();
                for (name, device) in devices() {
                    let found = ternarize(
                        floats(&latent, [d_out, d_in], &device),
                        quantizer,
                        granularity,
                    );
                    let found = found.to_packed().unwrap();
                    assert_eq!(
                        found.trits(),
                        expected.trits(),
                        "{name}: {d_out} x {d_in}, {quantizer:?}, {granularity}"
                    );
                    close("scales", found.scale().values(), expected.scale().values());
                }
            }
        }
    }
}

#[test]
fn a_weight_with_nan_gives_nan_and_is_named_when_it_is_copied_back() {
    for (name, device) in devices() {
        for damage in [f32::NAN, f32::INFINITY] {
            let mut latent = Random(12).floats(6 * 40);
            latent[17] = damage;
            let weight = ternarize(
                floats(&latent, [6, 40], &device),
                WeightQuantizer::AbsMean,
                Granularity::Tensor,
            );
            let y = values(ternary_linear(
                floats(&Random(13).floats(40), [1, 40], &device),
                &weight,
                INT8,
            ));
            assert!(y.iter().all(|y| y.is_nan()), "{name}: {damage} gave {y:?}");
            assert!(weight.to_packed().is_err(), "{name}: {damage}");
        }
    }
}

/// The bodies that a backend without kernels inherits, run on each device's own Burn primitives.
#[test]
fn default_bodies_agree_with_the_kernels() {
    use bitnet_kernels::TernarySpec;
    use burn::backend::Dispatch;
    let mut random = Random(14);
    for &(rows, d_out, d_in) in &SHAPES[..12] {
        let trits = random.trits(d_out * d_in);
        let [int8, int4] = INTEGERS.map(|(_, limit)| random.integer_rows(rows, d_in, limit));
        let dy = random.floats(rows * d_out);
        for (name, device) in devices() {
            for granularity in granularities(d_in) {
                let what = format!("{name}: {rows} rows, {d_out} x {d_in}, {granularity}");
                let ones =
                    Scale::from_values(granularity, vec![1.0; granularity.count(d_out, d_in)]);
                let weight = weight(&trits, ones, d_out, d_in, &device);
                let (codes, scale) = weight.clone().into_parts();
                let (codes, scale) = (codes.into_dispatch(), scale.into_dispatch());
                for (activations, x) in [(INT8, &int8), (INT4, &int4), (FLOAT, &int8)] {
                    let spec = TernarySpec {
                        d_in,
                        granularity,
                        activations,
                    };
                    let x = floats(x, [rows, d_in], &device);
                    let kernel = values(ternary_linear(x.clone(), &weight, activations));
                    let x = x.into_dispatch();
                    let body =
                        defaults::ternary_linear::<Dispatch>(x, codes.clone(), scale.clone(), spec);
                    let body = values(Tensor::<2>::from_dispatch(body));
                    // Integers in f32: exact in any order, on each side.
                    assert!(
                        body == kernel,
                        "{what}, {activations:?}: {}",
                        first_difference(&body, &kernel)
                    );
                }
                let spec = TernarySpec {
                    d_in,
                    granularity,
                    activations: INT8,
                };
                let dy_tensor = floats(&dy, [rows, d_out], &device).into_dispatch();
                let dx = defaults::ternary_linear_dx::<Dispatch>(dy_tensor, codes, scale, spec);
                let ones = Scale::Tensor(1.0);
                close_to_burn(
                    name,
                    &what,
                    &values(Tensor::<2>::from_dispatch(dx)),
                    &reference::ternary_linear_dx(&dy, &trits, &ones, d_in),
                );
            }
            let latent = random.floats(d_out * d_in);
            for quantizer in [WeightQuantizer::AbsMean, WeightQuantizer::Sign] {
                for granularity in granularities(d_in) {
                    let tensor = floats(&latent, [d_out, d_in], &device);
                    let kernel = ternarize(tensor.clone(), quantizer, granularity);
                    let (codes, scale) = defaults::ternarize::<Dispatch>(
                        tensor.into_dispatch(),
                        quantizer,
                        granularity,
                    );
                    let body = TernaryTensor::from_parts(
                        Tensor::from_dispatch(codes),
                        Tensor::from_dispatch(scale),
                        d_in,
                        granularity,
                    );
                    let body = body.unwrap().to_packed().unwrap();
                    assert_eq!(
                        body.trits(),
                        kernel.to_packed().unwrap().trits(),
                        "{name}: {quantizer:?}, {granularity}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_self_test_finds_nothing_wrong_on_any_device() {
    let devices: Vec<Device> = devices().into_iter().map(|(_, device)| device).collect();
    for verdict in bitnet_kernels::self_test(&devices) {
        assert_eq!(verdict.failure, None, "{}", verdict.kernel);
    }
}
