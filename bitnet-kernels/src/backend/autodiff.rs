//! Gradients. The packed weight is frozen; a latent weight gets the straight-through gradient.

use burn::backend::TensorMetadata;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;

use crate::defaults::in_dtype;
use crate::{Granularity, TableOps, TableSpec, TernaryOps, TernarySpec, WeightQuantizer};

#[derive(Debug)]
struct PackedBackward;

impl<B: TernaryOps> Backward<B, 1> for PackedBackward {
    type State = (IntTensor<B>, FloatTensor<B>, TernarySpec);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (codes, scale, spec) = ops.state;
        if let Some(x) = x {
            grads.register::<B>(x.id, B::ternary_linear_dx(dy, codes, scale, spec));
        }
    }
}

#[derive(Debug)]
struct LatentBackward;

impl<B: TernaryOps> Backward<B, 2> for LatentBackward {
    type State = (
        NodeId,
        DType,
        IntTensor<B>,
        FloatTensor<B>,
        TernarySpec,
        Option<DType>,
    );

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [x, latent] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (input, dtype, codes, scale, spec, products) = ops.state;
        let mut input = || checkpointer.retrieve_node_output::<FloatTensor<B>>(input);
        let factor = |tensor| match products {
            Some(dtype) => in_dtype::<B>(tensor, dtype),
            None => tensor,
        };
        match (x, latent) {
            (Some(x), Some(latent)) => {
                let input = input();
                let (dx, dw) = B::ternary_linear_gradients(dy, input, codes, scale, spec, products);
                grads.register::<B>(latent.id, in_dtype::<B>(dw, dtype));
                grads.register::<B>(x.id, dx);
            }
            (None, Some(latent)) => {
                let dw = B::ternary_linear_dw(factor(dy), factor(input()), spec);
                grads.register::<B>(latent.id, in_dtype::<B>(dw, dtype));
            }
            (Some(x), None) => {
                let like = dy.dtype();
                let dx = B::ternary_linear_dx(factor(dy), codes, scale, spec);
                grads.register::<B>(x.id, in_dtype::<B>(dx, like));
            }
            (None, None) => {}
        }
    }
}

impl<B: TernaryOps, C: CheckpointStrategy> TernaryOps for Autodiff<B, C> {
    fn ternary_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let scale = scale.into_primitive();
        match PackedBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let y = B::ternary_linear(x.into_primitive(), codes.clone(), scale.clone(), spec);
                prep.finish((codes, scale, spec), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::ternary_linear(x.into_primitive(), codes, scale, spec))
            }
        }
    }

    /// Itself linear in `dy`, but no gradient of a gradient is offered, as everywhere in Burn's autodiff.
    fn ternary_linear_dx(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let dx = B::ternary_linear_dx(dy.into_primitive(), codes, scale.into_primitive(), spec);
        <FloatTensor<Self>>::new(dx)
    }

    /// Itself linear in `dy`, but no gradient of a gradient is offered, as everywhere in Burn's autodiff.
    fn ternary_linear_dw(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let dw = B::ternary_linear_dw(dy.into_primitive(), x.into_primitive(), spec);
        <FloatTensor<Self>>::new(dw)
    }

    fn ternary_linear_latent(
        x: FloatTensor<Self>,
        latent: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
        products: Option<DType>,
    ) -> FloatTensor<Self> {
        let scale = scale.into_primitive();
        match LatentBackward
            .prepare::<C>([x.node(), latent.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&x);
                let latent = latent.into_primitive();
                let dtype = latent.dtype();
                let y = B::ternary_linear_latent(
                    x.into_primitive(),
                    latent,
                    codes.clone(),
                    scale.clone(),
                    spec,
                    products,
                );
                prep.finish((input, dtype, codes, scale, spec, products), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::ternary_linear_latent(
                x.into_primitive(),
                latent.into_primitive(),
                codes,
                scale,
                spec,
                products,
            )),
        }
    }

    /// No gradient of a gradient is offered, as everywhere in Burn's autodiff.
    fn ternary_linear_gradients(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
        products: Option<DType>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [dy, x, scale] = [dy, x, scale].map(|tensor| tensor.into_primitive());
        let (dx, dw) = B::ternary_linear_gradients(dy, x, codes, scale, spec, products);
        (<FloatTensor<Self>>::new(dx), <FloatTensor<Self>>::new(dw))
    }

    fn ternarize(
        latent: FloatTensor<Self>,
        quantizer: WeightQuantizer,
        granularity: Granularity,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let (codes, scale) = B::ternarize(latent.into_primitive(), quantizer, granularity);
        (codes, <FloatTensor<Self>>::new(scale))
    }
}

#[derive(Debug)]
struct TableBackward;

impl<B: TableOps> Backward<B, 1> for TableBackward {
    type State = (IntTensor<B>, FloatTensor<B>, TableSpec);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (codes, scale, spec) = ops.state;
        if let Some(x) = x {
            grads.register::<B>(x.id, B::table_linear_dx(dy, codes, scale, spec));
        }
    }
}

impl<B: TableOps, C: CheckpointStrategy> TableOps for Autodiff<B, C> {
    fn table_rows(
        ids: IntTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let rows = B::table_rows(ids, codes, scale.into_primitive(), spec);
        <FloatTensor<Self>>::new(rows)
    }

    fn table_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let scale = scale.into_primitive();
        match TableBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let y = B::table_linear(x.into_primitive(), codes.clone(), scale.clone(), spec);
                prep.finish((codes, scale, spec), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::table_linear(x.into_primitive(), codes, scale, spec))
            }
        }
    }

    fn table_leading(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        screen_codes: IntTensor<Self>,
        screen_scale: FloatTensor<Self>,
        screen_error: FloatTensor<Self>,
        spec: TableSpec,
        leading: usize,
    ) -> FloatTensor<Self> {
        let y = B::table_leading(
            x.into_primitive(),
            codes,
            scale.into_primitive(),
            screen_codes,
            screen_scale.into_primitive(),
            screen_error.into_primitive(),
            spec,
            leading,
        );
        <FloatTensor<Self>>::new(y)
    }

    /// Itself linear in `dy`, but no gradient of a gradient is offered, as everywhere in Burn's autodiff.
    fn table_linear_dx(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let dx = B::table_linear_dx(dy.into_primitive(), codes, scale.into_primitive(), spec);
        <FloatTensor<Self>>::new(dx)
    }
}
