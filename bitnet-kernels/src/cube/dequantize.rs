//! Packed weights to floats, one word per unit: for products of so many rows that a dense one pays.
//!
//! The float copy lives for one product, the gradient dL/dx of many rows, and is as large as that one weight in floats.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{buffer, cube_count, scale_span, scale_stride};
use crate::Granularity;
use crate::packing::words::words_per_row;

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Units of a cube.
    pub units: usize,
}

/// Writes `scale·T` as `weight [d_out, d_in]` of element type `dtype`.
pub fn launch(
    client: &Client,
    codes: &Handle,
    scale: &Handle,
    weight: &Handle,
    (d_out, d_in): (usize, usize),
    granularity: Granularity,
    dtype: ElemType,
) {
    let words = words_per_row(d_in);
    let plan = Blueprint { units: 64 };
    unpack_words::launch(
        client,
        cube_count((d_out * words).div_ceil(plan.units)),
        CubeDim::new_1d(plan.units as u32),
        buffer(codes, d_out * words),
        buffer(scale, granularity.count(d_out, d_in)),
        buffer(weight, d_out * d_in),
        d_out as u32,
        d_in as u32,
        words as u32,
        scale_span(granularity, d_in) as u32,
        scale_stride(granularity, d_in) as u32,
        plan,
        dtype,
    );
}

#[cube(launch)]
pub(crate) fn unpack_words<F: Float>(
    codes: &[u32], // [d_out, words]
    scale: &[f32],
    weight: &mut [F], // [d_out, d_in]
    d_out: u32,
    d_in: u32,
    words: u32,
    scale_span: u32,   // columns per scale
    scale_stride: u32, // scales per row, 0 for one scale in all
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let (d_out, d_in, words) = (d_out as usize, d_in as usize, words as usize);
    let at = CUBE_POS * comptime!(plan.units) + UNIT_POS as usize;
    if at >= d_out * words {
        terminate!();
    }
    let row = at / words;
    let first = (at % words) * 16;
    // A word lies in one group, because groups are multiples of 32 columns.
    let which =
        row * scale_stride as usize + select(first < d_in, first, d_in - 1) / scale_span as usize;
    let factor = scale[which];
    let word = codes[at];
    #[unroll]
    for l in 0..16usize {
        let column = first + l;
        if column < d_in {
            let code =
                i32::cast_from((word >> (comptime!(8 * (l % 4) + 2 * (l / 4)) as u32)) & 3u32);
            weight[row * d_in + column] = F::cast_from(f32::cast_from(code - 1i32) * factor);
        }
    }
}
