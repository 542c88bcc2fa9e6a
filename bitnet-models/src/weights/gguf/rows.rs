//! Row order of q and k: rotate-half, as checkpoints of Hugging Face have it, or interleaved, as `llama` files do.
//!
//! Per head of d rows, rotate-half row i is interleaved row 2i, and rotate-half row i + d/2 is interleaved row 2i + 1:
//! the rotary encoding pairs (i, i + d/2) in one order and (2i, 2i + 1) in the other. Row scales and biases move along.

use bitnet_kernels::Scale;

/// The order that rows are brought into, from the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    RotateHalf,
    Interleaved,
}

impl Order {
    /// Moves rows of `width` elements. `heads` divides the number of rows into even numbers.
    pub(super) fn rows<T: Copy>(self, rows: &[T], width: usize, heads: usize) -> Vec<T> {
        let head = rows.len() / width / heads;
        let half = head / 2;
        let mut ordered = Vec::with_capacity(rows.len());
        for rows in rows.chunks_exact(head * width) {
            for i in 0..head {
                let from = match self {
                    Self::RotateHalf if i < half => 2 * i,
                    Self::RotateHalf => 2 * (i - half) + 1,
                    Self::Interleaved => i / 2 + i % 2 * half,
                };
                ordered.extend_from_slice(&rows[from * width..][..width]);
            }
        }
        ordered
    }

    /// Moves the rows of a ternary matrix.
    pub(super) fn ternary(
        self,
        trits: &[i8],
        scale: &Scale,
        d_in: usize,
        heads: usize,
    ) -> (Vec<i8>, Scale) {
        let per_row = scale.values().len() / (trits.len() / d_in);
        let scale = match scale {
            Scale::Tensor(scale) => Scale::Tensor(*scale),
            Scale::Row(_) | Scale::Group { .. } => {
                let values = self.rows(scale.values(), per_row, heads);
                Scale::from_values(scale.granularity(), values)
            }
        };
        (self.rows(trits, d_in, heads), scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_pairs_become_halves_of_each_head() {
        // Two heads of four rows, two elements a row.
        let interleaved = [0, 0, 20, 20, 1, 1, 21, 21, 4, 4, 24, 24, 5, 5, 25, 25];
        let halves = [0, 0, 1, 1, 20, 20, 21, 21, 4, 4, 5, 5, 24, 24, 25, 25];
        assert_eq!(Order::RotateHalf.rows(&interleaved, 2, 2), halves);
        assert_eq!(Order::Interleaved.rows(&halves, 2, 2), interleaved);
    }

    #[test]
    fn scales_of_rows_and_groups_move_with_their_rows() {
        let trits = [0, 0, 1, 1, -1, -1, 0, 1];
        let values = (1..=4).map(|value| value as f32).collect();
        let (moved, scale) = Order::RotateHalf.ternary(&trits, &Scale::Row(values), 2, 1);
        assert_eq!(moved, [0, 0, -1, -1, 1, 1, 0, 1]);
        assert_eq!(scale, Scale::Row(vec![1.0, 3.0, 2.0, 4.0]));
        let values = (1..=8).map(|value| value as f32).collect();
        let groups = Scale::Group { size: 1, values };
        let (_, scale) = Order::RotateHalf.ternary(&trits, &groups, 2, 1);
        assert_eq!(scale.values(), [1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0]);
    }
}
