//! Dense products that read transposed factors where they lie, with gradients that do the same.
//!
//! A layer's three products are x·Wᵀ, dy·W and dyᵀ·x: with both orders in one operation, nothing is copied to be transposed.
//! The default body is Burn's matrix product; GPUs with 16-bit matrix units have a kernel.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
#[cfg(feature = "cube")]
use burn::tensor::Shape;
use burn::tensor::Tensor;

/// Which factors of a product lie transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Transposed {
    /// `a` lies as `[.., k, m]`.
    pub a: bool,
    /// `b` lies as `[.., n, k]`.
    pub b: bool,
}

/// What of a product is a lower triangle: queries in rows, keys in columns, row `r` at position `r mod keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lower {
    /// Nothing.
    #[default]
    None,
    /// The product: numbers above its diagonal are unspecified.
    Product,
    /// The factor `a`, or what it is the transposed of: numbers above its diagonal are zeros.
    A,
}

/// Dense products of a Burn backend. Call the functions of this crate rather than the trait: they check shapes.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait DenseOps: Backend {
    /// `[.., m, k] · [.., k, n]`, of factors that lie as `transposed` says, in the dtype of both. Half of a triangle may be left
    /// out.
    #[fusion(dtype = a, shape = product_shape(a, b, transposed))]
    fn product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        transposed: Transposed,
        lower: Lower,
    ) -> FloatTensor<Self> {
        let _ = lower;
        default_product::<Self>(a, b, transposed)
    }
}

/// The product in Burn primitives: the second truth.
pub(crate) fn default_product<B: Backend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    transposed: Transposed,
) -> FloatTensor<B> {
    let turned = |tensor: FloatTensor<B>, turned| {
        let last = tensor.shape().num_dims() - 1;
        match turned {
            true => B::float_swap_dims(tensor, last - 1, last),
            false => tensor,
        }
    };
    B::float_matmul(turned(a, transposed.a), turned(b, transposed.b))
}

/// Shape of a product.
#[cfg(feature = "cube")]
pub(crate) fn product_shape(a: &Shape, b: &Shape, transposed: &Transposed) -> Shape {
    let mut shape = a.clone();
    let last = shape.num_dims() - 1;
    shape[last - 1] = a[last - usize::from(!transposed.a)];
    shape[last] = b[last - usize::from(transposed.b)];
    shape
}

/// `x · Wᵀ`, a linear layer whose weight has a row for each output. Differentiable.
///
/// # Shapes
///
/// - x: `[.., d_in]`
/// - weight: `[d_out, d_in]`
/// - output: `[.., d_out]`, in the dtype of both
///
/// # Panics
///
/// Panics if shapes or dtypes do not fit.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let mut shape = x.dims();
    let d_in = shape[D - 1];
    shape[D - 1] = weight.dims()[0];
    let rows = x.shape().num_elements() / d_in.max(1);
    let x = x.reshape([rows, d_in]);
    product(x, weight, Transposed { a: false, b: true }, Lower::None).reshape(shape)
}

/// `q · kᵀ` for [`causal_softmax`](crate::causal_softmax): scores of keys in the future of a query are unspecified.
/// Differentiable.
///
/// # Shapes
///
/// - q: `[batch, heads, rows, d]`, row `r` a query at position `r mod seq`
/// - k: `[batch, heads, seq, d]`
/// - output: `[batch, heads, rows, seq]`
///
/// # Panics
///
/// Panics if shapes or dtypes do not fit.
pub fn causal_scores(q: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
    product(q, k, Transposed { a: false, b: true }, Lower::Product)
}

/// `weights · v`, with weights as [`causal_softmax`](crate::causal_softmax) gives them: 0 for keys in the future of a query.
/// Differentiable; the gradients of such weights are unspecified.
///
/// # Shapes
///
/// - weights: `[batch, heads, rows, seq]`, row `r` a query at position `r mod seq`
/// - v: `[batch, heads, seq, d]`
/// - output: `[batch, heads, rows, d]`
///
/// # Panics
///
/// Panics if shapes or dtypes do not fit.
pub fn causal_mix(weights: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    product(weights, v, Transposed::default(), Lower::A)
}

fn product<const D: usize>(
    a: Tensor<D>,
    b: Tensor<D>,
    transposed: Transposed,
    lower: Lower,
) -> Tensor<D> {
    assert!(D > 1, "a product of matrices");
    let (a_dims, b_dims) = (a.dims(), b.dims());
    let terms = [
        a_dims[D - 1 - usize::from(transposed.a)],
        b_dims[D - 2 + usize::from(transposed.b)],
    ];
    assert!(
        a_dims[..D - 2] == b_dims[..D - 2] && terms[0] == terms[1],
        "no product of {a_dims:?} and {b_dims:?}, {transposed:?}"
    );
    assert_eq!(a.dtype(), b.dtype(), "factors of one number format");
    Tensor::from_dispatch(<Dispatch as DenseOps>::product(
        a.into_dispatch(),
        b.into_dispatch(),
        transposed,
        lower,
    ))
}
