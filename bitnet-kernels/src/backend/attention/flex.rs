//! Flex: borrowed slices into the CPU kernel, the cache in place if its storage has one owner.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::TensorData;

use crate::backend::flex::{floats, slice, slice_mut};
use crate::ops::attention::Attended;
use crate::{AttentionOps, AttentionShape, AttentionSpec, cpu};

impl AttentionOps for Flex {
    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        keys: IntTensor<Self>,
        key_scales: FloatTensor<Self>,
        values: IntTensor<Self>,
        value_scales: FloatTensor<Self>,
        starts: IntTensor<Self>,
        spec: AttentionSpec,
    ) -> Attended<Self> {
        let shape = AttentionShape::of::<Self>(&q, &keys);
        // Heads beside each other within a position, as they come from projections.
        let [q, k, v] = [q, k, v].map(|x| floats(x.transpose(1, 2)));
        let starts = starts.to_contiguous();
        let [mut keys, mut key_scales, mut values, mut value_scales] =
            [keys, key_scales, values, value_scales].map(|tensor| tensor.to_contiguous());
        let mut out = vec![0.0; q.shape().num_elements()];
        cpu::cached_attention(
            cpu::kernel(),
            shape,
            spec,
            slice(&q),
            slice(&k),
            slice(&v),
            cpu::CacheSlices {
                keys: slice_mut(&mut keys),
                key_scales: slice_mut(&mut key_scales),
                values: slice_mut(&mut values),
                value_scales: slice_mut(&mut value_scales),
            },
            slice(&starts),
            &mut out,
        );
        let out = FlexTensor::from_data(TensorData::new(out, q.shape())).transpose(1, 2);
        (out, keys, key_scales, values, value_scales)
    }
}
