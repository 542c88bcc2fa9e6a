//! `PackedTable`: the embedding or output-head matrix `[rows, columns]` in few bits, on the host.
//!
//! `W[r, c] = scale(r, c) · code(r, c)`. Codes are floats or two's complement integers, row after row in little-endian
//! `u32` words, which every device has: column `c` of a row with `n` codes per word stands in word `c / n` from bit
//! `(c mod n) · 32/n` up. Each row starts a new word; the bits behind its last column are zero. A value that exists is
//! valid: lengths fit, every number and scale is finite, padding is zero.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::packing::check_dimensions;
use crate::{Granularity, KernelError, Scale};

/// Columns that share a scale in [`TableFormat::Int4`].
pub(crate) const GROUP: usize = 32;
/// The scales of int4 that are tried: number of largest magnitude / -c. Over Gaussian groups of 32 the RMS error is 0.083 of
/// the numbers' RMS; 0.086 with c = 8 alone, 0.097 with max|w| / 7.
const INT4_DIVISORS: [f32; 4] = [7.5, 8.0, 8.5, 9.0];

/// How the numbers of a table are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// 32-bit floats.
    F32,
    /// IEEE half precision: 11 significant bits, up to 65504.
    F16,
    /// The upper half of an f32: 8 significant bits, its range.
    BF16,
    /// 8-bit integers with a scale per row, `s = max|W| / 127`, `q = round(W / s)`, ties to even.
    Int8,
    /// 4-bit integers -8..7 with a scale for each 32 columns of a row; the last group of a row may be short. The scale
    /// with the least squared error of a few: the group's number of largest magnitude becomes about -8.
    Int4,
}

impl TableFormat {
    /// Every format, widest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::BF16, Self::Int8, Self::Int4];

    /// The name, as in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Whether the numbers are floats.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Numbers in one word.
    pub const fn numbers_per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::Int8 => 4,
            Self::Int4 => 8,
        }
    }

    /// Words that one row takes, the last padded with zero bits.
    pub const fn words_per_row(self, columns: usize) -> usize {
        columns.div_ceil(self.numbers_per_word())
    }

    /// Which numbers share a scale. Float formats have one for the whole table, which is 1 unless a file says otherwise.
    pub const fn granularity(self) -> Granularity {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => Granularity::Tensor,
            Self::Int8 => Granularity::Row,
            Self::Int4 => Granularity::Group(GROUP),
        }
    }

    /// Number of scales of a table.
    pub const fn scales(self, rows: usize, columns: usize) -> usize {
        self.granularity().count(rows, columns)
    }

    /// Writes the code of each number of a row, without its scale; stops at the shorter of the two.
    pub(crate) fn decode(self, words: &[u32], out: &mut [f32]) {
        match self {
            Self::F32 => unpack::<1>(words, out, |word, _| f32::from_bits(word)),
            Self::F16 => unpack::<2>(words, out, |word, i| {
                f16::from_bits((word >> (16 * i)) as u16).to_f32()
            }),
            Self::BF16 => unpack::<2>(words, out, |word, i| {
                f32::from_bits((word >> (16 * i)) << 16)
            }),
            Self::Int8 => unpack::<4>(words, out, |word, i| {
                f32::from((word >> (8 * i)) as u8 as i8)
            }),
            Self::Int4 => unpack::<8>(words, out, |word, i| {
                ((word << (28 - 4 * i)) as i32 >> 28) as f32
            }),
        }
    }

    /// Packs a row whose first number has index `first` in the table. `scale` gets the scales of the row, if it has any.
    fn encode(
        self,
        row: &[f32],
        first: usize,
        words: &mut [u32],
        scale: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        self.check_range(row, first)?;
        match self {
            Self::F32 => pack::<1>(row, words, f32::to_bits),
            Self::F16 => pack::<2>(row, words, |w| f16::from_f32(w).to_bits().into()),
            Self::BF16 => pack::<2>(row, words, |w| bf16::from_f32(w).to_bits().into()),
            Self::Int8 => {
                let s = row.iter().fold(0f32, |largest, w| largest.max(w.abs())) / 127.0;
                pack::<4>(row, words, |w| quantize(w, s, -127.0, 127.0) as u32 & 0xFF);
                scale.push(s);
            }
            Self::Int4 => {
                for (group, words) in row.chunks(GROUP).zip(words.chunks_mut(GROUP / 8)) {
                    let s = int4_scale(group);
                    pack::<8>(group, words, |w| quantize(w, s, -8.0, 7.0) as u32 & 0xF);
                    scale.push(s);
                }
            }
        }
        Ok(())
    }

    /// Refuses NaN, infinities and what would become infinite in this format.
    fn check_range(self, row: &[f32], first: usize) -> Result<(), KernelError> {
        if let Some(at) = row.iter().position(|w| !w.is_finite()) {
            return Err(KernelError::NonFinite {
                what: "table",
                index: first + at,
                value: row[at],
            });
        }
        let overflow = match self {
            Self::F16 => row.iter().position(|&w| f16::from_f32(w).is_infinite()),
            Self::BF16 => row.iter().position(|&w| bf16::from_f32(w).is_infinite()),
            Self::F32 | Self::Int8 | Self::Int4 => None,
        };
        match overflow {
            None => Ok(()),
            Some(at) => Err(KernelError::TableRange {
                format: self.name(),
                index: first + at,
                value: row[at],
                wider: if self == Self::F16 { "bf16" } else { "f32" },
            }),
        }
    }
}

