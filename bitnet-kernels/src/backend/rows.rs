//! [`RowOps`] on each backend: gradients for autodiff, kernels on GPUs; on CPUs the default bodies.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

use burn::backend::TensorMetadata;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};

use crate::RowOps;

#[cfg(feature = "flex")]
impl RowOps for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl RowOps for burn::backend::NdArray {}

#[derive(Debug)]
struct SoftmaxBackward;

impl<B: RowOps> Backward<B, 1> for SoftmaxBackward {
    type State = (FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [scores] = ops.parents;
        let dweights = grads.consume::<B>(&ops.node);
        let (weights, scale) = ops.state;
        if let Some(scores) = scores {
            let dscores = B::causal_softmax_dx(weights, dweights, scale);
            grads.register::<B>(scores.id, dscores);
        }
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl<B: RowOps> Backward<B, 1> for CrossEntropyBackward {
    type State = (FloatTensor<B>, IntTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        let dlosses = grads.consume::<B>(&ops.node);
        let (logits, targets, log_sums) = ops.state;
        if let Some(parent) = parent {
            let dlogits = B::cross_entropy_dx(logits, targets, log_sums, dlosses);
            grads.register::<B>(parent.id, dlogits);
        }
    }
}

#[derive(Debug)]
struct EmbeddingBackward;

impl<B: RowOps> Backward<B, 1> for EmbeddingBackward {
    type State = (IntTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [table] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (ids, count) = ops.state;
        if let Some(table) = table {
            grads.register::<B>(table.id, B::embedding_dx(ids, dy, count));
        }
    }
}

impl<B: RowOps, C: CheckpointStrategy> RowOps for Autodiff<B, C> {
    fn embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let prepared = EmbeddingBackward
            .prepare::<C>([table.node()])
            .compute_bound()
            .stateful();
        let table = table.into_primitive();
        let count = table.shape()[0];
        let rows = <B as RowOps>::embedding(table, ids.clone());
        match prepared {
            OpsKind::Tracked(prep) => prep.finish((ids, count), rows),
            OpsKind::UnTracked(prep) => prep.finish(rows),
        }
    }

    /// No gradient of a gradient is offered, as everywhere in Burn's autodiff.
    fn embedding_dx(
        ids: IntTensor<Self>,
        dy: FloatTensor<Self>,
        count: usize,
    ) -> FloatTensor<Self> {
        <FloatTensor<Self>>::new(B::embedding_dx(ids, dy.into_primitive(), count))
    }

    fn causal_softmax(scores: FloatTensor<Self>, scale: f32) -> FloatTensor<Self> {
        match SoftmaxBackward
            .prepare::<C>([scores.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let weights = B::causal_softmax(scores.into_primitive(), scale);
                prep.finish((weights.clone(), scale), weights)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::causal_softmax(scores.into_primitive(), scale))
            }
        }
    }

    /// No gradient of a gradient is offered, as everywhere in Burn's autodiff.
    fn causal_softmax_dx(
        weights: FloatTensor<Self>,
        dweights: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let (weights, dweights) = (weights.into_primitive(), dweights.into_primitive());
        <FloatTensor<Self>>::new(B::causal_softmax_dx(weights, dweights, scale))
    }

    /// The gradient is that of the losses; none flows back from the logarithms.
    fn cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let prepared = CrossEntropyBackward
            .prepare::<C>([logits.node()])
            .compute_bound()
            .stateful();
        let logits = logits.into_primitive();
        let (losses, log_sums) = B::cross_entropy(logits.clone(), targets.clone());
        let losses = match prepared {
            OpsKind::Tracked(prep) => prep.finish((logits, targets, log_sums.clone()), losses),
            OpsKind::UnTracked(prep) => prep.finish(losses),
        };
        (losses, <FloatTensor<Self>>::new(log_sums))
    }

    /// No gradient of a gradient is offered, as everywhere in Burn's autodiff.
    fn cross_entropy_dx(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sums: FloatTensor<Self>,
        dlosses: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [logits, log_sums, dlosses] =
            [logits, log_sums, dlosses].map(|tensor| tensor.into_primitive());
        <FloatTensor<Self>>::new(B::cross_entropy_dx(logits, targets, log_sums, dlosses))
    }
}

