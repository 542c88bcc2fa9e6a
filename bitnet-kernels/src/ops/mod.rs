//! The ternary operations as one Burn backend extension, and the `Tensor` functions that users call.
//!
//! Each operation has a default body of Burn primitives ([`defaults`]), right on any backend; [`backend`](crate::backend)
//! overrides it with kernels. Packed weights are integers and never get a gradient; what flows back is dL/dx, and for a
//! latent weight dL/dW by the straight-through estimator.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

pub mod attention;
pub mod defaults;
pub(crate) mod dense;
pub(crate) mod rows;
pub(crate) mod table;
mod tensor;
pub(crate) mod vector;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Tensor};

use crate::{ActivationQuantizer, Granularity, WeightQuantizer};

pub use tensor::TernaryTensor;

/// What a kernel must know of a ternary product beside the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TernarySpec {
    /// Columns of the weight, padding left out.
    pub d_in: usize,
    /// How many scales the weight has.
    pub granularity: Granularity,
    /// What happens to the input first.
    pub activations: ActivationQuantizer,
}

/// Ternary arithmetic of a Burn backend.
///
/// `codes` is `[d_out, words]` of canonical `u32` words ([`packing::words`](crate::packing::words)), on Flex and NdArray perhaps
/// `[d_out, bytes]` of base-3 `u8` ([`packing::base3`](crate::packing::base3)); [`TernaryTensor`] sees to it that no other backend
/// gets these. `scale` is flat f32 with [`Granularity::count`] values. Call the functions of this module rather than the trait: they check shapes.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait TernaryOps: Backend {
    /// `y = q(x) · (scale·T)ᵀ`: `x [.., d_in]` to `y [.., d_out]`, in the dtype of `x`.
    #[fusion(dtype = x, shape = forward_shape(x, codes))]
    fn ternary_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        defaults::ternary_linear::<Self>(x, codes, scale, spec)
    }

    /// [`ternary_linear`](Self::ternary_linear) of one input with two weights of the same width and activations.
    #[fusion(default)]
    fn ternary_linear_pair(
        x: FloatTensor<Self>,
        codes_a: IntTensor<Self>,
        scale_a: FloatTensor<Self>,
        codes_b: IntTensor<Self>,
        scale_b: FloatTensor<Self>,
        specs: [TernarySpec; 2],
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        (
            Self::ternary_linear(x.clone(), codes_a, scale_a, specs[0]),
            Self::ternary_linear(x, codes_b, scale_b, specs[1]),
        )
    }

    /// [`ternary_linear`](Self::ternary_linear) of one input with three weights of the same width and activations.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments, reason = "one tensor each")]
    fn ternary_linear_triple(
        x: FloatTensor<Self>,
        codes_a: IntTensor<Self>,
        scale_a: FloatTensor<Self>,
        codes_b: IntTensor<Self>,
        scale_b: FloatTensor<Self>,
        codes_c: IntTensor<Self>,
        scale_c: FloatTensor<Self>,
        specs: [TernarySpec; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        (
            Self::ternary_linear(x.clone(), codes_a, scale_a, specs[0]),
            Self::ternary_linear(x.clone(), codes_b, scale_b, specs[1]),
            Self::ternary_linear(x, codes_c, scale_c, specs[2]),
        )
    }

    /// `dx = dy · (scale·T)`: `dy [.., d_out]` to `dx [.., d_in]`, in the dtype of `dy`.
    #[fusion(dtype = dy, shape = backward_shape(dy, spec))]
    fn ternary_linear_dx(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        defaults::ternary_linear_dx::<Self>(dy, codes, scale, spec)
    }

    /// `dW = dyᵀ · x̃`, with `x̃` what the forward product saw of `x`: `dy [.., d_out]` and `x [.., d_in]` to `[d_out, d_in]`, in the
    /// dtype of `x`.
    #[fusion(dtype = x, shape = weight_shape(dy, spec))]
    fn ternary_linear_dw(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        defaults::ternary_linear_dw::<Self>(dy, x, spec)
    }

    /// Both gradients of a layer with a latent weight, [`dx`](Self::ternary_linear_dx) in the dtype of `dy` and
    /// [`dW`](Self::ternary_linear_dw) in that of `x`, from factors in number format `products`.
    #[fusion(meta = |dy, x, _codes, _scale, spec, _products| {
        (
            TensorSpec::new(backward_shape(&dy.shape, spec), dy.dtype),
            TensorSpec::new(weight_shape(&dy.shape, spec), x.dtype),
        )
    })]
    fn ternary_linear_gradients(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
        products: Option<DType>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (dx_dtype, dw_dtype) = (dy.dtype(), x.dtype());
        let factor = |tensor| match products {
            Some(dtype) => defaults::in_dtype::<Self>(tensor, dtype),
            None => tensor,
        };
        let (dy, x) = (factor(dy), factor(x));
        let dx = Self::ternary_linear_dx(dy.clone(), codes, scale, spec);
        let dw = Self::ternary_linear_dw(dy, x, spec);
        (
            defaults::in_dtype::<Self>(dx, dx_dtype),
            defaults::in_dtype::<Self>(dw, dw_dtype),
        )
    }

    /// Forward of a layer with a latent weight: [`ternary_linear`](Self::ternary_linear) on its quantized form. Under
    /// autodiff both quantizers pass gradients straight through: `dL/dx = dL/dy·W̃`, `dL/dW = (dL/dy)ᵀ·x̃`, from factors in
    /// number format `products`.
    #[fusion(dtype = x, shape = forward_shape(x, codes))]
    fn ternary_linear_latent(
        x: FloatTensor<Self>,
        latent: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
        products: Option<DType>,
    ) -> FloatTensor<Self> {
        let _ = (latent, products);
        Self::ternary_linear(x, codes, scale, spec)
    }

    /// Quantizes `latent [d_out, d_in]` to canonical words and scales. Not differentiable.
    #[fusion(meta = |latent, _quantizer, granularity| {
        let [d_out, d_in] = latent.shape.dims();
        (
            TensorSpec::new(Shape::new([d_out, words_per_row(d_in)]), DType::U32),
            TensorSpec::new(Shape::new([granularity.count(d_out, d_in)]), DType::F32),
        )
    })]
    fn ternarize(
        latent: FloatTensor<Self>,
        quantizer: WeightQuantizer,
        granularity: Granularity,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        defaults::ternarize::<Self>(latent, quantizer, granularity)
    }
}

