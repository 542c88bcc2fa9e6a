//! What training does to rows: attention weights, losses and embeddings, each with its gradient in one pass.
//!
//! Composed of primitives, the first two keep several copies of the two largest tensors of a step, `[.., seq, seq]` and
//! `[tokens, vocab]`, and read them again and again. Here the forward pass keeps what the gradient needs, and no more. All
//! arithmetic is f32, whatever the rows are stored in.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

pub mod defaults;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
#[cfg(feature = "cube")]
use burn::tensor::Shape;
use burn::tensor::{Int, Tensor};

/// Arithmetic on rows of a Burn backend. Call the functions of this crate rather than the trait: they check shapes.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait RowOps: Backend {
    /// See [`causal_softmax`].
    #[fusion(dtype = scores, shape = same(scores))]
    fn causal_softmax(scores: FloatTensor<Self>, scale: f32) -> FloatTensor<Self> {
        defaults::causal_softmax::<Self>(scores, scale)
    }

    /// `dscores = scale · w · (dw − Σ w·dw)`, `w` the weights that [`causal_softmax`](Self::causal_softmax) gave.
    #[fusion(dtype = dweights, shape = same(dweights))]
    fn causal_softmax_dx(
        weights: FloatTensor<Self>,
        dweights: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        defaults::causal_softmax_dx::<Self>(weights, dweights, scale)
    }

    /// Losses as [`cross_entropy`] gives them, and `log Σ exp(logits)` of each row; both `[n]`, f32.
    #[fusion(meta = |logits, _targets| {
        let n = logits.shape[0];
        (
            TensorSpec::new(Shape::new([n]), DType::F32),
            TensorSpec::new(Shape::new([n]), DType::F32),
        )
    })]
    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        defaults::cross_entropy::<Self>(logits, targets)
    }

    /// `dlogits = dloss · (softmax(logits) − onehot(target))`, in the dtype of `logits`.
    #[fusion(dtype = logits, shape = same(logits))]
    fn cross_entropy_dx(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sums: FloatTensor<Self>,
        dlosses: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        defaults::cross_entropy_dx::<Self>(logits, targets, log_sums, dlosses)
    }

    /// See [`embedding`].
    #[fusion(default)]
    fn embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        Self::float_select(table, 0, ids)
    }

    /// `dtable[r] = Σ dy[i]` over all `i` with `ids[i] = r`, of `count` rows: `dy [n, d]` to `[count, d]`. Sums are taken in the
    /// order of `i`.
    #[fusion(dtype = dy, shape = table_shape(dy, count))]
    fn embedding_dx(
        ids: IntTensor<Self>,
        dy: FloatTensor<Self>,
        count: usize,
    ) -> FloatTensor<Self> {
        defaults::embedding_dx::<Self>(ids, dy, count)
    }
}

#[cfg(feature = "cube")]
use {super::same, burn::backend::fusion::custom::TensorSpec, burn::tensor::DType};

#[cfg(feature = "cube")]
fn table_shape(dy: &Shape, count: &usize) -> Shape {
    Shape::new([*count, dy[1]])
}

/// Rows of a table. Differentiable: the gradient of a row is the sum over all places where it was taken, always in the same
/// order, so that a training run can be repeated bit by bit.
///
/// # Shapes
///
/// - table: `[rows, d]`
/// - ids: `[n]`
/// - output: `[n, d]`
pub fn embedding(table: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    let rows = <Dispatch as RowOps>::embedding(table.into_dispatch(), ids.into_dispatch());
    Tensor::from_dispatch(rows)
}

/// `softmax(scale · scores)` of each row over the columns that are not in the future, 0 for the others. Differentiable.
///
/// # Shapes
///
/// - scores: `[batch, heads, rows, seq]`, where row `r` is a query at position `r mod seq`: heads that share keys may follow
///   each other
/// - output: the same, in the dtype of `scores`
///
/// # Panics
///
/// Panics if `rows` is not a multiple of `seq`.
pub fn causal_softmax(scores: Tensor<4>, scale: f64) -> Tensor<4> {
    let [.., rows, seq] = scores.dims();
    assert!(
        seq > 0 && rows.is_multiple_of(seq),
        "{rows} queries of sequences of {seq}"
    );
    let weights = Dispatch::causal_softmax(scores.into_dispatch(), scale as f32);
    Tensor::from_dispatch(weights)
}

/// `−log softmax(logits)[target]` of each row, in f32. Differentiable. A target that is no column gives NaN, or a panic where
/// the backend sees it.
///
/// # Shapes
///
/// - logits: `[n, vocab]`
/// - targets: `[n]`
/// - output: `[n]`
///
/// # Panics
///
/// Panics if there are not as many targets as rows.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    assert_eq!(logits.dims()[0], targets.dims()[0], "a target for each row");
    let (losses, _) = Dispatch::cross_entropy(logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(losses)
}
