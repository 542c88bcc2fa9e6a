//! What training does to rows, with its gradients: every device against formulas in f64.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;

use bitnet_kernels::{
    Activation, causal_softmax, cross_entropy, embedding, gated, rms_norm, rotate,
};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use devices::devices;
use random::Random;

/// Largest difference, relative to numbers above 1.
fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
        assert!(
            error < tolerance,
            "{what}: {found} at {at}, expected {expected}"
        );
    }
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn indices(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

/// `y` and the gradient of `x` of `Σ y·weights`.
fn with_gradient<const D: usize, const E: usize>(
    x: Tensor<D>,
    weights: Tensor<E>,
    of: impl Fn(Tensor<D>) -> Tensor<E>,
) -> (Vec<f32>, Vec<f32>) {
    let x = x.require_grad();
    let y = of(x.clone());
    let gradients = (y.clone() * weights).sum().backward();
    let gradient = x.grad(&gradients).expect("a gradient");
    (values(y.detach()), values(gradient))
}

#[test]
fn attention_weights_and_their_gradient_are_the_formulas() {
    let mut random = Random(11);
    for (heads, seq, group) in [(2, 1, 1), (2, 7, 3), (2, 70, 1), (1, 1100, 1)] {
        let shape = [heads, heads, group * seq, seq];
        let count = shape.iter().product();
        let (scores, weights) = (random.floats(count), random.floats(count));
        let scale = 1.7;
        let (mut expected, mut expected_dx) = (vec![0.0; count], vec![0.0; count]);
        for row in 0..count / seq {
            let seen = row % seq + 1;
            let of = |values: &[f32]| -> Vec<f64> {
                let values = &values[row * seq..][..seen];
                values.iter().map(|&value| f64::from(value)).collect()
            };
            let (scores, dw) = (of(&scores), of(&weights));
            let powers: Vec<f64> = scores.iter().map(|score| (score * scale).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let w: Vec<f64> = powers.iter().map(|power| power / sum).collect();
            let along: f64 = w.iter().zip(&dw).map(|(w, dw)| w * dw).sum();
            for at in 0..seen {
                expected[row * seq + at] = w[at];
                expected_dx[row * seq + at] = scale * w[at] * (dw[at] - along);
            }
        }
        for (name, device) in devices() {
            let device = device.autodiff();
            let (x, dy) = (
                tensor(&scores, shape, &device),
                tensor(&weights, shape, &device),
            );
            let (y, dx) = with_gradient(x, dy, |x| causal_softmax(x, scale));
            assert_close(&y, &expected, 1e-5, &format!("weights of {seq}, {name}"));
            assert_close(
                &dx,
                &expected_dx,
                1e-5,
                &format!("gradient of {seq}, {name}"),
            );
        }
    }
}

#[test]
fn scores_of_any_size_have_finite_weights() {
    for (name, device) in devices() {
        let scores = tensor(&[0.0, 9e9, -3e38, 3e38], [1, 1, 2, 2], &device);
        let weights = values(causal_softmax(scores, 1.0));
        assert_eq!(weights, [1.0, 0.0, 0.0, 1.0], "{name}");
    }
}

#[test]
fn losses_and_their_gradient_are_the_formulas() {
    let mut random = Random(12);
    for (n, vocab) in [(1, 1), (5, 3), (3, 1000), (2, 33)] {
        let logits: Vec<f32> = random.floats(n * vocab).iter().map(|x| 9.0 * x).collect();
        let weights = random.floats(n);
        let targets: Vec<i32> = (0..n).map(|row| (row * 7 % vocab) as i32).collect();
        let (mut expected, mut expected_dx) = (Vec::new(), Vec::new());
        for row in 0..n {
            let logits = logits[row * vocab..][..vocab].iter().map(|&x| f64::from(x));
            let sum: f64 = logits.clone().map(f64::exp).sum();
            let target = targets[row] as usize;
            expected.push(sum.ln() - logits.clone().nth(target).expect("a column"));
            for (column, logit) in logits.enumerate() {
                let picked = f64::from(u8::from(column == target));
                expected_dx.push(f64::from(weights[row]) * (logit.exp() / sum - picked));
            }
        }
        for (name, device) in devices() {
            let device = device.autodiff();
            let x = tensor(&logits, [n, vocab], &device);
            let targets = indices(&targets, &device);
            let dy = tensor(&weights, [n], &device);
            let (y, dx) = with_gradient(x, dy, |x| cross_entropy(x, targets.clone()));
            assert_close(&y, &expected, 1e-5, &format!("losses of {vocab}, {name}"));
            assert_close(
                &dx,
                &expected_dx,
                1e-5,
                &format!("gradient of {vocab}, {name}"),
            );
        }
    }
}

#[test]
fn a_damaged_logit_makes_a_loss_of_nan() {
    for (name, device) in devices() {
        let logits = tensor(&[1.0, f32::NAN, 2.0, 1.0, 0.0, 2.0], [2, 3], &device);
        let losses = values(cross_entropy(logits, indices(&[0, 0], &device)));
        assert!(losses[0].is_nan() && losses[1].is_finite(), "{name}");
    }
}

#[test]
fn the_gradient_of_an_embedding_sums_over_all_places_of_an_id() {
    let mut random = Random(13);
    for (rows, n, d) in [(5, 1, 3), (4, 300, 5), (900, 70, 300)] {
        let (table, weights) = (random.floats(rows * d), random.floats(n * d));
        let ids: Vec<i32> = (0..n).map(|at| (at * at % 7 * 3 % rows) as i32).collect();
        let (mut expected, mut expected_dx) = (Vec::new(), vec![0.0; rows * d]);
        for (at, &id) in ids.iter().enumerate() {
            for column in 0..d {
                expected.push(f64::from(table[id as usize * d + column]));
                expected_dx[id as usize * d + column] += f64::from(weights[at * d + column]);
            }
        }
        for (name, device) in devices() {
            let device = device.autodiff();
            let ids = indices(&ids, &device);
            let (x, dy) = (
                tensor(&table, [rows, d], &device),
                tensor(&weights, [n, d], &device),
            );
            let (y, dx) = with_gradient(x, dy, |x| embedding(x, ids.clone()));
            assert_close(&y, &expected, 1e-9, &format!("{rows} rows, {name}"));
            assert_close(
                &dx,
                &expected_dx,
                1e-5,
                &format!("gradient of {rows} rows, {name}"),
            );
        }
    }
}

#[test]
fn gradients_of_a_norm_are_the_formulas() {
    const EPSILON: f64 = 1e-3;
    let mut random = Random(14);
    for (rows, d) in [(1, 1), (3, 33), (130, 320), (40, 2052)] {
        let (x, gamma, dy) = (
            random.floats(rows * d),
            random.floats(d),
            random.floats(rows * d),
        );
        let (mut expected, mut expected_gamma) = (Vec::new(), vec![0.0; d]);
        for row in 0..rows {
            let of = |values: &[f32]| -> Vec<f64> {
                values.iter().map(|&value| f64::from(value)).collect()
            };
            let (x, dy, gamma) = (of(&x[row * d..][..d]), of(&dy[row * d..][..d]), of(&gamma));
            let squares: f64 = x.iter().map(|x| x * x).sum();
            let inverse = 1.0 / (squares / d as f64 + EPSILON).sqrt();
            let along: f64 = (0..d).map(|i| dy[i] * gamma[i] * x[i] * inverse).sum();
            for i in 0..d {
                let normed = x[i] * inverse;
                expected.push(inverse * (dy[i] * gamma[i] - normed * along / d as f64));
                expected_gamma[i] += dy[i] * normed;
            }
        }
        for (name, device) in devices() {
            let device = device.autodiff();
            let x = tensor(&x, [rows, d], &device).require_grad();
            let gamma = tensor(&gamma, [d], &device).require_grad();
            let y = rms_norm(x.clone(), gamma.clone(), EPSILON);
            let gradients = (y * tensor(&dy, [rows, d], &device)).sum().backward();
            let (dx, dgamma) = (x.grad(&gradients), gamma.grad(&gradients));
            let what = format!("{rows} rows of {d}, {name}");
            assert_close(&values(dx.expect("a gradient")), &expected, 1e-5, &what);
            let dgamma = values(dgamma.expect("a gradient"));
            assert_close(&dgamma, &expected_gamma, 1e-5, &what);
        }
    }
}

/// Every device for training, without and with gradient checkpointing.
fn training_devices() -> impl Iterator<Item = (String, Device)> {
    devices().into_iter().flat_map(|(name, device)| {
        let device = device.autodiff();
        let sparing = device.clone().gradient_checkpointing();
        [
            (name.to_owned(), device),
            (format!("{name} with checkpointing"), sparing),
        ]
    })
}

fn in_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Of `Σ y²·w + Σ gate·u + Σ up·v`: gate, up and output each have two uses.
#[test]
fn gradients_of_a_gate_are_the_formulas_and_add_to_those_of_other_uses() {
    let mut random = Random(16);
    for (rows, d) in [(1, 1), (3, 33), (2, 2), (7, 320)] {
        let gate: Vec<f32> = random.floats(rows * d).iter().map(|x| 5.0 * x).collect();
        let [up, w, u, v] = [(); 4].map(|()| random.floats(rows * d));
        for activation in [Activation::Silu, Activation::Relu2] {
            let [mut expected, mut expected_up] = [in_f64(&u), in_f64(&v)];
            for (at, (x, up)) in in_f64(&gate).into_iter().zip(in_f64(&up)).enumerate() {
                let sigmoid = 1.0 / (1.0 + (-x).exp());
                let (opened, slope) = match activation {
                    Activation::Silu => (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))),
                    Activation::Relu2 => (x.max(0.0).powi(2), 2.0 * x.max(0.0)),
                };
                let dy = 2.0 * opened * up * f64::from(w[at]);
                expected[at] += dy * up * slope;
                expected_up[at] += dy * opened;
            }
            for (name, device) in training_devices() {
                let on = |values| tensor(values, [rows, d], &device);
                let (gate, up) = (on(&gate).require_grad(), on(&up).require_grad());
                let y = gated(gate.clone(), up.clone(), activation);
                let others = gate.clone() * on(&u) + up.clone() * on(&v);
                let gradients = (y.clone() * y * on(&w) + others).sum().backward();
                let what = format!("{activation:?} of {rows} x {d}, {name}");
                let dgate = gate.grad(&gradients).expect("a gradient");
                assert_close(&values(dgate), &expected, 1e-5, &what);
                let dup = up.grad(&gradients).expect("a gradient");
                assert_close(&values(dup), &expected_up, 1e-5, &what);
            }
        }
    }
}

