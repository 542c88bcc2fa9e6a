//! Embedding and output head as one Burn backend extension, and the `Tensor` functions that users call.
//!
//! A table is one matrix with two readings: rows by number, and the product with its transpose. It is frozen: what flows
//! back is the gradient of the product's input. Each operation has a default body of Burn primitives ([`defaults`]),
//! right on any backend; [`backend`](crate::backend) overrides it with kernels.

pub mod defaults;
mod screen;
mod tensor;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Shape, Tensor};

use crate::TableFormat;

pub use screen::ScreenTensor;
pub use tensor::TableTensor;

/// What a kernel must know of a table beside its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableSpec {
    /// How the numbers are stored.
    pub format: TableFormat,
    /// Columns, padding left out.
    pub columns: usize,
}

/// Table arithmetic of a Burn backend.
///
/// `codes` is `[rows, words]` of `u32`, `scale` is flat f32 with [`TableFormat::scales`] values. Call the functions of this
/// crate rather than the trait: they check shapes.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait TableOps: Backend {
    /// Rows `ids [batch, seq]` of the table as f32 `[batch, seq, columns]`. Not differentiable.
    #[fusion(dtype = scale, shape = rows_shape(ids, spec))]
    fn table_rows(
        ids: IntTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        defaults::table_rows::<Self>(ids, codes, scale, spec)
    }

    /// `y = x · Wᵀ`: `x [.., columns]` to `y [.., rows]`, in the dtype of `x`.
    #[fusion(dtype = x, shape = super::forward_shape(x, codes))]
    fn table_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        defaults::table_linear::<Self>(x, codes, scale, spec)
    }

    /// As [`table_linear`](Self::table_linear), but outputs that cannot be among the `leading` largest of their row may be −∞.
    /// `screen_codes`, `screen_scale` and `screen_error` are those of a [`ScreenTensor`]. Not differentiable.
    #[fusion(dtype = x, shape = super::forward_shape(x, codes))]
    #[allow(
        clippy::too_many_arguments,
        reason = "two tensors a table, and the error"
    )]
    fn table_leading(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        _screen_codes: IntTensor<Self>,
        _screen_scale: FloatTensor<Self>,
        _screen_error: FloatTensor<Self>,
        spec: TableSpec,
        _leading: usize,
    ) -> FloatTensor<Self> {
        Self::table_linear(x, codes, scale, spec)
    }

    /// `dx = dy · W`: `dy [.., rows]` to `dx [.., columns]`, in the dtype of `dy`.
    #[fusion(dtype = dy, shape = super::with_last(dy, spec.columns))]
    fn table_linear_dx(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        defaults::table_linear_dx::<Self>(dy, codes, scale, spec)
    }
}

/// Shape of rows `ids [batch, seq]`.
pub(crate) fn rows_shape(ids: &Shape, spec: &TableSpec) -> Shape {
    let [batch, seq] = ids.dims();
    Shape::new([batch, seq, spec.columns])
}

/// The rows of a table that `ids` name: the embedding of tokens. The table gets no gradient.
///
/// An id that is no row, a mistake of the caller, yields a row of NaN. Ids are read as 32-bit integers.
///
/// # Shapes
///
/// - ids: `[batch, seq]`
/// - output: `[batch, seq, columns]`, in f32
pub fn table_rows(ids: Tensor<2, Int>, table: &TableTensor) -> Tensor<3> {
    let spec = table.spec();
    let (codes, scale) = table.clone().into_parts();
    Tensor::from_dispatch(Dispatch::table_rows(
        ids.into_dispatch(),
        codes.into_dispatch(),
        scale.into_dispatch(),
        spec,
    ))
}

/// `y = x · Wᵀ`: the output head. Products and sums are in f32, `x` is not quantized.
///
/// On a CPU each output has one order of summation: a row of `x` gives the same bits in any batch, at any place in it, on
/// any number of threads. Under autodiff the table is frozen and the gradient of `x` is `dL/dy · W`.
///
/// # Shapes
///
/// - x: `[.., columns]`
/// - output: `[.., rows]`, in the dtype of `x`
///
/// # Panics
///
/// Panics if the last dimension of `x` is not the table's number of columns.
pub fn table_linear<const D: usize>(x: Tensor<D>, table: &TableTensor) -> Tensor<D> {
    let spec = table.spec();
    let last = x.dims()[D - 1];
    assert_eq!(
        last, spec.columns,
        "last dimension of x is {last}, but the table has {} columns",
        spec.columns
    );
    let (codes, scale) = table.clone().into_parts();
    Tensor::from_dispatch(Dispatch::table_linear(
        x.into_dispatch(),
        codes.into_dispatch(),
        scale.into_dispatch(),
        spec,
    ))
}

/// The largest outputs of [`table_linear`], which is all that greedy and top-k decoding look at: those that may be among
/// the `leading` largest of their row of `x`, ties with them too, bit for bit; others may be −∞.
///
/// On a CPU that reads the screen, a quarter or half of what f32 and f16 take, and some rows of the table. Elsewhere it is
/// `table_linear`. It has no gradient.
///
/// # Shapes
///
/// - x: `[.., columns]`
/// - output: `[.., rows]`, in the dtype of `x`
///
/// # Panics
///
/// Panics if the last dimension of `x` is not the table's number of columns, if the screen is of a table of another shape, or
/// if `leading` is 0.
pub fn table_leading<const D: usize>(
    x: Tensor<D>,
    table: &TableTensor,
    screen: &ScreenTensor,
    leading: usize,
) -> Tensor<D> {
    let spec = table.spec();
    let last = x.dims()[D - 1];
    assert_eq!(
        last, spec.columns,
        "last dimension of x is {last}, but the table has {} columns",
        spec.columns
    );
    assert!(leading > 0, "nothing is asked for");
    screen.assert_fits(table);
    let (codes, scale) = table.clone().into_parts();
    let (copy, error) = screen.clone().into_parts();
    let (screen_codes, screen_scale) = copy.into_parts();
    Tensor::from_dispatch(Dispatch::table_leading(
        x.into_dispatch(),
        codes.into_dispatch(),
        scale.into_dispatch(),
        screen_codes.into_dispatch(),
        screen_scale.into_dispatch(),
        error.into_dispatch(),
        spec,
        leading,
    ))
}
