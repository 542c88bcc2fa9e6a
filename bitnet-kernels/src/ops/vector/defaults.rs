//! The operations in Burn primitives: right on any backend, fused and differentiated where Burn can.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Scalar, Shape, Slice};

use super::Activation;

/// See [`VectorOps::rms_norm`](super::VectorOps::rms_norm).
pub fn rms_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f32,
) -> FloatTensor<B> {
    let shape = x.shape();
    let last = shape.num_dims() - 1;
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), last);
    let root = B::float_sqrt(B::float_add_scalar(mean, Scalar::from(epsilon)));
    let inverse = B::float_expand(B::float_recip(root), shape.clone());
    let mut row = vec![1; shape.num_dims()];
    row[last] = shape[last];
    let gamma = B::float_expand(B::float_reshape(gamma, Shape::from(row)), shape);
    B::float_mul(B::float_mul(x, inverse), gamma)
}

/// See [`VectorOps::rms_norm_dx`](super::VectorOps::rms_norm_dx). With `x̂ = x/√(mean(x²) + ε)` and `g = dy·γ`:
/// `dx = (g − x̂·mean(g·x̂)) / √(mean(x²) + ε)`, `dγ = Σ dy·x̂` over all rows.
pub fn rms_norm_dx<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    dy: FloatTensor<B>,
    epsilon: f32,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (shape, d) = (x.shape(), gamma.shape()[0]);
    let rows = Shape::new([shape.num_elements() / d, d]);
    let [x, dy] = [x, dy].map(|tensor| B::float_reshape(tensor, rows.clone()));
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let root = B::float_sqrt(B::float_add_scalar(mean, Scalar::from(epsilon)));
    let inverse = B::float_expand(B::float_recip(root), rows.clone());
    let normed = B::float_mul(x, inverse.clone());
    let dgamma = B::float_sum_dim(B::float_mul(dy.clone(), normed.clone()), 0);
    let gamma = B::float_expand(B::float_reshape(gamma, Shape::new([1, d])), rows.clone());
    let g = B::float_mul(dy, gamma);
    let along = B::float_mean_dim(B::float_mul(g.clone(), normed.clone()), 1);
    let along = B::float_mul(normed, B::float_expand(along, rows));
    let dx = B::float_mul(B::float_sub(g, along), inverse);
    (
        B::float_reshape(dx, shape),
        B::float_reshape(dgamma, Shape::new([d])),
    )
}

/// See [`VectorOps::gated`](super::VectorOps::gated).
pub fn gated<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    let gate = match activation {
        Activation::Silu => B::float_mul(gate.clone(), B::sigmoid(gate)),
        Activation::Relu2 => {
            let positive = B::relu(gate);
            B::float_mul(positive.clone(), positive)
        }
    };
    B::float_mul(gate, up)
}

/// See [`VectorOps::gated_dx`](super::VectorOps::gated_dx). With `s = sigmoid(x)`, SiLU has the slope
/// `s·(1 + x·(1 − s))`, and `max(x, 0)²` has `2·max(x, 0)`.
pub fn gated_dx<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    dy: FloatTensor<B>,
    activation: Activation,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (opened, slope) = match activation {
        Activation::Silu => {
            let sigmoid = B::sigmoid(gate.clone());
            let opened = B::float_mul(gate.clone(), sigmoid.clone());
            let rest = B::float_sub(gate, opened.clone()); // x·(1 − s)
            let slope = B::float_mul(sigmoid, B::float_add_scalar(rest, Scalar::from(1.0)));
            (opened, slope)
        }
        Activation::Relu2 => {
            let positive = B::relu(gate);
            let opened = B::float_mul(positive.clone(), positive.clone());
            (opened, B::float_mul_scalar(positive, Scalar::from(2.0)))
        }
    };
    (
        B::float_mul(B::float_mul(dy.clone(), up), slope),
        B::float_mul(dy, opened),
    )
}

/// See [`VectorOps::rotate`](super::VectorOps::rotate).
pub fn rotate<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = x.shape();
    let half = shape[3] / 2;
    let part = |from: usize| {
        let mut slices: Vec<Slice> = shape.iter().map(|&len| Slice::from(0..len)).collect();
        slices[3] = Slice::from(from..from + half);
        B::float_slice(x.clone(), &slices)
    };
    let (a, b) = (part(0), part(half));
    let (cos, sin) = (
        B::float_expand(cos, a.shape()),
        B::float_expand(sin, a.shape()),
    );
    let first = B::float_sub(
        B::float_mul(a.clone(), cos.clone()),
        B::float_mul(b.clone(), sin.clone()),
    );
    let second = B::float_add(B::float_mul(b, cos), B::float_mul(a, sin));
    B::float_cat(vec![first, second], 3)
}
