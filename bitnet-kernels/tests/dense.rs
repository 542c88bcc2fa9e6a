//! Dense products and their gradients: every device and number format against sums in f64.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;

use bitnet_kernels::{causal_mix, causal_scores, linear};
use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use devices::devices;
use random::Random;

/// `count` matrices, row by row.
#[derive(Clone)]
struct Matrices {
    values: Vec<f64>,
    count: usize,
    rows: usize,
    columns: usize,
}

impl Matrices {
    /// Random numbers that bf16 and f16 hold exactly, so that only sums round.
    fn random(random: &mut Random, count: usize, rows: usize, columns: usize) -> Self {
        let values = random.floats(count * rows * columns);
        let values = values.iter().map(|&x| (f64::from(x) * 16.0).round() / 16.0);
        Self {
            values: values.collect(),
            count,
            rows,
            columns,
        }
    }

    fn transposed(&self) -> Self {
        let mut values = Vec::new();
        for matrix in self.values.chunks_exact(self.rows * self.columns) {
            for column in 0..self.columns {
                values.extend((0..self.rows).map(|row| matrix[row * self.columns + column]));
            }
        }
        Self {
            values,
            count: self.count,
            rows: self.columns,
            columns: self.rows,
        }
    }

    fn times(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows);
        let mut values = Vec::new();
        let matrices = self.values.chunks_exact(self.rows * self.columns);
        for (a, b) in matrices.zip(other.values.chunks_exact(other.rows * other.columns)) {
            for row in a.chunks_exact(self.columns) {
                for column in 0..other.columns {
                    let terms = row.iter().zip(b[column..].iter().step_by(other.columns));
                    values.push(terms.map(|(a, b)| a * b).sum());
                }
            }
        }
        Self {
            values,
            count: self.count,
            rows: self.rows,
            columns: other.columns,
        }
    }

    /// With zeros where the key is in the future of the query.
    fn lower(mut self) -> Self {
        for (at, value) in self.values.iter_mut().enumerate() {
            if at % self.columns > at / self.columns % self.rows % self.columns {
                *value = 0.0;
            }
        }
        self
    }

    /// `[sequences, heads, rows, columns]`.
    fn tensor(&self, device: &Device, dtype: DType) -> Tensor<4> {
        let values: Vec<f32> = self.values.iter().map(|&x| x as f32).collect();
        let sequences = self.count.min(2);
        let shape = [sequences, self.count / sequences, self.rows, self.columns];
        Tensor::<4>::from_data(TensorData::new(values, shape), device).cast(dtype)
    }

    /// The same tensor as a view of one that lies as `[sequences, rows, heads, columns]`.
    fn view(&self, device: &Device, dtype: DType) -> Tensor<4> {
        let lies = self.tensor(device, dtype).swap_dims(1, 2).into_data();
        Tensor::<4>::from_data(lies, (device, dtype)).swap_dims(1, 2)
    }

    fn assert_is(&self, found: Tensor<4>, dtype: DType, what: &str) {
        assert_eq!(found.dtype(), dtype, "{what}");
        let found: Vec<f32> = found
            .cast(DType::F32)
            .into_data()
            .try_into_vec()
            .expect("f32");
        assert_eq!(found.len(), self.values.len(), "{what}");
        // Sums are of exact products in f32, rounded once; backends without the kernel may round factors to TF32.
        let tolerance = match dtype {
            DType::BF16 => 1.0 / 256.0,
            _ => 2e-3,
        };
        for (at, (&found, &expected)) in found.iter().zip(&self.values).enumerate() {
            let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
            assert!(
                error <= tolerance,
                "{what}: {found} at {at}, expected {expected}"
            );
        }
    }
}

/// Devices with each number format that they multiply.
fn cases() -> Vec<(String, Device, DType)> {
    let mut cases = Vec::new();
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            if name != "ndarray" && device.supports_dtype(dtype) || dtype == DType::F32 {
                cases.push((
                    format!("{name}, {dtype:?}"),
                    device.clone().autodiff(),
                    dtype,
                ));
            }
        }
    }
    cases
}

