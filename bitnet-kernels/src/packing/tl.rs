//! TL1 and TL2 of bitnet.cpp (GGUF types 38 and 39): indices for its lookup kernels, in the order of their tiles.
//!
//! The tile sizes belong to the build that wrote the file and are not in it. So these layouts are read only, and only
//! for tiles that the caller gives or that [`PRESETS`] knows for the shape. `w0, w1, ..` are consecutive trits of a row.
//! Refused with the position of their first column: pair indices above 8 and triple indices above 13. The sign bit of
//! triple 0 is accepted and means nothing.

use super::{Layout, Unpacked, check_dimensions, check_len, check_shape, scales};
use crate::{KernelError, Scale};

/// Tile sizes of one shape, as in a `kernel_config.ini`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// `bm`: rows per tile.
    pub rows: usize,
    /// `bk`: columns per tile.
    pub columns: usize,
    /// `bmm`: rows per sub-tile; a sub-tile of TL1 has 256 / `bmm` columns, and TL2 has `bmm` 32.
    pub sub_rows: usize,
}

/// The tiles of one shape.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Rows of the matrix.
    pub d_out: usize,
    /// Columns of the matrix.
    pub d_in: usize,
    /// Tiles of TL1.
    pub tl1: Tiles,
    /// Tiles of TL2.
    pub tl2: Tiles,
}

/// Known tiles: those of bitnet.cpp's setup script for bitnet_b1_58-large and bitnet_b1_58-3B.
///
/// Absent on purpose: the Llama-3 8B shapes, for which the reference ships two different sets.
pub static PRESETS: &[Preset] = &[
    preset([1536, 4096], [256, 128, 32], [256, 96, 32]),
    preset([1536, 1536], [128, 64, 64], [128, 192, 32]),
    preset([4096, 1536], [256, 128, 32], [256, 96, 32]),
    preset([3200, 8640], [160, 64, 32], [160, 96, 32]),
    preset([3200, 3200], [320, 128, 64], [320, 96, 32]),
    preset([8640, 3200], [320, 64, 32], [320, 96, 32]),
];

const fn preset([d_out, d_in]: [usize; 2], tl1: [usize; 3], tl2: [usize; 3]) -> Preset {
    Preset {
        d_out,
        d_in,
        tl1: tiles(tl1),
        tl2: tiles(tl2),
    }
}

const fn tiles([rows, columns, sub_rows]: [usize; 3]) -> Tiles {
    Tiles {
        rows,
        columns,
        sub_rows,
    }
}

/// Pairs of trits in four bits, `3·w0 + w1 + 4`; two pairs of a row per byte, the first in the high half.
///
/// As large as I2_S: `d_out·d_in / 4` bytes, the f32 scale, padding to 32 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Tl1 {
    /// Tile sizes; without them those of [`PRESETS`].
    pub tiles: Option<Tiles>,
}

/// Triples of trits in four bits and a sign, `v = 9·w0 + 3·w1 + w2`, and pairs for the columns after the last tile.
///
/// Three planes: indices `|v|`, signs, pairs; then zeros up to the f32 scale in the last 32 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Tl2 {
    /// Tile sizes; without them those of [`PRESETS`].
    pub tiles: Option<Tiles>,
}

