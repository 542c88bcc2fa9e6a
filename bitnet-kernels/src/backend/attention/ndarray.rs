//! NdArray, deprecated in Burn: the same CPU kernel as Flex, the cache in place if its array has one owner.

#![allow(
    deprecated,
    reason = "Burn deprecates NdArray, but users still ask for it"
)]

use burn::backend::ndarray::NdArrayTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{NdArray, TensorMetadata};

use crate::backend::ndarray::{array, f32s, f32s_mut, floats, slice, slice_mut};
use crate::ops::attention::Attended;
use crate::{AttentionOps, AttentionShape, AttentionSpec, cpu};

impl AttentionOps for NdArray {
    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mut keys: IntTensor<Self>,
        mut key_scales: FloatTensor<Self>,
        mut values: IntTensor<Self>,
        mut value_scales: FloatTensor<Self>,
        starts: IntTensor<Self>,
        spec: AttentionSpec,
    ) -> Attended<Self> {
        let shape = AttentionShape::of::<Self>(&q, &keys);
        let [q, k, v] = [q, k, v].map(|x| floats(Self::float_swap_dims(x, 1, 2)));
        let starts = match &starts {
            NdArrayTensor::I32(starts) => slice(starts.view()),
            other => panic!("starts are i32, found {:?}", other.dtype()),
        };
        let mut out = vec![0.0; q.shape().num_elements()];
        cpu::cached_attention(
            cpu::kernel(),
            shape,
            spec,
            &f32s(&q),
            &f32s(&k),
            &f32s(&v),
            cpu::CacheSlices {
                keys: u32s_mut(&mut keys),
                key_scales: f32s_mut(&mut key_scales),
                values: u32s_mut(&mut values),
                value_scales: f32s_mut(&mut value_scales),
            },
            &starts,
            &mut out,
        );
        let out = Self::float_swap_dims(array(out, &q.shape()).into(), 1, 2);
        (out, keys, key_scales, values, value_scales)
    }
}

fn u32s_mut(tensor: &mut NdArrayTensor) -> &mut [u32] {
    match tensor {
        NdArrayTensor::U32(words) => slice_mut(words.ensure_owned()),
        other => panic!("words of a cache are u32, found {:?}", other.dtype()),
    }
}
