//! The one error type of this crate.
//!
//! A message has four parts: the thing, what was found, what was expected, the way out. Variants follow what the
//! caller can do about it. Mistakes of the calling program (a wrong rank) panic instead, as in Burn.

/// Why a matrix, a packed buffer or an operation was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A matrix dimension is zero or too large for exact 32-bit sums.
    #[error(
        "matrix {d_out} x {d_in}: {rule}. Split the layer, or check that the dimensions are not swapped or corrupt"
    )]
    Dimensions {
        /// Rows of the matrix.
        d_out: usize,
        /// Columns of the matrix.
        d_in: usize,
        /// The rule that was broken.
        rule: &'static str,
    },
    /// A value that is not -1, 0 or 1.
    #[error(
        "value {value} at row {row}, column {column}: a ternary matrix holds -1, 0 and 1 only. Quantize the weight first (`quantize::ternarize`)"
    )]
    NotTernary {
        /// Row of the value.
        row: usize,
        /// Column of the value.
        column: usize,
        /// What stood there.
        value: i8,
    },
    /// A packed code that means no trit.
    #[error(
        "{layout}: code {code} at row {row}, column {column} means no ternary value. The data is damaged, or written in another layout"
    )]
    Code {
        /// Layout that was read.
        layout: &'static str,
        /// Row of the code.
        row: usize,
        /// Column of the code.
        column: usize,
        /// The code found.
        code: u8,
    },
    /// A buffer of the wrong length.
    #[error(
        "{what}: {found} {unit} for a {d_out} x {d_in} matrix, expected {expected}. The data is truncated, or written in another layout or shape"
    )]
    Length {
        /// Layout or buffer that was read.
        what: &'static str,
        /// Unit of the two lengths, in the plural.
        unit: &'static str,
        /// Length found.
        found: usize,
        /// Length expected.
        expected: usize,
        /// Rows of the matrix.
        d_out: usize,
        /// Columns of the matrix.
        d_in: usize,
    },
    /// A shape that the layout has no room for.
    #[error("{layout}: a {d_out} x {d_in} matrix is not possible: {rule}. Choose another layout")]
    Shape {
        /// Layout asked for.
        layout: &'static str,
        /// Rows of the matrix.
        d_out: usize,
        /// Columns of the matrix.
        d_in: usize,
        /// The layout's rule, e.g. "d_in must be a multiple of 256".
        rule: &'static str,
    },
    /// A scale that is NaN or infinite, or that the layout cannot hold.
    #[error(
        "{what}: scale {value} at index {index}: {rule}. The checkpoint is damaged, or its scales are not these"
    )]
    Scale {
        /// Layout or buffer that holds the scale.
        what: &'static str,
        /// Index of the scale in its buffer.
        index: usize,
        /// The scale found.
        value: f32,
        /// What a scale must be.
        rule: &'static str,
    },
    /// Scales of a granularity that the layout has no room for.
    #[error(
        "{layout}: holds {holds}, not {found}. Choose a layout with such scales, or requantize the weight"
    )]
    Granularity {
        /// Layout asked for.
        layout: &'static str,
        /// What it can hold.
        holds: &'static str,
        /// What it was given.
        found: String,
    },
    /// A group size outside 32, 64, 96, .., 256.
    #[error(
        "group size {found}: expected a multiple of 32 from 32 to 256. Use one of these, or a scale per row"
    )]
    GroupSize {
        /// The size asked for.
        found: usize,
    },
    /// NaN or infinity where a number is needed.
    #[error(
        "{what}: {value} at index {index}; quantization would turn the whole matrix into NaN. The master weights are damaged, or training has diverged"
    )]
    NonFinite {
        /// Which data.
        what: &'static str,
        /// Index in the flat data.
        index: usize,
        /// The value found.
        value: f32,
    },
    /// A number that a table's format cannot hold.
    #[error(
        "table: {value} at index {index} is infinite in {format}, expected a number within its range. Keep the table in {wider}"
    )]
    TableRange {
        /// Name of the format.
        format: &'static str,
        /// Index in the flat data.
        index: usize,
        /// The number found.
        value: f32,
        /// Name of a format that holds it.
        wider: &'static str,
    },
    /// Bits behind the last column of a row that are not zero.
    #[error(
        "{what}: the padding of row {row} is not zero. The data is damaged, or written in another layout or shape"
    )]
    Padding {
        /// Which data.
        what: &'static str,
        /// The first such row.
        row: usize,
    },
    /// A table format was asked for by a name that there is not.
    #[error("table format `{found}`: not known. Choose one of f32, f16, bf16, int8, int4")]
    UnknownTableFormat {
        /// The name asked for.
        found: String,
    },
    /// A layout that can be read but not written.
    #[error("{layout}: can be read but not written: {reason}")]
    ReadOnly {
        /// The layout.
        layout: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// No parameters are known for this shape.
    #[error(
        "{layout}: no tile sizes are known for a {d_out} x {d_in} matrix, and the file does not carry them. Give them explicitly, or convert from the original checkpoint"
    )]
    NoTiles {
        /// The layout.
        layout: &'static str,
        /// Rows of the matrix.
        d_out: usize,
        /// Columns of the matrix.
        d_in: usize,
    },
    /// A kernel was asked for by a name that this machine or build does not have.
    #[error(
        "kernel `{found}`: not available here. This machine runs: {available}. Unset {variable} to let the best one be chosen"
    )]
    UnknownKernel {
        /// The name asked for.
        found: String,
        /// Names that run here.
        available: String,
        /// The environment variable that named it.
        variable: &'static str,
    },
    /// A format that no key/value cache has.
    #[error("cache format `{found}`: not known. Expected f32, f16 or int8")]
    CacheFormat {
        /// The name given.
        found: String,
    },
}
