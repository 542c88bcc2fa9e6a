//! Decode: 1 to 8 rows of activations. The weight is read once, in 128-bit loads that are all issued before first use.
//!
//! `lanes` units share a row of the weight, each unit works on `tile` rows, and the partial sums meet by shuffles (or in
//! shared memory where planes cannot shuffle). Few loads per unit and many units beat the reverse until the card is full.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::arithmetic::{descale, dot_codes, sum_of, sum_of_lanes};
use super::quantize::Layout;
use super::{Capabilities, Operands, Problem, Refusal, Routine, buffer, cube_count};

/// See the module.
pub const ROUTINE: Routine = Routine {
    name: "gemv",
    layout: Layout::Planes,
    refuses: |problem, device| blueprint(problem, device).err(),
    launch: |client, problem, device, operands| {
        let blueprint = blueprint(problem, device).expect("a refused problem is not launched");
        launch(client, problem, &blueprint, operands);
    },
};

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Rows of activations.
    pub rows: usize,
    /// Units that share a row of the weight: a power of two.
    pub lanes: usize,
    /// Rows of the weight per unit.
    pub tile: usize,
    /// Slots of `lanes` units in a cube.
    pub slots: usize,
    /// 128-bit vectors that a unit loads before it uses the first.
    pub depth: usize,
    /// Whether the vectors of a row divide evenly among lanes and depth, so that no load needs a test.
    pub even: bool,
    /// Whether partial sums meet by shuffles.
    pub shuffle: bool,
    /// Whether a row has several scales.
    pub grouped: bool,
    /// Whether the device has packed 8-bit dot products.
    pub native_dot: bool,
}

/// Cubes of one plane that a processor holds at a time, with some to spare.
const CUBES_PER_PROCESSOR: usize = 24;
/// Most rows that this routine takes: beyond, the sums of a unit outgrow its registers.
pub const MAX_ROWS: usize = 8;

/// Plans a launch, or says why not.
///
/// # Errors
///
/// A [`Refusal`] for more than [`MAX_ROWS`] rows.
pub fn blueprint(problem: &Problem, device: &Capabilities) -> Result<Blueprint, Refusal> {
    if problem.rows > MAX_ROWS {
        return Err(Refusal(format!(
            "gemv takes at most {MAX_ROWS} rows of activations, not {}",
            problem.rows
        )));
    }
    let vectors = problem.words() / 4;
    let widest = if device.plane > 0 {
        device.plane.min(32) as usize
    } else {
        32
    };
    let most_cubes = CUBES_PER_PROCESSOR * device.processors as usize;
    // Emulated dot products are long: one shape and short bodies keep the run-time compiler quick.
    let (lanes, tile, depth) = if device.native_dot {
        let lanes_for = |loads| {
            let fitting = [8, 16, 32]
                .into_iter()
                .find(|&lanes| vectors.div_ceil(lanes) <= loads);
            fitting.unwrap_or(32).min(widest)
        };
        // Few weight rows: more lanes rather than more loads per unit. Many: the other way round, and two rows per
        // unit, so that each vector of activations serves both. What `--sweep` of the GPU bench found on an H200.
        let many = problem.d_out * lanes_for(4) / 32 > most_cubes;
        let (lanes, tile) = if many {
            (lanes_for(if problem.rows > 2 { 4 } else { 7 }), 2)
        } else {
            (lanes_for(4), 1)
        };
        (
            lanes,
            tile,
            vectors
                .div_ceil(lanes)
                .min(if problem.rows > 2 { 4 } else { 8 }),
        )
    } else {
        (16.min(widest), 1, 1)
    };
    // One plane per cube spreads best, while a processor can hold its share of the cubes.
    let mut units = 32.max(lanes);
    while problem.d_out.div_ceil(tile) * lanes / units > most_cubes {
        units *= 2;
    }
    let slots = (units / lanes)
        .min(device.max_units as usize / lanes)
        .min(32);
    Ok(Blueprint {
        rows: problem.rows,
        lanes,
        tile,
        slots,
        depth,
        even: vectors.is_multiple_of(lanes * depth),
        shuffle: device.plane > 0,
        grouped: problem.group() > 0,
        native_dot: device.native_dot,
    })
}

