//! CubeCL, one implementation for wgpu (Vulkan, Metal, WebGPU), CUDA and ROCm.

use burn::backend::TensorMetadata;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::backend::cube::empty_like;
use crate::cube::attention::{Operands, launch};
use crate::ops::attention::Attended;
use crate::{AttentionOps, AttentionShape, AttentionSpec};

impl AttentionOps for CubeBackend {
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
        let [keys, key_scales, values, value_scales] =
            [keys, key_scales, values, value_scales].map(writable);
        let out = empty_like(&q, q.shape(), DType::F32);
        let operands = Operands {
            q: into_contiguous(q).handle,
            k: into_contiguous(k).handle,
            v: into_contiguous(v).handle,
            keys: keys.handle.clone(),
            key_scales: key_scales.handle.clone(),
            values: values.handle.clone(),
            value_scales: value_scales.handle.clone(),
            starts: into_contiguous(starts).handle,
            out: out.handle.clone(),
        };
        launch(&out.client, shape, spec, &operands);
        (out, keys, key_scales, values, value_scales)
    }
}

/// The tensor in row order, copied first if something else holds its memory too.
fn writable(tensor: CubeTensor) -> CubeTensor {
    if tensor.can_mut() && tensor.is_contiguous() {
        return tensor;
    }
    into_contiguous(tensor.copy())
}
