//! What a transformer does between its products, one pass over the numbers each, as a Burn backend extension.
//!
//! The cost of these is that of reading, writing and calling, so each is one operation on CPUs and one kernel on GPUs.
//! So are their gradients on GPUs, but for that of the norm, which is two kernels; on CPUs gradients are the default
//! bodies of Burn primitives ([`defaults`]).

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

pub mod defaults;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// The nonlinearity of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `max(x, 0)²`. Overflows f16 on real weights; here it is always f32.
    Relu2,
}

/// Vector arithmetic of a Burn backend. Call the functions of this crate rather than the trait: they check shapes.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait VectorOps: Backend {
    /// See [`rms_norm`]. All are f32.
    #[fusion(dtype = x, shape = same(x))]
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        defaults::rms_norm::<Self>(x, gamma, epsilon)
    }

    /// Gradients of [`rms_norm`](Self::rms_norm): that of `x`, in its shape, and that of `gamma`.
    #[fusion(meta = |x, gamma, _dy, _epsilon| {
        (
            TensorSpec::new(x.shape.clone(), DType::F32),
            TensorSpec::new(gamma.shape.clone(), DType::F32),
        )
    })]
    fn rms_norm_dx(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::rms_norm_dx::<Self>(x, gamma, dy, epsilon)
    }

    /// See [`gated`]. Both are f32.
    #[fusion(dtype = gate, shape = same(gate))]
    fn gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        defaults::gated::<Self>(gate, up, activation)
    }

    /// Gradients of [`gated`](Self::gated): that of `gate` and that of `up`.
    #[fusion(meta = |gate, up, _dy, _activation| {
        (
            TensorSpec::new(gate.shape.clone(), DType::F32),
            TensorSpec::new(up.shape.clone(), DType::F32),
        )
    })]
    fn gated_dx(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::gated_dx::<Self>(gate, up, dy, activation)
    }

    /// See [`rotate`]. All are f32.
    #[fusion(dtype = x, shape = same(x))]
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        defaults::rotate::<Self>(x, cos, sin)
    }

    /// The gradient of [`rotate`](Self::rotate) for `x`: the rotation by the opposite angles.
    #[fusion(dtype = dy, shape = same(dy))]
    fn rotate_dx(
        dy: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::rotate(dy, cos, Self::float_neg(sin))
    }
}

#[cfg(feature = "cube")]
use {super::same, burn::backend::fusion::custom::TensorSpec};

/// RMS norm along the last dimension in the order of operations of the reference: `γ · (x · (1 / √(mean(x²) + ε)))`,
/// computed in f32.
///
/// # Shapes
///
/// - x: `[.., d]`
/// - gamma: `[d]`
/// - output: `[.., d]`, in the dtype of `x`
///
/// # Panics
///
/// Panics if the last dimension of `x` is not that of `gamma`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let last = x.dims()[D - 1];
    assert_eq!([last], gamma.dims(), "an RMS norm of {last} columns");
    let dtype = x.dtype();
    let y = <Dispatch as VectorOps>::rms_norm(
        x.cast(DType::F32).into_dispatch(),
        gamma.cast(DType::F32).into_dispatch(),
        epsilon as f32,
    );
    Tensor::<D>::from_dispatch(y).cast(dtype)
}

/// `activation(gate) · up`, computed in f32.
///
/// # Shapes
///
/// - gate, up, output: the same; the output has the dtype of `gate`
///
/// # Panics
///
/// Panics if the shapes differ.
pub fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, activation: Activation) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "a gate and what it opens");
    let dtype = gate.dtype();
    let y = <Dispatch as VectorOps>::gated(
        gate.cast(DType::F32).into_dispatch(),
        up.cast(DType::F32).into_dispatch(),
        activation,
    );
    Tensor::<D>::from_dispatch(y).cast(dtype)
}

/// Turns the pairs `(x[i], x[i + d/2])` by the angles whose cosines and sines are given, in f32.
///
/// # Shapes
///
/// - x: `[batch, heads, seq, d]`, f32
/// - cos, sin: `[batch, 1, seq, d/2]`, or 1 in place of `batch` or of `seq`
/// - output: `[batch, heads, seq, d]`
///
/// # Panics
///
/// Panics if the shapes do not fit, or if numbers are not f32.
pub fn rotate(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let dtypes = [x.dtype(), cos.dtype(), sin.dtype()];
    assert_eq!(dtypes, [DType::F32; 3], "a rotation in f32");
    let [batch, _, seq, d] = x.dims();
    let angles = cos.dims();
    assert!(
        angles == sin.dims()
            && (angles[0] == batch || angles[0] == 1)
            && angles[1] == 1
            && (angles[2] == seq || angles[2] == 1)
            && 2 * angles[3] == d,
        "angles {angles:?} for heads {:?}",
        x.dims()
    );
    Tensor::from_dispatch(Dispatch::rotate(
        x.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
    ))
}
