//! CubeCL, one implementation for wgpu (Vulkan, Metal, WebGPU), CUDA and ROCm. Fusion is written by the macro.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, FloatDType, IntDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::dense::cube::product;
use crate::cube::float::Direction;
use crate::cube::{self, Problem};
use crate::defaults::in_dtype;
use crate::ops::dense::{Lower, Transposed};
use crate::ops::table::rows_shape;
use crate::ops::{backward_shape, forward_shape, rows};
use crate::packing::words::words_per_row;
use crate::{Granularity, TableOps, TableSpec, TernaryOps, TernarySpec, WeightQuantizer};

impl TernaryOps for CubeBackend {
    fn ternary_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let Some(limit) = spec.activations.limit() else {
            let shape = forward_shape(&x.shape(), &codes.shape());
            return float_product(x, codes, scale, spec, shape, Direction::Forward);
        };
        let (x, codes, scale) = (
            into_contiguous(x),
            into_contiguous(codes),
            into_contiguous(scale),
        );
        let shape = forward_shape(&x.shape(), &codes.shape());
        let problem = Problem {
            rows: rows(&shape),
            d_out: codes.shape()[0],
            d_in: spec.d_in,
            granularity: spec.granularity,
            output: dtype_to_storage_type(x.dtype),
        };
        let y = empty_like(&x, shape, x.dtype);
        cube::ternary_linear(
            &y.client,
            &problem,
            limit,
            x.handle,
            codes.handle,
            scale.handle,
            y.handle.clone(),
        );
        y
    }

    fn ternary_linear_dx(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let dtype = dy.dtype;
        dx(dy, codes, scale, spec, dtype)
    }

    fn ternary_linear_dw(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let dtype = x.dtype;
        dw(dy, x, spec, dtype)
    }

    fn ternary_linear_gradients(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
        products: Option<DType>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (dx_dtype, dw_dtype) = (dy.dtype, x.dtype);
        let dy = in_dtype::<Self>(dy, products.unwrap_or(dx_dtype));
        let dx = dx(dy.clone(), codes, scale, spec, dx_dtype);
        (dx, dw(dy, x, spec, dw_dtype))
    }

    fn ternarize(
        latent: FloatTensor<Self>,
        quantizer: WeightQuantizer,
        granularity: Granularity,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let latent = into_contiguous(latent);
        let [d_out, d_in] = latent.shape().dims();
        let like = |shape, dtype| empty_like(&latent, shape, dtype);
        let scale = like(Shape::new([granularity.count(d_out, d_in)]), DType::F32);
        let codes = like(Shape::new([d_out, words_per_row(d_in)]), DType::U32);
        cube::ternarize::launch(
            &latent.client,
            [&latent.handle, &scale.handle, &codes.handle],
            (d_out, d_in),
            quantizer,
            granularity,
            dtype_to_storage_type(latent.dtype),
        );
        (codes, scale)
    }
}

/// `dy · (scale·T)` with factors in the number format of `dy`.
fn dx(
    dy: CubeTensor,
    codes: CubeTensor,
    scale: CubeTensor,
    spec: TernarySpec,
    output: DType,
) -> CubeTensor {
    let shape = backward_shape(&dy.shape(), &spec);
    if rows(&shape) < DENSE_FROM {
        let dx = float_product(dy, codes, scale, spec, shape, Direction::Backward);
        return in_dtype::<CubeBackend>(dx, output);
    }
    let (count, d_out) = (rows(&shape), codes.shape()[0]);
    let weight = dequantize(codes, scale, spec, dy.dtype);
    let dy = burn_cubecl::ops::reshape(into_contiguous(dy), Shape::new([count, d_out]));
    let dx = product(dy, weight, Transposed::default(), Lower::None, output);
    burn_cubecl::ops::reshape(dx, shape)
}

