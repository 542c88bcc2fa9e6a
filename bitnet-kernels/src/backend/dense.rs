//! [`DenseOps`] on each backend: gradients for autodiff, the kernel on GPUs with 16-bit matrix units; Burn's product elsewhere.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )
)]

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;

use crate::ops::dense::{DenseOps, Transposed};

#[cfg(feature = "flex")]
impl DenseOps for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl DenseOps for burn::backend::NdArray {}

#[derive(Debug)]
struct ProductBackward;

impl<B: DenseOps> Backward<B, 2> for ProductBackward {
    type State = (NodeId, NodeId, Transposed);

    /// With y = a·b: da = dy·bᵀ and db = aᵀ·dy, or their transposed, from factors where they lie.
    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let parents = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (a, b, lies) = ops.state;
        let mut state = |id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id);
        let (a, b) = (state(a), state(b));
        let [da, db] = parents;
        if let Some(parent) = da {
            let (b, dy) = (b, dy.clone());
            let da = match lies.a {
                false => B::product(
                    dy,
                    b,
                    Transposed {
                        a: false,
                        b: !lies.b,
                    },
                ),
                true => B::product(b, dy, Transposed { a: lies.b, b: true }),
            };
            grads.register::<B>(parent.id, da);
        }
        if let Some(parent) = db {
            let db = match lies.b {
                false => B::product(
                    a,
                    dy,
                    Transposed {
                        a: !lies.a,
                        b: false,
                    },
                ),
                true => B::product(dy, a, Transposed { a: true, b: lies.a }),
            };
            grads.register::<B>(parent.id, db);
        }
    }
}

impl<B: DenseOps, C: CheckpointStrategy> DenseOps for Autodiff<B, C> {
    fn product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        transposed: Transposed,
    ) -> FloatTensor<Self> {
        match ProductBackward
            .prepare::<C>([a.node(), b.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&a), prep.checkpoint(&b), transposed);
                let y =
                    <B as DenseOps>::product(a.into_primitive(), b.into_primitive(), transposed);
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => {
                let y =
                    <B as DenseOps>::product(a.into_primitive(), b.into_primitive(), transposed);
                prep.finish(y)
            }
        }
    }
}

#[cfg(feature = "cube")]
pub(super) mod cube {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::backend::tensor::FloatTensor;
    use burn_cubecl::CubeBackend;
    use burn_cubecl::kernel::into_contiguous;

    use crate::backend::cube::empty_like;
    use crate::cube::dense::{self, Product};
    use crate::ops::dense::{DenseOps, Transposed, default_product, product_shape};

    impl DenseOps for CubeBackend {
        fn product(
            a: FloatTensor<Self>,
            b: FloatTensor<Self>,
            transposed: Transposed,
        ) -> FloatTensor<Self> {
            let shape = product_shape(&a.shape(), &b.shape(), &transposed);
            let last = shape.num_dims() - 1;
            let problem = Product {
                count: shape[..last - 1].iter().product(),
                m: shape[last - 1],
                n: shape[last],
                k: a.shape()[last - usize::from(transposed.a)],
                transposed,
                dtype: dtype_to_storage_type(a.dtype),
            };
            let Some(plan) = dense::blueprint(&a.client, &problem) else {
                return default_product::<Self>(a, b, transposed);
            };
            let [a, b] = [a, b].map(into_contiguous);
            let y = empty_like(&a, shape, a.dtype);
            dense::launch(&y.client, &problem, &plan, &a.handle, &b.handle, &y.handle);
            y
        }
    }
}