impl fmt::Display for TableFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TableFormat {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| KernelError::UnknownTableFormat {
                found: name.to_owned(),
            })
    }
}

/// `round(w / s)`, ties to even, within bounds. A scale that underflowed to zero gives zero.
fn quantize(w: f32, s: f32, least: f32, most: f32) -> i32 {
    (w / s).round_ties_even().clamp(least, most) as i32
}

/// The scale of [`INT4_DIVISORS`] with the least squared error.
fn int4_scale(group: &[f32]) -> f32 {
    let extreme = group.iter().fold(
        0f32,
        |extreme, &w| if w.abs() > extreme.abs() { w } else { extreme },
    );
    let error = |s: f32| -> f32 {
        let errors = group
            .iter()
            .map(|&w| (w - s * quantize(w, s, -8.0, 7.0) as f32) / extreme);
        errors.map(|error| error * error).sum()
    };
    let scales = INT4_DIVISORS.map(|divisor| extreme / -divisor);
    let best = scales
        .into_iter()
        .map(|s| (error(s), s))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    best.expect("there are some").1
}

/// Packs `N` codes into each word, the last word filled up with zeros.
fn pack<const N: usize>(row: &[f32], words: &mut [u32], code: impl Fn(f32) -> u32) {
    for (numbers, word) in row.chunks(N).zip(words) {
        let codes = numbers.iter().enumerate();
        *word = codes.fold(0, |word, (i, &w)| word | code(w) << (i * 32 / N));
    }
}

/// Calls `number(word, i)` for each code of each word.
fn unpack<const N: usize>(words: &[u32], out: &mut [f32], number: impl Fn(u32, usize) -> f32) {
    let (whole, rest) = out.as_chunks_mut::<N>();
    for (&word, out) in words.iter().zip(&mut *whole) {
        *out = std::array::from_fn(|i| number(word, i));
    }
    if let Some(&word) = words.get(whole.len()) {
        for (i, out) in rest.iter_mut().enumerate() {
            *out = number(word, i);
        }
    }
}

/// A borrowed table: what the CPU kernels take.
#[derive(Debug, Clone, Copy)]
pub struct TableView<'a> {
    format: TableFormat,
    words: &'a [u32],
    scale: &'a [f32],
    rows: usize,
    columns: usize,
}

