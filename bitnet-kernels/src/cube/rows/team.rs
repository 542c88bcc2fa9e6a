//! Who takes a row: a team of units, or a whole cube where rows are long or few.
//!
//! Units take spans of neighbouring columns in turns and hold them as f32, so that a row is read from memory once; what is
//! too long to be held goes by in blocks, once for each pass. Teams that shuffle meet without barriers.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::Blueprint;
use crate::cube::arithmetic::{largest_of_lanes, last_of, sum_of_lanes};
use crate::cube::{Capabilities, cube_count};

/// The decisions about one kind of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Team {
    /// Units of a team and teams of a cube.
    pub plan: Blueprint,
    /// Whether the teams of a cube take one row together.
    pub whole: bool,
    /// Numbers of one load.
    pub vector: usize,
    /// Columns that a unit takes in a turn, in one or more loads.
    pub span: usize,
    /// Turns whose columns a unit holds.
    pub turns: usize,
    /// Whether those are all columns of a row.
    pub once: bool,
}

/// Numbers of the widest load, of 16 bytes at most, that divides rows of `columns`.
pub fn vector(client: &Client, columns: usize, dtype: ElemType) -> usize {
    let most = (16 / dtype.size()).min(client.properties().hardware.max_vector_size);
    1 << columns.trailing_zeros().min(most.ilog2())
}

impl Team {
    /// A team for rows of `columns`, each unit of which holds up to `most` numbers of a row; the same for any number of rows,
    /// so that sums have one order.
    pub fn of(
        device: &Capabilities,
        columns: usize,
        vector: usize,
        span: usize,
        most: usize,
    ) -> Self {
        let plan = Blueprint::of(device);
        let whole = columns.div_ceil(span * plan.lanes) * span > most;
        let team = Self {
            plan,
            whole,
            vector,
            span,
            turns: (most / span).max(1),
            once: false,
        };
        if team.block() < columns {
            team
        } else {
            team.holding(columns)
        }
    }

    /// The team for `rows` rows whose sums are the same in any order: a whole cube for each of few.
    pub fn of_few(self, rows: usize, columns: usize, device: &Capabilities) -> Self {
        if self.whole || rows >= device.processors as usize {
            return self;
        }
        let whole = Self {
            whole: true,
            ..self
        };
        whole.holding(columns)
    }

    /// The same with units that hold all of a row of `columns`, however long.
    pub const fn holding(self, columns: usize) -> Self {
        Self {
            turns: columns.div_ceil(self.span * self.units()),
            once: true,
            ..self
        }
    }

    /// Units that take a row.
    pub const fn units(&self) -> usize {
        if self.whole {
            self.plan.units()
        } else {
            self.plan.lanes
        }
    }

    /// Rows that a cube takes at a time.
    pub const fn rows(&self) -> usize {
        if self.whole { 1 } else { self.plan.slots }
    }

    /// Numbers that a unit holds.
    pub const fn held(&self) -> usize {
        self.turns * self.span
    }

    /// Columns that all units hold.
    pub const fn block(&self) -> usize {
        self.held() * self.units()
    }

    /// Cubes for `rows` rows.
    pub fn cubes(&self, rows: usize) -> CubeCount {
        cube_count(rows.div_ceil(self.rows()))
    }
}

/// The row of this unit. Teams beyond the last row do it once more: all units of a cube meet in sums.
#[cube]
pub(crate) fn row_of(rows: usize, #[comptime] team: Team) -> usize {
    if comptime!(team.whole) {
        last_of(CUBE_POS, rows)
    } else {
        last_of(
            CUBE_POS * comptime!(team.plan.slots) + UNIT_POS_Y as usize,
            rows,
        )
    }
}

/// The place of this unit among those that take its row.
#[cube]
pub(crate) fn unit_of(#[comptime] team: Team) -> usize {
    if comptime!(team.whole) {
        UNIT_POS as usize
    } else {
        UNIT_POS_X as usize
    }
}

/// The first column of turn `turn` of the block that begins at column `block`.
#[cube]
pub(crate) fn column_of(block: usize, #[comptime] turn: usize, #[comptime] team: Team) -> usize {
    block + unit_of(team) * comptime!(team.span) + comptime!(turn * team.units() * team.span)
}

/// Loads this unit's columns of a block, 0 from column `end` on, to the next multiple of a load. The row begins at `first`.
#[cube]
pub(crate) fn load_block<F: Float, V: Size>(
    from: &[Vector<F, V>],
    held: &mut Array<f32>,
    first: usize,
    block: usize,
    end: usize,
    #[comptime] team: Team,
) {
    let vector = comptime!(team.vector);
    #[unroll]
    for turn in 0..comptime!(team.turns) {
        #[unroll]
        for part in 0..comptime!(team.span / team.vector) {
            let column = column_of(block, turn, team) + comptime!(part * vector);
            // No branch, so that all loads are under way before the first is used.
            let inside = column < end;
            let loaded = from[(first + select(inside, column, 0usize)) / vector];
            #[unroll]
            for j in 0..vector {
                held[comptime!(turn * team.span + part * vector + j)] =
                    select(inside, f32::cast_from(loaded.extract(j)), f32::new(0.0_f32));
            }
        }
    }
}

/// Sum over the units that take a row, for each of them.
#[cube]
pub(crate) fn sum_of_row<T: Numeric>(value: T, #[comptime] team: Team) -> T {
    let plan = comptime!(team.plan);
    let sum = sum_of_lanes::<T>(value, plan.lanes, plan.slots, plan.shuffle);
    if comptime!(team.whole) {
        let sums = of_teams::<T>(sum, plan.slots);
        let mut sum = sums[0];
        #[unroll]
        for slot in 1..comptime!(plan.slots) {
            sum += sums[slot];
        }
        sum
    } else {
        sum
    }
}

/// The largest number of the units that take a row, for each of them.
#[cube]
pub(crate) fn largest_of_row<T: Numeric>(value: T, #[comptime] team: Team) -> T {
    let plan = comptime!(team.plan);
    let largest = largest_of_lanes::<T>(value, plan.lanes, plan.slots, plan.shuffle);
    if comptime!(team.whole) {
        let all = of_teams::<T>(largest, plan.slots);
        let mut largest = all[0];
        #[unroll]
        for slot in 1..comptime!(plan.slots) {
            largest = select(all[slot] > largest, all[slot], largest);
        }
        largest
    } else {
        largest
    }
}

/// One number of each team of a cube.
#[cube]
fn of_teams<T: Numeric>(value: T, #[comptime] slots: usize) -> Shared<[T]> {
    let mut all = Shared::<[T]>::new_slice(slots);
    sync_cube();
    if UNIT_POS_X == 0 {
        all[UNIT_POS_Y as usize] = value;
    }
    sync_cube();
    all
}
