//! Prefill on any device: a tile of outputs per cube, staged through shared memory, 8-bit dot products.
//!
//! A cube of 16 x 16 units computes 64 tokens x 64 weight rows in steps of 64 columns. Weights stay packed in shared
//! memory (2 bits) and are unpacked in registers, where each word serves four tokens.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::arithmetic::{descale, dot_codes, last_of, sum_of};
use super::quantize::Layout;
use super::{Capabilities, Operands, Problem, Refusal, Routine, buffer};

/// See the module.
pub const ROUTINE: Routine = Routine {
    name: "gemm",
    layout: Layout::Rows,
    refuses: |problem, device| blueprint(problem, device).err(),
    launch: |client, problem, device, operands| {
        let blueprint = blueprint(problem, device).expect("a refused problem is not launched");
        launch(client, problem, &blueprint, operands);
    },
};

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Units along each side of a cube.
    pub side: usize,
    /// Whether a row has several scales.
    pub grouped: bool,
    /// Whether the device has packed 8-bit dot products.
    pub native_dot: bool,
}

/// Outputs per unit along each side.
const TILE: usize = 4;
/// Row stride of the staged activations in 128-bit vectors: four, and one against bank conflicts.
const STRIDE: usize = 5;

/// Plans a launch. Takes any problem on any device that allows 64 units in a cube, which WebGPU guarantees.
///
/// # Errors
///
/// None so far.
pub fn blueprint(problem: &Problem, device: &Capabilities) -> Result<Blueprint, Refusal> {
    Ok(Blueprint {
        side: if device.max_units >= 256 { 16 } else { 8 },
        grouped: problem.group() > 0,
        native_dot: device.native_dot,
    })
}

/// Launches a plan.
pub fn launch(client: &Client, problem: &Problem, plan: &Blueprint, operands: &Operands) {
    let words = problem.words();
    let span = plan.side * TILE;
    let count = CubeCount::Static(
        problem.d_out.div_ceil(span) as u32,
        problem.rows.div_ceil(span) as u32,
        1,
    );
    ternary_gemm::launch(
        client,
        count,
        CubeDim::new_2d(plan.side as u32, plan.side as u32),
        4,
        buffer(&operands.codes, problem.d_out * words / 4),
        buffer(&operands.x.values, problem.rows * words),
        buffer(&operands.x.scale, problem.rows),
        buffer(&operands.x.sum, problem.rows),
        buffer(&operands.scale, problem.scales()),
        buffer(&operands.y, problem.rows * problem.d_out),
        problem.rows as u32,
        problem.d_out as u32,
        (words / 4) as u32,
        problem.group() as u32,
        problem.scale_stride() as u32,
        *plan,
        problem.output,
    );
}

#[cube(launch)]
pub(crate) fn ternary_gemm<F: Float, V: Size>(
    codes: &[Vector<u32, V>], // [d_out, vectors]
    x: &[Vector<i32, V>],     // [rows, 4·vectors]
    x_scale: &[f32],          // [rows]
    x_sum: &[i32],            // [rows]
    scale: &[f32],
    y: &mut [F], // [rows, d_out]
    rows: u32,
    d_out: u32,
    vectors: u32,
    group: u32,        // columns per scale, if there are several
    scale_stride: u32, // scales per row, 0 for one scale in all
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let side = comptime!(plan.side);
    let span = comptime!(side * TILE);
    let grouped = comptime!(plan.grouped);
    let native = comptime!(plan.native_dot);
    let scale_stride = scale_stride as usize;
    let (rows, d_out, vectors) = (rows as usize, d_out as usize, vectors as usize);
    let unit = UNIT_POS as usize;
    let (ux, uy) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let first_row = CUBE_POS_Y as usize * span;
    let first_out = CUBE_POS_X as usize * span;

    let mut staged_x = Shared::<[Vector<i32, V>]>::new_slice(comptime!(span * STRIDE));
    let mut staged_w = Shared::<[Vector<u32, V>]>::new_slice(span);
    let mut acc = Array::<i32>::new(comptime!(TILE * TILE));
    let mut scaled = Array::<f32>::new(comptime!(TILE * TILE));
    #[unroll]
    for i in 0..comptime!(TILE * TILE) {
        acc[i] = 0i32;
        scaled[i] = f32::new(0.0_f32);
    }

    for vector in 0..vectors {
        // 4·span vectors of activations and `span` of codes, by side² units.
        #[unroll]
        for i in 0..comptime!(4 * TILE / side) {
            let at = unit + i * side * side;
            let row = last_of(first_row + at / 4, rows);
            staged_x[(at / 4) * STRIDE + at % 4] = x[(row * vectors + vector) * 4 + at % 4];
        }
        if unit < span {
            let row = last_of(first_out + unit, d_out);
            staged_w[unit] = codes[row * vectors + vector];
        }
        sync_cube();
        #[unroll]
        for q in 0..4usize {
            let mut fours = Array::<Vector<i32, V>>::new(TILE);
            #[unroll]
            for r in 0..TILE {
                fours[r] = staged_x[(uy + r * side) * STRIDE + q];
            }
            #[unroll]
            for t in 0..TILE {
                let word = staged_w[ux + t * side].extract(q);
                #[unroll]
                for r in 0..TILE {
                    acc[t * TILE + r] = dot_codes(word, fours[r], acc[t * TILE + r], native);
                }
            }
            if comptime!(grouped) {
                #[unroll]
                for r in 0..TILE {
                    let ones = sum_of(fours[r], native);
                    #[unroll]
                    for t in 0..TILE {
                        acc[t * TILE + r] -= ones;
                    }
                }
            }
            // Groups are multiples of 32 columns, so a scale may change after every second word.
            if comptime!(grouped && q % 2 == 1) {
                let which = last_of((vector * 64 + q * 16) / group as usize, scale_stride);
                #[unroll]
                for t in 0..TILE {
                    let row = last_of(first_out + ux + t * side, d_out);
                    let factor = scale[row * scale_stride + which];
                    #[unroll]
                    for r in 0..TILE {
                        scaled[t * TILE + r] += f32::cast_from(acc[t * TILE + r]) * factor;
                        acc[t * TILE + r] = 0i32;
                    }
                }
            }
        }
        sync_cube();
    }

    #[unroll]
    for r in 0..TILE {
        let row = first_row + uy + r * side;
        if row < rows {
            #[unroll]
            for t in 0..TILE {
                let out = first_out + ux + t * side;
                if out < d_out {
                    let value = if comptime!(grouped) {
                        scaled[t * TILE + r] / x_scale[row]
                    } else {
                        let factor = scale[out * scale_stride];
                        descale(acc[t * TILE + r] - x_sum[row], x_scale[row]) * factor
                    };
                    y[row * d_out + out] = F::cast_from(value);
                }
            }
        }
    }
}