impl<'a> TableView<'a> {
    /// Joins words and scales.
    ///
    /// # Panics
    ///
    /// Panics if a length does not fit.
    pub fn new(
        format: TableFormat,
        words: &'a [u32],
        scale: &'a [f32],
        rows: usize,
        columns: usize,
    ) -> Self {
        let expected = (
            rows * format.words_per_row(columns),
            format.scales(rows, columns),
        );
        assert_eq!(
            (words.len(), scale.len()),
            expected,
            "words and scales of {rows} x {columns} in {format}"
        );
        Self {
            format,
            words,
            scale,
            rows,
            columns,
        }
    }

    /// How the numbers are stored.
    pub const fn format(&self) -> TableFormat {
        self.format
    }

    /// Rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// The words of one row.
    pub fn row_words(&self, row: usize) -> &'a [u32] {
        let width = self.format.words_per_row(self.columns);
        &self.words[row * width..][..width]
    }

    /// All scales.
    pub(crate) const fn scales(&self) -> &'a [f32] {
        self.scale
    }

    /// The scales of one row: one, or one for each group of 32 columns.
    pub fn row_scales(&self, row: usize) -> &'a [f32] {
        match self.format.granularity() {
            Granularity::Tensor => self.scale,
            Granularity::Row => &self.scale[row..=row],
            Granularity::Group(size) => {
                let groups = self.columns.div_ceil(size);
                &self.scale[row * groups..][..groups]
            }
        }
    }

    /// Writes `scale · code` of one row.
    ///
    /// # Panics
    ///
    /// Panics if there is no such row, or `out` has not `columns` entries.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(
            out.len(),
            self.columns,
            "a row has {} columns",
            self.columns
        );
        self.format.decode(self.row_words(row), out);
        let span = match self.format.granularity() {
            Granularity::Group(size) => size,
            Granularity::Tensor | Granularity::Row => self.columns,
        };
        for (numbers, scale) in out.chunks_mut(span).zip(self.row_scales(row)) {
            numbers.iter_mut().for_each(|number| *number *= scale);
        }
    }
}