#[cfg(feature = "cube")]
use {crate::packing::words::words_per_row, burn::backend::fusion::custom::TensorSpec};

/// Shape of `y`, from `x [.., d_in]` and `codes [d_out, words]`.
pub(crate) fn forward_shape(x: &Shape, codes: &Shape) -> Shape {
    with_last(x, codes[0])
}

/// Shape of `dx`, from `dy [.., d_out]`.
pub(crate) fn backward_shape(dy: &Shape, spec: &TernarySpec) -> Shape {
    with_last(dy, spec.d_in)
}

/// Shape of `dW`, from `dy [.., d_out]`.
#[cfg(feature = "cube")]
pub(crate) fn weight_shape(dy: &Shape, spec: &TernarySpec) -> Shape {
    Shape::new([dy[dy.num_dims() - 1], spec.d_in])
}

/// Shape of an output that is that of an input.
#[cfg(feature = "cube")]
pub(crate) fn same(shape: &Shape) -> Shape {
    shape.clone()
}

fn with_last(shape: &Shape, size: usize) -> Shape {
    let mut shape = shape.clone();
    let last = shape.num_dims() - 1;
    shape[last] = size;
    shape
}

/// Product of all dimensions but the last.
pub(crate) fn rows(shape: &Shape) -> usize {
    shape.iter().take(shape.num_dims() - 1).product()
}

/// `y = q(x)·W̃ᵀ` with a packed ternary weight.
///
/// With quantized activations, `y = acc / s_x · scale` where `acc = Σ q·T` is an exact 32-bit sum, equal on
/// every backend. Under autodiff the weight is frozen and the gradient of `x` is `dL/dy·W̃`. A row of `x` that holds
/// NaN or infinity yields NaN.
///
/// # Shapes
///
/// - x: `[.., d_in]`
/// - output: `[.., d_out]`, in the dtype of `x`
///
/// # Panics
///
/// Panics if the last dimension of `x` is not the weight's `d_in`.
pub fn ternary_linear<const D: usize>(
    x: Tensor<D>,
    weight: &TernaryTensor,
    activations: ActivationQuantizer,
) -> Tensor<D> {
    let spec = weight.spec(activations);
    check_last("x", &x.shape(), spec.d_in);
    let (codes, scale) = weight.clone().into_parts();
    Tensor::from_dispatch(Dispatch::ternary_linear(
        x.into_dispatch(),
        codes.into_dispatch(),
        scale.into_dispatch(),
        spec,
    ))
}