#[test]
fn a_gate_without_a_gradient_passes_one_on_to_what_it_opens() {
    for (name, device) in training_devices() {
        let gate = tensor(&[-1.0, 2.0], [2], &device);
        let up = tensor(&[3.0, 5.0], [2], &device).require_grad();
        let y = gated(gate, up.clone(), Activation::Relu2);
        let dup = up.grad(&y.sum().backward()).expect("a gradient");
        assert_eq!(values(dup), [0.0, 4.0], "{name}");
    }
}

/// A rotation and how its tensors lie.
struct Turn {
    /// `[batch, heads, seq, d]`.
    shape: [usize; 4],
    /// `[batch, 1, seq, d / 2]`, or 1 in place of `batch` or of `seq`.
    angles: [usize; 4],
}

impl Turn {
    /// Index of each number's angle, that of its partner, and the sign of the partner's part.
    fn places(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        let [_, heads, seq, d] = self.shape;
        let [batches, _, positions, half] = self.angles;
        (0..self.shape.iter().product()).map(move |at| {
            let (row, column) = (at / d, at % d);
            let angle = row / (heads * seq) % batches * positions + row % seq % positions;
            match column < half {
                true => (angle * half + column, at + half, -1.0),
                false => (angle * half + column - half, at - half, 1.0),
            }
        })
    }
}