/// With zeros where the key is in the future of the query.
fn past(x: Tensor<4>) -> Tensor<4> {
    let [a, b, rows, columns] = x.dims();
    let future = |at: usize| at % columns > at / columns % columns;
    let mask: Vec<bool> = (0..rows * columns).map(future).collect();
    let mask = TensorData::new(mask, [1, 1, rows, columns]);
    let mask = Tensor::<4, Bool>::from_data(mask, &x.device()).expand([a, b, rows, columns]);
    x.mask_fill(mask, 0.0)
}

/// (m, n, k): within a tile, beyond it in each direction, whole tiles, and rows that no 16-byte copy takes.
const SHAPES: [(usize, usize, usize); 7] = [
    (1, 2, 1),
    (3, 10, 7),
    (16, 8, 16),
    (70, 136, 72),
    (128, 128, 128),
    (200, 24, 264),
    (130, 256, 40),
];

#[test]
fn products_of_layers_and_their_gradients_are_the_sums() {
    let mut random = Random(21);
    for (m, n, k) in SHAPES {
        let a = Matrices::random(&mut random, 1, m, k);
        let b = Matrices::random(&mut random, 1, n, k);
        let dy = Matrices::random(&mut random, 1, m, n);
        let expected = a.times(&b.transposed());
        let (da, db) = (dy.times(&b), dy.transposed().times(&a));
        for (name, device, dtype) in cases() {
            let what = |of: &str| format!("{of} of {m} x {n} x {k}, {name}");
            let x = a.tensor(&device, dtype).require_grad();
            let w = b.tensor(&device, dtype).reshape([n, k]).detach();
            let w = w.require_grad();
            let y = linear(x.clone(), w.clone());
            let weighted = y.clone() * dy.tensor(&device, dtype);
            let gradients = weighted.cast(DType::F32).sum().backward();
            expected.assert_is(y.detach(), dtype, &what("product"));
            da.assert_is(x.grad(&gradients).expect("a"), dtype, &what("da"));
            let dw = w.grad(&gradients).expect("b").reshape([1, 1, n, k]);
            db.assert_is(dw, dtype, &what("db"));
        }
    }
}

#[test]
fn attention_products_and_their_gradients_are_the_sums_of_the_past() {
    let mut random = Random(22);
    // Sequences, query heads that share a key head, columns of a head.
    for (seq, group, d) in [
        (1, 1, 8),
        (5, 3, 16),
        (64, 1, 64),
        (128, 2, 32),
        (256, 1, 64),
    ] {
        let q = Matrices::random(&mut random, 4, group * seq, d);
        let k = Matrices::random(&mut random, 4, seq, d);
        let weights = Matrices::random(&mut random, 4, group * seq, seq).lower();
        let dy = Matrices::random(&mut random, 4, group * seq, d);
        let scores = q.times(&k.transposed()).lower();
        let (dq, dk) = (weights.times(&k), weights.transposed().times(&q));
        let mixed = weights.times(&k);
        let dweights = dy.times(&k.transposed()).lower();
        let dv = weights.transposed().times(&dy);
        for (name, device, dtype) in cases() {
            let what = |of: &str| format!("{of} of {seq} x {d}, {group} heads, {name}");
            let [x, w] = [&q, &k].map(|it| it.view(&device, dtype).require_grad());
            let y = causal_scores(x.clone(), w.clone());
            let weighted = past(y.clone()) * weights.tensor(&device, dtype);
            let gradients = weighted.cast(DType::F32).sum().backward();
            scores.assert_is(past(y.detach()), dtype, &what("scores"));
            dq.assert_is(x.grad(&gradients).expect("q"), dtype, &what("dq"));
            dk.assert_is(w.grad(&gradients).expect("k"), dtype, &what("dk"));

            let p = weights.tensor(&device, dtype).require_grad();
            let v = k.view(&device, dtype).require_grad();
            let y = causal_mix(p.clone(), v.clone());
            let weighted = y.clone() * dy.tensor(&device, dtype);
            let gradients = weighted.cast(DType::F32).sum().backward();
            mixed.assert_is(y.detach(), dtype, &what("mixture"));
            let dp = past(p.grad(&gradients).expect("weights"));
            dweights.assert_is(dp, dtype, &what("dweights"));
            dv.assert_is(v.grad(&gradients).expect("v"), dtype, &what("dv"));
        }
    }
}