/// Launches a plan.
pub fn launch(client: &Client, problem: &Problem, plan: &Blueprint, operands: &Operands) {
    let words = problem.words();
    let cubes = problem.d_out.div_ceil(plan.slots * plan.tile);
    // SAFETY: the kernel clamps each index to the buffer lengths given here.
    #[allow(unsafe_code)]
    unsafe {
        ternary_gemv::launch_unchecked(
            client,
            cube_count(cubes),
            CubeDim::new_2d(plan.lanes as u32, plan.slots as u32),
            4,
            buffer(&operands.codes, problem.d_out * words / 4),
            buffer(&operands.x.values, problem.rows * words),
            buffer(&operands.x.scale, problem.rows),
            buffer(&operands.x.sum, problem.rows),
            buffer(&operands.scale, problem.scales()),
            buffer(&operands.y, problem.rows * problem.d_out),
            problem.d_out as u32,
            (words / 4) as u32,
            problem.group() as u32,
            problem.scale_stride() as u32,
            *plan,
            problem.output,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn ternary_gemv<F: Float, V: Size>(
    codes: &[Vector<u32, V>], // [d_out, vectors]
    x: &[Vector<i32, V>],     // [rows, 4, vectors]
    x_scale: &[f32],          // [rows]
    x_sum: &[i32],            // [rows]
    scale: &[f32],
    y: &mut [F], // [rows, d_out]
    d_out: u32,
    vectors: u32,
    group: u32,        // columns per scale, if there are several
    scale_stride: u32, // scales per row, 0 for one scale in all
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = comptime!(plan.lanes);
    let tile = comptime!(plan.tile);
    let rows = comptime!(plan.rows);
    let depth = comptime!(plan.depth);
    let grouped = comptime!(plan.grouped);
    let native = comptime!(plan.native_dot);
    let sums = comptime!(tile * rows);

    let (d_out, scale_stride) = (d_out as usize, scale_stride as usize);
    let vectors = vectors as usize;
    let lane = UNIT_POS_X as usize;
    let first = (CUBE_POS * comptime!(plan.slots) + UNIT_POS_Y as usize) * tile;

    let mut acc = Array::<i32>::new(sums);
    let mut scaled = Array::<f32>::new(sums);
    #[unroll]
    for i in 0..sums {
        acc[i] = 0i32;
        scaled[i] = f32::new(0.0_f32);
    }

    // Everything the end needs is asked for at the beginning.
    let mut factors = Array::<f32>::new(tile);
    #[unroll]
    for t in 0..tile {
        factors[t] = scale[min_index(first + t, d_out - 1) * scale_stride];
    }
    let mut x_scales = Array::<f32>::new(rows);
    let mut x_sums = Array::<i32>::new(rows);
    #[unroll]
    for r in 0..rows {
        x_scales[r] = x_scale[r];
        x_sums[r] = x_sum[r];
    }

    let mut start = lane;
    while start < vectors {
        let mut loaded = Array::<Vector<u32, V>>::new(comptime!(tile * depth));
        #[unroll]
        for step in 0..depth {
            let at = start + step * lanes;
            let at = if comptime!(plan.even) {
                at
            } else {
                min_index(at, vectors - 1)
            };
            #[unroll]
            for t in 0..tile {
                let row = min_index(first + t, d_out - 1);
                loaded[step * tile + t] = codes[row * vectors + at];
            }
        }
        // Activations of a single row fit the registers: ask for them before the first weight arrives.
        let ahead = comptime!(rows == 1 && depth <= 8 && native);
        let mut fours = Array::<Vector<i32, V>>::new(comptime!(if ahead { 4 * depth } else { 1 }));
        if comptime!(ahead) {
            #[unroll]
            for step in 0..depth {
                let at = start + step * lanes;
                let at = if comptime!(plan.even) {
                    at
                } else {
                    min_index(at, vectors - 1)
                };
                #[unroll]
                for q in 0..4usize {
                    fours[step * 4 + q] = x[q * vectors + at];
                }
            }
        }
        #[unroll]
        for step in 0..depth {
            let at = start + step * lanes;
            let inside = at < vectors;
            let at = if comptime!(plan.even) {
                at
            } else {
                min_index(at, vectors - 1)
            };
            #[unroll]
            for q in 0..4usize {
                #[unroll]
                for r in 0..rows {
                    let mut four = if comptime!(ahead) {
                        fours[step * 4 + q]
                    } else {
                        x[(r * 4 + q) * vectors + at]
                    };
                    if comptime!(!plan.even) {
                        four = select(inside, four, Vector::new(0i32));
                    }
                    #[unroll]
                    for t in 0..tile {
                        let word = loaded[step * tile + t].extract(q);
                        if comptime!(!grouped) {
                            acc[t * rows + r] = dot_codes(word, four, acc[t * rows + r], native);
                        } else {
                            let sum = dot_codes(word, four, 0i32, native) - sum_of(four, native);
                            acc[t * rows + r] += sum;
                        }
                    }
                }
                // Groups are multiples of 32 columns, so a scale may change after every second word.
                if comptime!(grouped && q % 2 == 1) {
                    let which = min_index((at * 64 + q * 16) / group as usize, scale_stride - 1);
                    #[unroll]
                    for t in 0..tile {
                        let row = min_index(first + t, d_out - 1);
                        let factor = scale[row * scale_stride + which];
                        #[unroll]
                        for r in 0..rows {
                            scaled[t * rows + r] += f32::cast_from(acc[t * rows + r]) * factor;
                            acc[t * rows + r] = 0i32;
                        }
                    }
                }
            }
        }
        start += depth * lanes;
    }

    #[unroll]
    for t in 0..tile {
        #[unroll]
        for r in 0..rows {
            let at = t * rows + r;
            let row = first + t;
            if comptime!(!grouped) {
                let total = sum_of_lanes::<i32>(acc[at], lanes, plan.slots, plan.shuffle);
                if lane == 0 && row < d_out {
                    y[r * d_out + row] =
                        F::cast_from(descale(total - x_sums[r], x_scales[r]) * factors[t]);
                }
            } else {
                let total = sum_of_lanes::<f32>(scaled[at], lanes, plan.slots, plan.shuffle);
                if lane == 0 && row < d_out {
                    y[r * d_out + row] = F::cast_from(total / x_scales[r]);
                }
            }
        }
    }
}

#[cube]
fn min_index(index: usize, last: usize) -> usize {
    select(index < last, index, last)
}