/// `x [batch, heads, seq, d]`, in memory in the order of dimensions that each permutation gives.
fn laid_out(x: Tensor<4>) -> [Tensor<4>; 3] {
    [[0, 1, 2, 3], [0, 2, 1, 3], [3, 1, 0, 2]].map(|order| {
        let mut inverse = [0; 4];
        (0..4).for_each(|at| inverse[order[at]] = at);
        let signed = |dims: [usize; 4]| dims.map(|dim| dim as isize);
        let lying = x.clone().permute(signed(order)).into_data();
        Tensor::<4>::from_data(lying, &x.device()).permute(signed(inverse))
    })
}

/// Of `Σ y²·w + Σ x·u`: input and output each have two uses.
#[test]
fn gradients_of_a_rotation_are_the_formulas_wherever_heads_lie() {
    let mut random = Random(17);
    for (shape, angles) in [
        ([2, 3, 5, 8], [2, 1, 5, 4]),
        ([2, 3, 5, 8], [1, 1, 5, 4]),
        ([2, 1, 4, 64], [2, 1, 1, 32]),
        ([3, 2, 7, 6], [1, 1, 1, 3]),
        ([1, 5, 1, 2], [1, 1, 1, 1]),
        ([2, 4, 33, 20], [1, 1, 33, 10]),
    ] {
        let turn = Turn { shape, angles };
        let count = shape.iter().product();
        let [x, w, u] = [(); 3].map(|()| random.floats(count));
        let turns = random.floats(angles.iter().product());
        let (cos, sin): (Vec<f32>, Vec<f32>) = turns.iter().map(|a| (a.cos(), a.sin())).unzip();
        let (cosines, sines) = (in_f64(&cos), in_f64(&sin));
        let rotated = |x: &[f64], way: f64| -> Vec<f64> {
            let places = turn.places().zip(x);
            let turned = places.map(|((angle, partner, sign), own)| {
                own * cosines[angle] + way * sign * x[partner] * sines[angle]
            });
            turned.collect()
        };
        let expected = rotated(&in_f64(&x), 1.0);
        let dy: Vec<f64> = expected
            .iter()
            .zip(in_f64(&w))
            .map(|(y, w)| 2.0 * y * w)
            .collect();
        let expected_dx: Vec<f64> = rotated(&dy, -1.0)
            .into_iter()
            .zip(in_f64(&u))
            .map(|(turned, other)| turned + other)
            .collect();
        for (name, device) in training_devices() {
            let on = |values| tensor(values, shape, &device);
            let [cos, sin] = [&cos, &sin].map(|values| tensor(values, angles, &device));
            for (order, x) in laid_out(on(&x)).into_iter().enumerate() {
                let what = format!("order {order} of {shape:?} by {angles:?}, {name}");
                let x = x.require_grad();
                let y = rotate(x.clone(), cos.clone(), sin.clone());
                let squares = y.clone() * y.clone() * on(&w);
                let gradients = (squares + x.clone() * on(&u)).sum().backward();
                assert_close(&values(y.detach()), &expected, 1e-5, &what);
                let dx = x.grad(&gradients).expect("a gradient");
                assert_close(&values(dx), &expected_dx, 1e-5, &what);
            }
        }
    }
}