/// A table that owns its words and scales.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedTable {
    format: TableFormat,
    words: Vec<u32>,
    scale: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl PackedTable {
    /// Packs a matrix row by row: `read(row, numbers)` fills in the numbers of one row. The float matrix never exists.
    ///
    /// # Errors
    ///
    /// [`KernelError::Dimensions`]; [`KernelError::NonFinite`] and [`KernelError::TableRange`] with the number's index.
    pub fn from_rows(
        format: TableFormat,
        rows: usize,
        columns: usize,
        mut read: impl FnMut(usize, &mut [f32]),
    ) -> Result<Self, KernelError> {
        check_dimensions(rows, columns)?;
        let width = format.words_per_row(columns);
        let mut words = vec![0; rows * width];
        let mut scale = Vec::with_capacity(format.scales(rows, columns));
        let mut numbers = vec![0.0; columns];
        for (row, words) in words.chunks_exact_mut(width).enumerate() {
            read(row, &mut numbers);
            format.encode(&numbers, row * columns, words, &mut scale)?;
        }
        if format.granularity() == Granularity::Tensor {
            scale.push(1.0);
        }
        Ok(Self {
            format,
            words,
            scale,
            rows,
            columns,
        })
    }

    /// Takes words and scales of the form that this module describes, and proves both.
    ///
    /// # Errors
    ///
    /// Names the first wrong length, number, scale or padding with its position.
    pub fn new(
        format: TableFormat,
        words: Vec<u32>,
        scale: Vec<f32>,
        rows: usize,
        columns: usize,
    ) -> Result<Self, KernelError> {
        check_dimensions(rows, columns)?;
        check_length(
            "words",
            words.len(),
            rows * format.words_per_row(columns),
            [rows, columns],
        )?;
        check_length(
            "scales",
            scale.len(),
            format.scales(rows, columns),
            [rows, columns],
        )?;
        let scale = Scale::from_values(format.granularity(), scale);
        scale.check("table", rows, columns)?;
        let table = Self {
            format,
            words,
            scale: scale.into_values(),
            rows,
            columns,
        };
        table.check_words()?;
        Ok(table)
    }

    /// Refuses codes that are no finite number, and padding that is not zero.
    fn check_words(&self) -> Result<(), KernelError> {
        // A float with all bits of its exponent set is infinite or NaN.
        let exponents: &[u32] = match self.format {
            TableFormat::F32 => &[0x7F80_0000],
            TableFormat::F16 => &[0x7C00_0000, 0x7C00],
            TableFormat::BF16 => &[0x7F80_0000, 0x7F80],
            TableFormat::Int8 | TableFormat::Int4 => &[],
        };
        let per_word = self.format.numbers_per_word();
        let used = (self.columns - 1) % per_word + 1;
        for row in 0..self.rows {
            let words = self.view().row_words(row);
            let damaged = |word: &u32| exponents.iter().any(|&mask| word & mask == mask);
            if words.iter().any(damaged) {
                let mut numbers = vec![0.0; self.columns];
                self.format.decode(words, &mut numbers);
                if let Some(at) = numbers.iter().position(|number| !number.is_finite()) {
                    return Err(KernelError::NonFinite {
                        what: "table",
                        index: row * self.columns + at,
                        value: numbers[at],
                    });
                }
            }
            if used < per_word && words[words.len() - 1] >> (used * 32 / per_word) != 0 {
                return Err(KernelError::Padding { what: "table", row });
            }
        }
        Ok(())
    }

    /// How the numbers are stored.
    pub const fn format(&self) -> TableFormat {
        self.format
    }

    /// Rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// The words, [`TableFormat::words_per_row`] for each row.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The scales, as [`TableFormat::granularity`] says.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Gives up words and scales.
    pub fn into_parts(self) -> (Vec<u32>, Vec<f32>) {
        (self.words, self.scale)
    }

    /// The same table, borrowed.
    pub fn view(&self) -> TableView<'_> {
        TableView {
            format: self.format,
            words: &self.words,
            scale: &self.scale,
            rows: self.rows,
            columns: self.columns,
        }
    }

    /// Writes `scale · code` of one row.
    ///
    /// # Panics
    ///
    /// Panics if there is no such row, or `out` has not `columns` entries.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        self.view().dequantize_row(row, out);
    }

    /// Bytes held: words, padding and scales.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.words[..]) + size_of_val(&self.scale[..])
    }

    /// Measured bits per number, padding and scales included.
    pub fn bits_per_number(&self) -> f64 {
        8.0 * self.bytes() as f64 / (self.rows * self.columns) as f64
    }
}

