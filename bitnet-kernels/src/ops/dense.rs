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

/// Dense products of a Burn backend. Call the functions of this crate rather than the trait: they check shapes.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait DenseOps: Backend {
    /// `[.., m, k] · [.., k, n]`, of factors that lie as `transposed` says, in the dtype of both.
    #[fusion(dtype = a, shape = product_shape(a, b, transposed))]
    fn product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        transposed: Transposed,
    ) -> FloatTensor<Self> {
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

/// `a · bᵀ`. Differentiable.
///
/// # Shapes
///
/// - a: `[.., m, k]`
/// - b: `[.., n, k]`
/// - output: `[.., m, n]`, in the dtype of both
///
/// # Panics
///
/// Panics if shapes or dtypes do not fit.
pub fn product_transposed<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    let (a_dims, b_dims) = (a.dims(), b.dims());
    assert!(D > 1, "a product of matrices");
    assert!(
        a_dims[..D - 2] == b_dims[..D - 2] && a_dims[D - 1] == b_dims[D - 1],
        "no product of {a_dims:?} with the transposed of {b_dims:?}"
    );
    product_of(a, b, Transposed { a: false, b: true })
}

/// `a · b`. Differentiable.
///
/// # Shapes
///
/// - a: `[.., m, k]`
/// - b: `[.., k, n]`
/// - output: `[.., m, n]`, in the dtype of both
///
/// # Panics
///
/// Panics if shapes or dtypes do not fit.
pub fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    let (a_dims, b_dims) = (a.dims(), b.dims());
    assert!(D > 1, "a product of matrices");
    assert!(
        a_dims[..D - 2] == b_dims[..D - 2] && a_dims[D - 1] == b_dims[D - 2],
        "no product of {a_dims:?} with {b_dims:?}"
    );
    product_of(a, b, Transposed::default())
}

fn product_of<const D: usize>(a: Tensor<D>, b: Tensor<D>, transposed: Transposed) -> Tensor<D> {
    assert_eq!(a.dtype(), b.dtype(), "factors of one number format");
    let y = <Dispatch as DenseOps>::product(a.into_dispatch(), b.into_dispatch(), transposed);
    Tensor::from_dispatch(y)
}