/// [`ternary_linear`] of one input with two weights, whose outputs are the same numbers. On a CPU the input is quantized
/// once.
///
/// # Shapes
///
/// - x: `[.., d_in]`
/// - outputs: `[.., d_out]` of each weight, in the dtype of `x`
///
/// # Panics
///
/// Panics if the last dimension of `x` is not the `d_in` of both weights.
pub fn ternary_linear_pair<const D: usize>(
    x: Tensor<D>,
    weights: [TernaryTensor; 2],
    activations: ActivationQuantizer,
) -> [Tensor<D>; 2] {
    let specs = specs(&x.shape(), &weights, activations);
    let [(codes_a, scale_a), (codes_b, scale_b)] = weights.map(dispatched);
    let x = x.into_dispatch();
    let (a, b) = Dispatch::ternary_linear_pair(x, codes_a, scale_a, codes_b, scale_b, specs);
    [a, b].map(Tensor::from_dispatch)
}

/// [`ternary_linear_pair`] with three weights.
///
/// # Panics
///
/// Panics if the last dimension of `x` is not the `d_in` of all weights.
pub fn ternary_linear_triple<const D: usize>(
    x: Tensor<D>,
    weights: [TernaryTensor; 3],
    activations: ActivationQuantizer,
) -> [Tensor<D>; 3] {
    let specs = specs(&x.shape(), &weights, activations);
    let [(codes_a, scale_a), (codes_b, scale_b), (codes_c, scale_c)] = weights.map(dispatched);
    let (a, b, c) = Dispatch::ternary_linear_triple(
        x.into_dispatch(),
        codes_a,
        scale_a,
        codes_b,
        scale_b,
        codes_c,
        scale_c,
        specs,
    );
    [a, b, c].map(Tensor::from_dispatch)
}

fn specs<const N: usize>(
    x: &Shape,
    weights: &[TernaryTensor; N],
    activations: ActivationQuantizer,
) -> [TernarySpec; N] {
    let specs = weights.each_ref().map(|weight| weight.spec(activations));
    specs.iter().for_each(|spec| check_last("x", x, spec.d_in));
    specs
}

fn dispatched(weight: TernaryTensor) -> (IntTensor<Dispatch>, FloatTensor<Dispatch>) {
    let (codes, scale) = weight.into_parts();
    (codes.into_dispatch(), scale.into_dispatch())
}

/// The same product with a latent (float) weight that is quantized in each call and trained through the
/// straight-through estimator. `weight` must come from [`ternarize`] of the same `latent`. Gradients are products of
/// factors in number format `products`, by default as they are; the product itself is exact.
///
/// # Shapes
///
/// - x: `[.., d_in]`
/// - latent: `[d_out, d_in]`, of any float dtype, which its gradient has too
/// - output: `[.., d_out]`, in the dtype of `x`
///
/// # Panics
///
/// Panics if the shapes do not fit.
pub fn ternary_linear_latent<const D: usize>(
    x: Tensor<D>,
    latent: Tensor<2>,
    weight: &TernaryTensor,
    activations: ActivationQuantizer,
    products: Option<DType>,
) -> Tensor<D> {
    let spec = weight.spec(activations);
    check_last("x", &x.shape(), spec.d_in);
    assert_eq!(
        latent.dims(),
        [weight.d_out(), spec.d_in],
        "latent weight and its quantized form differ in shape"
    );
    let (codes, scale) = weight.clone().into_parts();
    Tensor::from_dispatch(Dispatch::ternary_linear_latent(
        x.into_dispatch(),
        latent.into_dispatch(),
        codes.into_dispatch(),
        scale.into_dispatch(),
        spec,
        products,
    ))
}

/// Quantizes a float weight on its device. Non-finite weights are propagated: their scale is not finite, and so is
/// every product with it (checking here would cost a synchronization; [`TernaryTensor::to_packed`] reports it).
///
/// # Shapes
///
/// - latent: `[d_out, d_in]`
///
/// # Panics
///
/// Panics if a group size is not a multiple of 32 from 32 to 256.
pub fn ternarize(
    latent: Tensor<2>,
    quantizer: WeightQuantizer,
    granularity: Granularity,
) -> TernaryTensor {
    let granularity = granularity
        .checked()
        .unwrap_or_else(|error| panic!("{error}"));
    let [_, d_in] = latent.dims();
    let (codes, scale) =
        Dispatch::ternarize(latent.detach().into_dispatch(), quantizer, granularity);
    TernaryTensor::from_kernel(
        Tensor::from_dispatch(codes),
        Tensor::from_dispatch(scale),
        d_in,
        granularity,
    )
}

fn check_last(what: &str, shape: &Shape, d_in: usize) {
    let last = shape[shape.num_dims() - 1];
    assert_eq!(
        last, d_in,
        "last dimension of {what} is {last}, but the weight has d_in = {d_in}"
    );
}