#[cfg(feature = "cube")]
mod cube {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::backend::ops::{FloatTensorOps, IntTensorOps};
    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn::tensor::{DType, IntDType, Shape};
    use burn_cubecl::CubeBackend;
    use burn_cubecl::kernel::into_contiguous;

    use crate::RowOps;
    use crate::backend::cube::empty_like;
    use crate::cube::rows;

    impl RowOps for CubeBackend {
        fn causal_softmax(scores: FloatTensor<Self>, scale: f32) -> FloatTensor<Self> {
            let scores = into_contiguous(scores);
            let weights = empty_like(&scores, scores.shape(), scores.dtype);
            rows::causal_softmax(
                &weights.client,
                &scores.handle,
                &weights.handle,
                scores.shape().dims(),
                scale,
                dtype_to_storage_type(scores.dtype),
            );
            weights
        }

        fn causal_softmax_dx(
            weights: FloatTensor<Self>,
            dweights: FloatTensor<Self>,
            scale: f32,
        ) -> FloatTensor<Self> {
            let weights = Self::float_cast(weights, dweights.dtype.into());
            let [weights, dweights] = [weights, dweights].map(into_contiguous);
            let dscores = empty_like(&weights, weights.shape(), weights.dtype);
            rows::causal_softmax_dx(
                &dscores.client,
                [&weights.handle, &dweights.handle, &dscores.handle],
                weights.shape().dims(),
                scale,
                dtype_to_storage_type(weights.dtype),
            );
            dscores
        }

        fn cross_entropy(
            logits: FloatTensor<Self>,
            targets: IntTensor<Self>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>) {
            let logits = into_contiguous(logits);
            let targets = into_contiguous(Self::int_cast(targets, IntDType::I32));
            let [n, vocab] = logits.shape().dims();
            let [losses, log_sums] =
                [(); 2].map(|()| empty_like(&logits, Shape::new([n]), DType::F32));
            rows::cross_entropy(
                &losses.client,
                &logits.handle,
                &targets.handle,
                [&losses.handle, &log_sums.handle],
                [n, vocab],
                dtype_to_storage_type(logits.dtype),
            );
            (losses, log_sums)
        }

        fn cross_entropy_dx(
            logits: FloatTensor<Self>,
            targets: IntTensor<Self>,
            log_sums: FloatTensor<Self>,
            dlosses: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            let [logits, log_sums, dlosses] = [logits, log_sums, dlosses].map(into_contiguous);
            let targets = into_contiguous(Self::int_cast(targets, IntDType::I32));
            let dlogits = empty_like(&logits, logits.shape(), logits.dtype);
            rows::cross_entropy_dx(
                &dlogits.client,
                &logits.handle,
                &targets.handle,
                [&log_sums.handle, &dlosses.handle],
                &dlogits.handle,
                logits.shape().dims(),
                dtype_to_storage_type(logits.dtype),
            );
            dlogits
        }

        fn embedding_dx(
            ids: IntTensor<Self>,
            dy: FloatTensor<Self>,
            count: usize,
        ) -> FloatTensor<Self> {
            let ids = into_contiguous(Self::int_cast(ids, IntDType::I32));
            let dy = into_contiguous(dy);
            let [n, d] = dy.shape().dims();
            let table = empty_like(&dy, Shape::new([count, d]), dy.dtype);
            rows::embedding_dx(
                &table.client,
                [&ids.handle, &dy.handle, &table.handle],
                [n, d, count],
                dtype_to_storage_type(dy.dtype),
            );
            table
        }
    }
}