/// `dyᵀ · x̃` with factors in the number format of `dy`.
fn dw(dy: CubeTensor, x: CubeTensor, spec: TernarySpec, output: DType) -> CubeTensor {
    let (count, d_out) = (rows(&dy.shape()), dy.shape()[dy.shape().num_dims() - 1]);
    let x = into_contiguous(x);
    let seen = match spec.activations.limit() {
        Some(limit) => fake_quantize(&x, (count, spec.d_in), limit, dy.dtype),
        None => in_dtype::<CubeBackend>(x, dy.dtype),
    };
    // Few tiles with long sums would leave most multiprocessors idle: parts of the rows are summed side by side.
    let tiles = d_out.div_ceil(TILE) * spec.d_in.div_ceil(TILE);
    let parts = TILES.div_ceil(tiles).next_power_of_two();
    let parts = parts.min(1 << count.trailing_zeros()).min(count / SHORTEST);
    let parts = if parts < 2 { 1 } else { 1 << parts.ilog2() };
    let split = |tensor, width| {
        let shape = Shape::new([parts, count / parts, width]);
        burn_cubecl::ops::reshape(tensor, shape)
    };
    let (dy, seen) = (split(into_contiguous(dy), d_out), split(seen, spec.d_in));
    let transposed = Transposed { a: true, b: false };
    let dw = product(dy, seen, transposed, Lower::None, output);
    let count = d_out * spec.d_in;
    let dw = match parts {
        1 => dw,
        _ if count.is_multiple_of(4) => {
            // Rows of Burn's products may be padded.
            let dw = into_contiguous(dw);
            let sum = empty_like(&dw, Shape::new([count]), output);
            let dtype = dtype_to_storage_type(output);
            cube::dense::sum_parts(&sum.client, &dw.handle, &sum.handle, parts, count, dtype);
            sum
        }
        _ => CubeBackend::float_sum_dim(dw, 0),
    };
    burn_cubecl::ops::reshape(dw, Shape::new([d_out, spec.d_in]))
}

/// Rows from which gradients are dense products, which use matrix units.
const DENSE_FROM: usize = 256;

/// Outputs along each side of a tile of a dense product.
const TILE: usize = 128;
/// Tiles that keep a large GPU busy.
const TILES: usize = 256;
/// Rows that a part of a sum has at least.
const SHORTEST: usize = 256;

/// What a product with codes up to `limit` sees of `x`, whose shape has `rows` rows of `d_in`, in number format `dtype`.
fn fake_quantize(
    x: &CubeTensor,
    (rows, d_in): (usize, usize),
    limit: i8,
    dtype: DType,
) -> CubeTensor {
    let seen = empty_like(x, x.shape(), dtype);
    let device = cube::Capabilities::of(&x.client);
    let dtypes = [x.dtype, dtype].map(dtype_to_storage_type);
    cube::quantize::fake_quantize(
        &x.client,
        &device,
        &x.handle,
        &seen.handle,
        (rows, d_in),
        dtypes,
        limit,
    );
    seen
}

/// `scale·T [d_out, d_in]`.
fn dequantize(codes: CubeTensor, scale: CubeTensor, spec: TernarySpec, dtype: DType) -> CubeTensor {
    let (codes, scale) = (into_contiguous(codes), into_contiguous(scale));
    let (d_out, d_in) = (codes.shape()[0], spec.d_in);
    let weight = empty_like(&codes, Shape::new([d_out, d_in]), dtype);
    cube::dequantize::launch(
        &weight.client,
        &codes.handle,
        &scale.handle,
        &weight.handle,
        (d_out, d_in),
        spec.granularity,
        dtype_to_storage_type(dtype),
    );
    weight
}

fn float_product(
    a: CubeTensor,
    codes: CubeTensor,
    scale: CubeTensor,
    spec: TernarySpec,
    shape: Shape,
    direction: Direction,
) -> CubeTensor {
    let (a, codes, scale) = (
        into_contiguous(a),
        into_contiguous(codes),
        into_contiguous(scale),
    );
    let dims = (rows(&shape), codes.shape()[0], spec.d_in);
    let y = empty_like(&a, shape, a.dtype);
    cube::float::launch(
        &y.client,
        direction,
        &a.handle,
        &codes.handle,
        &scale.handle,
        &y.handle,
        dims,
        spec.granularity,
        dtype_to_storage_type(a.dtype),
    );
    y
}

pub(super) fn empty_like(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

impl TableOps for CubeBackend {
    fn table_rows(
        ids: IntTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let shape = rows_shape(&ids.shape(), &spec);
        let ids = into_contiguous(Self::int_cast(ids, IntDType::I32));
        let out = empty_like(&ids, shape, DType::F32);
        let count = ids.shape().num_elements();
        let table = table(codes, scale, spec);
        cube::table::rows(&out.client, &ids.handle, &table, &out.handle, count);
        out
    }

    fn table_linear(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TableSpec,
    ) -> FloatTensor<Self> {
        let (dtype, shape) = (x.dtype, forward_shape(&x.shape(), &codes.shape()));
        let x = into_contiguous(Self::float_cast(x, FloatDType::F32));
        let count = rows(&shape);
        let y = empty_like(&x, shape, DType::F32);
        let table = table(codes, scale, spec);
        cube::table::linear(&y.client, &x.handle, &table, &y.handle, count);
        Self::float_cast(y, dtype.into())
    }
}

fn table(codes: CubeTensor, scale: CubeTensor, spec: TableSpec) -> cube::table::Table {
    cube::table::Table {
        rows: codes.shape()[0],
        codes: into_contiguous(codes).handle,
        scale: into_contiguous(scale).handle,
        format: spec.format,
        columns: spec.columns,
    }
}