#[test]
fn angles_that_are_tracked_get_a_gradient_too() {
    let mut random = Random(18);
    let (shape, angles) = ([2, 3, 5, 8], [1, 1, 5, 4]);
    let turn = Turn { shape, angles };
    let count = shape.iter().product();
    let [x, dy] = [(); 2].map(|()| random.floats(count));
    let [cos, sin] = [(); 2].map(|()| random.floats(20));
    let [mut expected_cos, mut expected_sin] = [vec![0.0; 20], vec![0.0; 20]];
    for (at, (angle, partner, sign)) in turn.places().enumerate() {
        expected_cos[angle] += f64::from(dy[at]) * f64::from(x[at]);
        expected_sin[angle] += f64::from(dy[at]) * sign * f64::from(x[partner]);
    }
    for (name, device) in training_devices() {
        let [cos, sin] = [&cos, &sin].map(|values| tensor(values, angles, &device).require_grad());
        // Not a leaf itself.
        let opposite = sin.clone().neg();
        let y = rotate(tensor(&x, shape, &device), cos.clone(), opposite.neg());
        let gradients = (y * tensor(&dy, shape, &device)).sum().backward();
        let [dcos, dsin] = [cos, sin].map(|angle| angle.grad(&gradients).expect("a gradient"));
        assert_close(&values(dcos), &expected_cos, 1e-5, &name);
        assert_close(&values(dsin), &expected_sin, 1e-5, &name);
    }
}

#[test]
fn rows_in_half_precision_are_computed_in_f32_and_rounded_once() {
    let mut random = Random(15);
    let (n, vocab) = (3, 200);
    let logits = random.floats(n * vocab);
    for (name, device) in devices() {
        if !device.supports_dtype(DType::F16) {
            continue;
        }
        let device = device.autodiff();
        let narrow = tensor(&logits, [n, vocab], &device)
            .cast(DType::F16)
            .detach();
        let wide = narrow.clone().cast(DType::F32).detach();
        let targets = indices(&[0, 7, 199], &device);
        let gradient = |x: Tensor<2>| {
            let x = x.require_grad();
            let gradients = cross_entropy(x.clone(), targets.clone()).sum().backward();
            x.grad(&gradients).expect("a gradient")
        };
        let (found, expected) = (gradient(narrow), gradient(wide));
        assert_eq!(found.dtype(), DType::F16, "{name}");
        let expected: Vec<f64> = values(expected).iter().map(|&x| f64::from(x)).collect();
        assert_close(&values(found.cast(DType::F32)), &expected, 6e-4, name);
    }
}