impl Layout for Tl1 {
    fn name(&self) -> &'static str {
        "tl1"
    }

    fn byte_len(&self, d_out: usize, d_in: usize) -> Result<usize, KernelError> {
        check_dimensions(d_out, d_in)?;
        let rule = "d_in must be a multiple of 4";
        check_shape(self.name(), d_out, d_in, d_in.is_multiple_of(4), rule)?;
        Ok(d_out * d_in / 4 + TAIL)
    }

    fn unpack(&self, bytes: &[u8], d_out: usize, d_in: usize) -> Result<Unpacked, KernelError> {
        check_len(self, bytes, d_out, d_in)?;
        let Tiles {
            rows,
            columns,
            sub_rows,
        } = match self.tiles {
            Some(tiles) => tiles,
            None => known(self.name(), d_out, d_in)?.tl1,
        };
        let sub_columns = 256_usize.checked_div(sub_rows).unwrap_or(0);
        let fits = d_out.is_multiple_of(rows)
            && rows.is_multiple_of(sub_rows)
            && d_in.is_multiple_of(columns)
            && columns.is_multiple_of(sub_columns)
            && [16, 32, 64].contains(&sub_rows);
        let rule =
            "tiles must divide it, and sub-tiles of 16, 32 or 64 rows and 256 weights the tiles";
        check_shape(self.name(), d_out, d_in, fits, rule)?;

        let mut trits = vec![0; d_out * d_in];
        for (row, trits) in trits.chunks_exact_mut(d_in).enumerate() {
            for (i, four) in trits.chunks_exact_mut(4).enumerate() {
                let column = 4 * i;
                let at = nest(&[
                    (row / rows, d_out / rows),
                    (column / columns, d_in / columns),
                    (row % rows / sub_rows, rows / sub_rows),
                    (column % columns / sub_columns, columns / sub_columns),
                    (row % sub_rows / 16, sub_rows / 16),
                    (column % sub_columns / 4, sub_columns / 4),
                    (row % 16, 16),
                ]);
                read_pairs(self.name(), bytes[at], four, row, column)?;
            }
        }
        let scale = scales::read_tensor(self.name(), bytes, trits.len() / 4)?;
        Ok(Unpacked {
            trits,
            scale: Some(scale),
        })
    }

    fn pack(&self, _: &[i8], _: &Scale, _: usize, _: usize) -> Result<Vec<u8>, KernelError> {
        Err(KernelError::ReadOnly {
            layout: self.name(),
            reason: REASON,
        })
    }
}

impl Layout for Tl2 {
    fn name(&self) -> &'static str {
        "tl2"
    }

    fn byte_len(&self, d_out: usize, d_in: usize) -> Result<usize, KernelError> {
        check_dimensions(d_out, d_in)?;
        check_shape(
            self.name(),
            d_out,
            d_in,
            d_in >= 256,
            "d_in must be at least 256",
        )?;
        // The reference reserves as if 256 columns were pairs, dividing in this order.
        let data = (d_in - 256) * d_out / 3 * 5 / 8 + 256 * d_out / 2 * 4 / 8;
        Ok(data.next_multiple_of(32) + TAIL)
    }

    fn unpack(&self, bytes: &[u8], d_out: usize, d_in: usize) -> Result<Unpacked, KernelError> {
        check_len(self, bytes, d_out, d_in)?;
        let Tiles {
            rows,
            columns,
            sub_rows,
        } = match self.tiles {
            Some(tiles) => tiles,
            None => known(self.name(), d_out, d_in)?.tl2,
        };
        let in_threes = d_in - d_in.checked_rem(columns).unwrap_or(0);
        let in_pairs = d_in - in_threes;
        let fits = sub_rows == 32
            && rows.is_multiple_of(32)
            && d_out.is_multiple_of(rows)
            && columns.is_multiple_of(24)
            && in_pairs.is_multiple_of(32)
            && in_pairs <= 256;
        let rule = "tiles of 32·n rows and 24·n columns must divide it, but for at most 256 columns, a multiple of 32";
        check_shape(self.name(), d_out, d_in, fits && columns > 0, rule)?;

        let (indices, rest) = bytes.split_at(d_out * in_threes / 6);
        let (signs, pairs) = rest.split_at(d_out * in_threes / 24);
        let mut trits = vec![0; d_out * d_in];
        for (row, trits) in trits.chunks_exact_mut(d_in).enumerate() {
            let row_tile = (row / rows, d_out / rows);
            let sub_tile = (row % rows / 32, rows / 32);
            let (threes, twos) = trits.split_at_mut(in_threes);
            for (i, triple) in threes.chunks_exact_mut(3).enumerate() {
                let column = 3 * i;
                let column_tile = (column / columns, in_threes / columns);
                let group = (column % columns / 6, columns / 6);
                let at = nest(&[row_tile, column_tile, sub_tile, group, (lane(row % 32), 32)]);
                let index = if i % 2 == 0 {
                    indices[at] >> 4
                } else {
                    indices[at] & 15
                };
                if index > 13 {
                    return Err(KernelError::Code {
                        layout: self.name(),
                        row,
                        column,
                        code: index,
                    });
                }
                let group = (column % columns / 24, columns / 24);
                let at = 2 * nest(&[row_tile, column_tile, sub_tile, group, (row % 16, 16)]);
                let word = u16::from_le_bytes([signs[at], signs[at + 1]]);
                let negative = word >> (15 - (i % 8 * 2 + row % 32 / 16)) & 1 == 1;
                digits(if negative { 13 - index } else { 13 + index }, triple);
            }
            for (i, four) in twos.chunks_exact_mut(4).enumerate() {
                let column_tile = (i / 8, in_pairs / 32);
                let at = nest(&[
                    row_tile,
                    column_tile,
                    sub_tile,
                    (i % 8, 8),
                    (lane(row % 32), 32),
                ]);
                read_pairs(self.name(), pairs[at], four, row, in_threes + 4 * i)?;
            }
        }
        let scale = scales::read_tensor(self.name(), bytes, bytes.len() - TAIL)?;
        Ok(Unpacked {
            trits,
            scale: Some(scale),
        })
    }

    fn pack(&self, _: &[i8], _: &Scale, _: usize, _: usize) -> Result<Vec<u8>, KernelError> {
        Err(KernelError::ReadOnly {
            layout: self.name(),
            reason: REASON,
        })
    }
}

