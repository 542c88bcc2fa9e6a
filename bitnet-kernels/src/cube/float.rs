//! Products with float activations: A16 forward, and the gradient dL/dx of packed layers where rows are few.
//!
//! One tiled kernel for both: 64 x 64 outputs per cube in steps of 16, the weight dequantized tile by tile into shared
//! memory, f32 sums.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{buffer, scale_span, scale_stride};
use crate::Granularity;
use crate::packing::words::words_per_row;

/// Which product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// `y [rows, d_out] = x [rows, d_in] · (scale·T)ᵀ`.
    Forward,
    /// `dx [rows, d_in] = dy [rows, d_out] · (scale·T)`.
    Backward,
}

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Units along each side of a cube: 16 or, on small devices, 8.
    pub side: usize,
    /// Which product.
    pub direction: Direction,
}

/// Contracted elements of one step: the columns of a word.
const STEP: usize = 16;
/// Outputs per unit along each side.
const TILE: usize = 4;

/// Multiplies `a` with the packed weight `[d_out, d_in]`; `a` and `y` have element type `dtype`.
#[allow(clippy::too_many_arguments, reason = "one buffer or dimension each")]
pub fn launch(
    client: &Client,
    direction: Direction,
    a: &Handle,
    codes: &Handle,
    scale: &Handle,
    y: &Handle,
    (rows, d_out, d_in): (usize, usize, usize),
    granularity: Granularity,
    dtype: ElemType,
) {
    let (contracted, outs) = match direction {
        Direction::Forward => (d_in, d_out),
        Direction::Backward => (d_out, d_in),
    };
    let side = if client.properties().hardware.max_units_per_cube >= 256 {
        16
    } else {
        8
    };
    let plan = Blueprint { side, direction };
    let span = side * TILE;
    ternary_float::launch(
        client,
        CubeCount::Static(outs.div_ceil(span) as u32, rows.div_ceil(span) as u32, 1),
        CubeDim::new_2d(side as u32, side as u32),
        buffer(a, rows * contracted),
        buffer(codes, d_out * words_per_row(d_in)),
        buffer(scale, granularity.count(d_out, d_in)),
        buffer(y, rows * outs),
        rows as u32,
        d_out as u32,
        d_in as u32,
        words_per_row(d_in) as u32,
        scale_span(granularity, d_in) as u32,
        scale_stride(granularity, d_in) as u32,
        plan,
        dtype,
    );
}

#[cube(launch)]
pub(crate) fn ternary_float<F: Float>(
    a: &[F],       // [rows, contracted]
    codes: &[u32], // [d_out, words]
    scale: &[f32],
    y: &mut [F], // [rows, outs]
    rows: u32,
    d_out: u32,
    d_in: u32,
    words: u32,
    scale_span: u32,   // columns per scale
    scale_stride: u32, // scales per row, 0 for one scale in all
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let side = comptime!(plan.side);
    let span = comptime!(side * TILE);
    let units = comptime!(side * side);
    let forward = comptime!(plan.direction == Direction::Forward);
    let (rows, d_out, d_in, words) = (rows as usize, d_out as usize, d_in as usize, words as usize);
    let contracted = if comptime!(forward) { d_in } else { d_out };
    let outs = if comptime!(forward) { d_out } else { d_in };
    let unit = UNIT_POS as usize;
    let (ux, uy) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let first_row = CUBE_POS_Y as usize * span;
    let first_out = CUBE_POS_X as usize * span;

    let mut staged_a = Shared::<[f32]>::new_slice(comptime!(span * (STEP + 1)));
    let mut staged_w = Shared::<[f32]>::new_slice(comptime!(STEP * (span + 1)));
    let mut sums = Array::<f32>::new(comptime!(TILE * TILE));
    #[unroll]
    for i in 0..comptime!(TILE * TILE) {
        sums[i] = f32::new(0.0_f32);
    }

    let steps = contracted.div_ceil(STEP);
    for step in 0..steps {
        let start = step * STEP;
        #[unroll]
        for i in 0..comptime!(span * STEP / units) {
            let at = unit + i * units;
            let row = first_row + at / STEP;
            let k = start + at % STEP;
            let inside = row < rows && k < contracted;
            let index = select(inside, row * contracted + k, 0usize);
            let value = select(inside, f32::cast_from(a[index]), f32::new(0.0_f32));
            staged_a[(at / STEP) * (STEP + 1) + at % STEP] = value;
        }
        // span·STEP weights in fours: four codes of one word, which are four columns of one row.
        #[unroll]
        for i in 0..comptime!(span * STEP / 4 / units) {
            let at = unit + i * units;
            let plane = at % 4;
            // Forward: `span` rows x one word. Backward: `STEP` rows x `span / 16` words.
            let local_row = if comptime!(forward) {
                at / 4
            } else {
                at / (span / 4)
            };
            let local_column = if comptime!(forward) {
                plane * 4
            } else {
                (at % (span / 4)) * 4
            };
            let row = if comptime!(forward) {
                first_out + local_row
            } else {
                start + local_row
            };
            let column = if comptime!(forward) {
                start + local_column
            } else {
                first_out + local_column
            };
            let inside = row < d_out && column < d_in;
            let word = codes[select(inside, row * words + column / 16, 0usize)];
            let four = (word >> u32::cast_from((column / 4) % 4 * 2)) & 0x0303_0303u32;
            // Four columns from a multiple of four share a scale.
            let factor_at = row * scale_stride as usize + column / scale_span as usize;
            let factor = scale[select(inside, factor_at, 0usize)];
            #[unroll]
            for j in 0..4usize {
                let code = i32::cast_from((four >> (8u32 * j as u32)) & 3u32);
                let weight = f32::cast_from(code - 1i32) * factor;
                let weight = select(inside && column + j < d_in, weight, f32::new(0.0_f32));
                if comptime!(forward) {
                    staged_w[(local_column + j) * (span + 1) + local_row] = weight;
                } else {
                    staged_w[local_row * (span + 1) + local_column + j] = weight;
                }
            }
        }
        sync_cube();
        #[unroll]
        for k in 0..STEP {
            let mut column = Array::<f32>::new(TILE);
            #[unroll]
            for t in 0..TILE {
                column[t] = staged_w[k * (span + 1) + ux + t * side];
            }
            #[unroll]
            for r in 0..TILE {
                let value = staged_a[(uy + r * side) * (STEP + 1) + k];
                #[unroll]
                for t in 0..TILE {
                    sums[r * TILE + t] += value * column[t];
                }
            }
        }
        sync_cube();
    }

    #[unroll]
    for r in 0..TILE {
        let row = first_row + uy + r * side;
        #[unroll]
        for t in 0..TILE {
            let out = first_out + ux + t * side;
            if row < rows && out < outs {
                y[row * outs + out] = F::cast_from(sums[r * TILE + t]);
            }
        }
    }
}