/// Proves a length of a table.
pub(crate) fn check_length(
    unit: &'static str,
    found: usize,
    expected: usize,
    [d_out, d_in]: [usize; 2],
) -> Result<(), KernelError> {
    if found == expected {
        return Ok(());
    }
    Err(KernelError::Length {
        what: "table",
        unit,
        found,
        expected,
        d_out,
        d_in,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(format: TableFormat, columns: usize, numbers: &[f32]) -> PackedTable {
        let rows = numbers.len() / columns;
        PackedTable::from_rows(format, rows, columns, |row, out| {
            out.copy_from_slice(&numbers[row * columns..][..columns]);
        })
        .unwrap()
    }

    #[test]
    fn codes_stand_from_the_lowest_bits_up_and_padding_is_zero() {
        let numbers = [1.0, -2.0, 127.0];
        let words = |format| table(format, 3, &numbers).into_parts();
        assert_eq!(words(TableFormat::F32).0, numbers.map(f32::to_bits));
        assert_eq!(words(TableFormat::F16).0, [0xC000_3C00, 0x57F0]);
        assert_eq!(words(TableFormat::BF16).0, [0xC000_3F80, 0x42FE]);
        assert_eq!(words(TableFormat::Int8), (vec![0x007F_FE01], vec![1.0]));
        let int4 = table(TableFormat::Int4, 3, &[-8.0, 7.0, 1.0]);
        assert_eq!(int4.into_parts(), (vec![0x178], vec![1.0]));
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        for format in TableFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!(matches!(
            "q4".parse::<TableFormat>(),
            Err(KernelError::UnknownTableFormat { found }) if found == "q4"
        ));
    }

    #[test]
    fn integers_times_a_scale_round_half_to_even() {
        // s = 2: 1 and 3 are halves.
        let table = table(TableFormat::Int8, 4, &[254.0, 1.0, 3.0, -3.0]);
        let mut row = [0.0; 4];
        table.dequantize_row(0, &mut row);
        assert_eq!(row, [254.0, 0.0, 4.0, -4.0]);
    }

    #[test]
    fn rows_of_zeros_and_of_the_smallest_numbers_stay_finite() {
        let tiny = f32::from_bits(1);
        for format in TableFormat::ALL {
            let mut row = [1.0; 5];
            for numbers in [[0.0; 5], [tiny; 5], [-0.0, tiny, 0.0, -tiny, 0.0]] {
                table(format, 5, &numbers).dequantize_row(0, &mut row);
                assert!(row.iter().all(|w| w.abs() <= tiny), "{format}: {row:?}");
            }
        }
    }

    #[test]
    fn numbers_out_of_range_are_named_with_their_index() {
        let read = |bad: f32| {
            move |row: usize, out: &mut [f32]| {
                out.fill(0.5);
                if row == 1 {
                    out[2] = bad;
                }
            }
        };
        for format in TableFormat::ALL {
            for bad in [f32::NAN, f32::INFINITY] {
                let found = PackedTable::from_rows(format, 2, 3, read(bad));
                assert!(matches!(
                    found,
                    Err(KernelError::NonFinite { index: 5, .. })
                ));
            }
        }
        let range = |format, bad| match PackedTable::from_rows(format, 2, 3, read(bad)) {
            Err(KernelError::TableRange { index, wider, .. }) => Some((index, wider)),
            _ => None,
        };
        assert_eq!(range(TableFormat::F16, 65519.0), None);
        assert_eq!(range(TableFormat::F16, -65520.0), Some((5, "bf16")));
        assert_eq!(range(TableFormat::BF16, f32::MAX), Some((5, "f32")));
        assert_eq!(range(TableFormat::F32, f32::MAX), None);
    }

    #[test]
    fn words_from_outside_are_proven() {
        let new = |format, words: &[u32], scale: &[f32]| {
            PackedTable::new(format, words.to_vec(), scale.to_vec(), 2, 3)
        };
        assert!(new(TableFormat::Int8, &[0x80, 0x12_3456], &[1.0, 0.0]).is_ok());
        assert!(matches!(
            new(TableFormat::Int8, &[0, 0x0100_0000], &[1.0, 1.0]),
            Err(KernelError::Padding { row: 1, .. })
        ));
        assert!(matches!(
            new(TableFormat::Int8, &[0, 0], &[1.0, f32::NAN]),
            Err(KernelError::Scale { index: 1, .. })
        ));
        for (words, scale) in [(&[0][..], &[1.0, 1.0][..]), (&[0, 0], &[1.0])] {
            let found = new(TableFormat::Int8, words, scale);
            assert!(matches!(found, Err(KernelError::Length { .. })));
        }
        assert!(matches!(
            new(TableFormat::F16, &[0, 0, 0x7C00_0000, 0], &[1.0]),
            Err(KernelError::NonFinite { index: 4, .. })
        ));
        assert!(matches!(
            new(TableFormat::BF16, &[0, 0x1_0000, 0, 0], &[1.0]),
            Err(KernelError::Padding { row: 0, .. })
        ));
        assert!(matches!(
            new(TableFormat::F32, &[0, 0, 0, 0, 0, 0], &[]),
            Err(KernelError::Length { .. })
        ));
    }
}