/// Bytes from the scale to the end.
const TAIL: usize = 32;
const REASON: &str =
    "its tile sizes are those of one build and not in the file. Write i2_s instead";

/// The preset for a shape.
fn known(layout: &'static str, d_out: usize, d_in: usize) -> Result<&'static Preset, KernelError> {
    let preset = PRESETS
        .iter()
        .find(|preset| (preset.d_out, preset.d_in) == (d_out, d_in));
    preset.ok_or(KernelError::NoTiles {
        layout,
        d_out,
        d_in,
    })
}

/// Position of the innermost item in nested loops, given as (index, count) from the outermost in.
fn nest(loops: &[(usize, usize)]) -> usize {
    loops
        .iter()
        .fold(0, |at, &(index, count)| at * count + index)
}

/// Byte of a row among 32: rows 0..7, 16..23, 8..15, 24..31 follow each other.
const fn lane(row: usize) -> usize {
    match row / 8 {
        1 => row + 8,
        2 => row - 8,
        _ => row,
    }
}

/// Writes the base-3 digits of `n`, most significant first, as trits.
fn digits(mut n: u8, trits: &mut [i8]) {
    for trit in trits.iter_mut().rev() {
        *trit = (n % 3) as i8 - 1;
        n /= 3;
    }
}

/// Reads the two pairs of a byte.
fn read_pairs(
    layout: &'static str,
    byte: u8,
    trits: &mut [i8],
    row: usize,
    column: usize,
) -> Result<(), KernelError> {
    for (i, pair) in trits.chunks_exact_mut(2).enumerate() {
        let code = byte >> (4 - 4 * i) & 15;
        if code > 8 {
            return Err(KernelError::Code {
                layout,
                row,
                column: column + 2 * i,
                code,
            });
        }
        digits(code, pair);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trits without a short period, so that each misplaced byte shows.
    fn matrix(d_out: usize, d_in: usize) -> Vec<i8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % 3
        };
        (0..d_out * d_in).map(|_| next() as i8 - 1).collect()
    }

    fn pair(trits: &[i8], at: usize) -> u8 {
        (3 * trits[at] + trits[at + 1] + 4) as u8
    }

    fn four(trits: &[i8], at: usize) -> u8 {
        pair(trits, at) << 4 | pair(trits, at + 2)
    }

    /// The loops of the format description, emitting bytes in order.
    fn tile_tl1(trits: &[i8], d_out: usize, d_in: usize, tiles: Tiles) -> Vec<u8> {
        let Tiles {
            rows,
            columns,
            sub_rows,
        } = tiles;
        let sub_columns = 256 / sub_rows;
        let mut bytes = Vec::new();
        for row in (0..d_out).step_by(rows) {
            for column in (0..d_in).step_by(columns) {
                for row in (row..row + rows).step_by(sub_rows) {
                    for column in (column..column + columns).step_by(sub_columns) {
                        for row in (row..row + sub_rows).step_by(16) {
                            for column in (column..column + sub_columns).step_by(4) {
                                for row in row..row + 16 {
                                    bytes.push(four(trits, row * d_in + column));
                                }
                            }
                        }
                    }
                }
            }
        }
        bytes.extend(0.5_f32.to_le_bytes());
        bytes.extend([0; 28]);
        bytes
    }

    fn value(trits: &[i8], at: usize) -> i8 {
        9 * trits[at] + 3 * trits[at + 1] + trits[at + 2]
    }

    /// The three planes of the format description, one after the other.
    fn tile_tl2(trits: &[i8], d_out: usize, d_in: usize, tiles: Tiles) -> Vec<u8> {
        let Tiles { rows, columns, .. } = tiles;
        let in_threes = d_in / columns * columns;
        let order: Vec<usize> = (0..8).chain(16..24).chain(8..16).chain(24..32).collect();
        let sub_tiles = |first: usize, end: usize, width: usize| {
            let mut origins = Vec::new();
            for row in (0..d_out).step_by(rows) {
                for column in (first..end).step_by(width) {
                    for row in (row..row + rows).step_by(32) {
                        origins.push((row, column));
                    }
                }
            }
            origins
        };
        let mut bytes = Vec::new();
        for (row, column) in sub_tiles(0, in_threes, columns) {
            for column in (column..column + columns).step_by(6) {
                for lane in &order {
                    let at = (row + lane) * d_in + column;
                    let [high, low] = [at, at + 3].map(|at| value(trits, at).unsigned_abs());
                    bytes.push(high << 4 | low);
                }
            }
        }
        for (row, column) in sub_tiles(0, in_threes, columns) {
            for column in (column..column + columns).step_by(24) {
                for h in 0..16 {
                    let mut word = 0_u16;
                    for i in 0..16 {
                        let (triple, lane) = ((16 * i + h) / 32, (16 * i + h) % 32);
                        let at = (row + lane) * d_in + column + 3 * triple;
                        word |= u16::from(value(trits, at) < 0) << (15 - i);
                    }
                    bytes.extend(word.to_le_bytes());
                }
            }
        }
        for (row, column) in sub_tiles(in_threes, d_in, 32) {
            for column in (column..column + 32).step_by(4) {
                for lane in &order {
                    bytes.push(four(trits, (row + lane) * d_in + column));
                }
            }
        }
        let len = Tl2 { tiles: None }.byte_len(d_out, d_in).unwrap();
        bytes.resize(len - 32, 0);
        bytes.extend(0.5_f32.to_le_bytes());
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn tl1_comes_out_of_its_tiles() {
        for tiles in [tiles([64, 32, 16]), tiles([64, 16, 32]), tiles([64, 8, 64])] {
            let trits = matrix(128, 64);
            let bytes = tile_tl1(&trits, 128, 64, tiles);
            let unpacked = Tl1 { tiles: Some(tiles) }.unpack(&bytes, 128, 64).unwrap();
            assert_eq!(
                unpacked,
                Unpacked {
                    trits,
                    scale: Some(Scale::Tensor(0.5))
                }
            );
        }
    }

    #[test]
    fn tl2_comes_out_of_its_tiles_with_and_without_pairs() {
        for (d_in, tiles) in [
            (288, tiles([64, 48, 32])),
            (320, tiles([32, 96, 32])),
            (352, tiles([64, 144, 32])),
        ] {
            let trits = matrix(128, d_in);
            let bytes = tile_tl2(&trits, 128, d_in, tiles);
            let unpacked = Tl2 { tiles: Some(tiles) }
                .unpack(&bytes, 128, d_in)
                .unwrap();
            assert_eq!(
                unpacked,
                Unpacked {
                    trits,
                    scale: Some(Scale::Tensor(0.5))
                }
            );
        }
    }

    #[test]
    fn known_shapes_need_no_tiles_and_others_are_refused() {
        for &Preset {
            d_out,
            d_in,
            tl1,
            tl2,
        } in PRESETS
        {
            let trits = matrix(d_out, d_in);
            let bytes = tile_tl1(&trits, d_out, d_in, tl1);
            assert_eq!(
                Tl1 { tiles: None }
                    .unpack(&bytes, d_out, d_in)
                    .unwrap()
                    .trits,
                trits
            );
            let bytes = tile_tl2(&trits, d_out, d_in, tl2);
            assert_eq!(
                Tl2 { tiles: None }
                    .unpack(&bytes, d_out, d_in)
                    .unwrap()
                    .trits,
                trits
            );
        }
        let layouts: [&dyn Layout; 2] = [&Tl1 { tiles: None }, &Tl2 { tiles: None }];
        for layout in layouts {
            let bytes = vec![0; layout.byte_len(64, 256).unwrap()];
            let error = layout.unpack(&bytes, 64, 256).unwrap_err();
            assert_eq!(
                error,
                KernelError::NoTiles {
                    layout: layout.name(),
                    d_out: 64,
                    d_in: 256
                }
            );
        }
    }

    #[test]
    fn indices_beyond_the_last_are_refused_with_their_position() {
        let shape = tiles([16, 16, 16]);
        let mut bytes = tile_tl1(&[0; 16 * 16], 16, 16, shape);
        bytes[16 + 5] = 0x49;
        let error = Tl1 { tiles: Some(shape) }
            .unpack(&bytes, 16, 16)
            .unwrap_err();
        assert_eq!(
            error,
            KernelError::Code {
                layout: "tl1",
                row: 5,
                column: 6,
                code: 9
            }
        );

        let shape = tiles([32, 48, 32]);
        let mut bytes = tile_tl2(&[0; 32 * 288], 32, 288, shape);
        bytes[32 + 8] = 0x0e;
        let error = Tl2 { tiles: Some(shape) }
            .unpack(&bytes, 32, 288)
            .unwrap_err();
        assert_eq!(
            error,
            KernelError::Code {
                layout: "tl2",
                row: 16,
                column: 9,
                code: 14
            }
        );
    }

    #[test]
    fn the_sign_of_a_zero_triple_means_nothing() {
        let shape = tiles([32, 48, 32]);
        let mut bytes = tile_tl2(&[0; 32 * 288], 32, 288, shape);
        bytes[32 * 288 / 6..][..32 * 288 / 24].fill(0xff);
        let unpacked = Tl2 { tiles: Some(shape) }.unpack(&bytes, 32, 288).unwrap();
        assert_eq!(unpacked.trits, [0; 32 * 288]);
    }

    #[test]
    fn tiles_that_do_not_divide_the_shape_are_refused() {
        let refuse = |layout: &dyn Layout, d_in| {
            let bytes = vec![0; layout.byte_len(64, d_in).unwrap()];
            let refused = layout.unpack(&bytes, 64, d_in);
            assert!(
                matches!(refused, Err(KernelError::Shape { .. })),
                "{layout:?}"
            );
        };
        for sizes in [
            [0, 0, 0],
            [48, 32, 16],
            [64, 24, 32],
            [64, 16, 1],
            [64, 1, 512],
        ] {
            refuse(
                &Tl1 {
                    tiles: Some(tiles(sizes)),
                },
                64,
            );
        }
        // No row, no column, 48 of 64 rows, part of a sign group, sub-tiles of 16, 24 columns in pairs, 288 in pairs.
        for sizes in [
            [0, 48, 32],
            [64, 0, 32],
            [48, 48, 32],
            [64, 36, 32],
            [64, 48, 16],
            [64, 264, 32],
            [64, 960, 32],
        ] {
            refuse(
                &Tl2 {
                    tiles: Some(tiles(sizes)),
                },
                288,
            );
        }
    }

    #[test]
    fn both_are_read_only() {
        let refused = Tl1 { tiles: None }.pack(&[0; 4], &Scale::Tensor(1.0), 1, 4);
        assert!(matches!(
            refused,
            Err(KernelError::ReadOnly { layout: "tl1", .. })
        ));
        let refused = Tl2 { tiles: None }.pack(&[0; 4], &Scale::Tensor(1.0), 1, 4);
        assert!(matches!(
            refused,
            Err(KernelError::ReadOnly { layout: "tl2", .. })
        ));
    }
}
