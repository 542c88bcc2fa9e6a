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

use crate::ops::dense::{DenseOps, Lower, Transposed};

#[cfg(feature = "flex")]
impl DenseOps for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl DenseOps for burn::backend::NdArray {}

#[derive(Debug)]
struct ProductBackward;

impl<B: DenseOps> Backward<B, 2> for ProductBackward {
    type State = (NodeId, NodeId, Transposed, Lower);

    /// With y = a·b: da = dy·bᵀ and db = aᵀ·dy, or their transposed, from factors where they lie. Where y is a lower triangle, so
    /// is dy; where a is, da is.
    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [a_parent, b_parent] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (a, b, lies, lower) = ops.state;
        let mut state = |id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id);
        let (a, b) = (state(a), state(b));
        let (da_lower, db_lower) = match lower {
            Lower::None => (Lower::None, Lower::None),
            Lower::Product => (Lower::A, Lower::A),
            Lower::A => (Lower::Product, Lower::A),
        };
        let order = |a, b| Transposed { a, b };
        if let Some(parent) = a_parent {
            let (b, dy) = (b, dy.clone());
            let da = match lies.a {
                false => B::product(dy, b, order(false, !lies.b), da_lower),
                true => B::product(b, dy, order(lies.b, true), Lower::None),
            };
            grads.register::<B>(parent.id, da);
        }
        if let Some(parent) = b_parent {
            let db = match (lies.b, lower) {
                (false, _) => B::product(a, dy, order(!lies.a, false), db_lower),
                (true, Lower::A) => B::product(dy, a, order(true, lies.a), Lower::None),
                (true, _) => B::product(dy, a, order(true, lies.a), db_lower),
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
        lower: Lower,
    ) -> FloatTensor<Self> {
        let of = |a: FloatTensor<Self>, b: FloatTensor<Self>| {
            <B as DenseOps>::product(a.into_primitive(), b.into_primitive(), transposed, lower)
        };
        match ProductBackward
            .prepare::<C>([a.node(), b.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let (at_a, at_b) = (prep.checkpoint(&a), prep.checkpoint(&b));
                prep.finish((at_a, at_b, transposed, lower), of(a, b))
            }
            OpsKind::UnTracked(prep) => prep.finish(of(a, b)),
        }
    }
}

#[cfg(feature = "cube")]
pub(super) mod cube {
    use burn::backend::TensorMetadata;
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::backend::tensor::FloatTensor;
    use burn::tensor::DType;
    use burn_cubecl::CubeBackend;
    use burn_cubecl::kernel::into_contiguous;
    use burn_cubecl::tensor::CubeTensor;

    use crate::backend::cube::empty_like;
    use crate::cube::dense::{self, Factor, Product};
    use crate::defaults::in_dtype;
    use crate::ops::dense::{DenseOps, Lower, Transposed, default_product, product_shape};

    impl DenseOps for CubeBackend {
        fn product(
            a: FloatTensor<Self>,
            b: FloatTensor<Self>,
            transposed: Transposed,
            lower: Lower,
        ) -> FloatTensor<Self> {
            let dtype = a.dtype;
            product(a, b, transposed, lower, dtype)
        }
    }

    /// The product in number format `output`: without a second pass where that of the factors or f32.
    pub(in crate::backend) fn product(
        a: CubeTensor,
        b: CubeTensor,
        transposed: Transposed,
        lower: Lower,
        output: DType,
    ) -> CubeTensor {
        let shape = product_shape(&a.shape(), &b.shape(), &transposed);
        let last = shape.num_dims() - 1;
        let problem = Product {
            count: shape[..last - 1].iter().product(),
            m: shape[last - 1],
            n: shape[last],
            k: a.shape()[last - usize::from(transposed.a)],
            transposed,
            lower,
            dtype: dtype_to_storage_type(a.dtype),
            output: dtype_to_storage_type(output),
        };
        let Some(plan) = dense::blueprint(&a.client, &problem) else {
            let y = default_product::<CubeBackend>(a, b, transposed);
            return in_dtype::<CubeBackend>(y, output);
        };
        let [a, b] = [a, b].map(readable);
        let y = empty_like(&a, shape, output);
        let (client, y_handle) = (&y.client, &y.handle);
        dense::launch(client, &problem, &plan, factor(&a), factor(&b), y_handle);
        y
    }

    /// The tensor itself if the kernel can follow its steps, else a copy in order.
    fn readable(tensor: CubeTensor) -> CubeTensor {
        let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
        let last = shape.num_dims() - 1;
        let span: usize = (0..=last).map(|d| (shape[d] - 1) * strides[d]).sum();
        let follows = last < 4
            && strides[last] == 1
            && strides[..last].iter().all(|step| step.is_multiple_of(8))
            && span + 1 == shape.num_elements();
        match follows {
            true => tensor,
            false => into_contiguous(tensor),
        }
    }

    /// Where the matrices of a readable tensor lie.
    fn factor(tensor: &CubeTensor) -> Factor<'_> {
        let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
        let rank = shape.num_dims();
        let (heads, inner, outer) = match rank {
            2 => (1, 0, 0),
            3 => (1, 0, strides[0]),
            4 => (shape[1], strides[1], strides[0]),
            _ => (1, 0, shape[rank - 2] * shape[rank - 1]),
        };
        Factor {
            handle: &tensor.handle,
            row: strides[rank - 2],
            heads,
            inner,
            outer,
        }
    }
}
