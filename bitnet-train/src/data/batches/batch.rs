//! One batch on the host, and as tensors.

use burn::prelude::{Bool, Device, Int, Tensor};
use burn::tensor::TensorData;

/// Rows of ids, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What the model sees.
    pub inputs: Vec<i32>,
    /// What it is to predict: at each place the id that follows.
    pub targets: Vec<i32>,
    /// Which targets are learned; `None` if all are.
    pub mask: Option<Vec<bool>>,
    /// Rows, and ids of a row.
    pub shape: [usize; 2],
}

/// A batch on a device.
#[derive(Debug, Clone)]
pub struct BatchTensors {
    /// `[batch, seq_len]`
    pub inputs: Tensor<2, Int>,
    /// `[batch, seq_len]`
    pub targets: Tensor<2, Int>,
    /// `[batch, seq_len]`, true where a target is learned.
    pub mask: Option<Tensor<2, Bool>>,
}

impl Batch {
    pub(super) fn with_room(rows: usize, seq_len: usize, masked: bool) -> Self {
        let room = rows * seq_len;
        Self {
            inputs: Vec::with_capacity(room),
            targets: Vec::with_capacity(room),
            mask: masked.then(|| Vec::with_capacity(room)),
            shape: [rows, seq_len],
        }
    }

    /// The number of targets that are learned.
    pub fn learned(&self) -> usize {
        match &self.mask {
            Some(mask) => mask.iter().filter(|&&learned| learned).count(),
            None => self.targets.len(),
        }
    }

    /// The same rows as batches of at most so many, in order.
    ///
    /// # Panics
    /// If that is zero.
    pub fn split(&self, rows: usize) -> impl Iterator<Item = Self> {
        assert!(rows > 0, "a batch has at least a row");
        let [all, seq_len] = self.shape;
        (0..all).step_by(rows).map(move |first| {
            let rows = rows.min(all - first);
            let ids = first * seq_len..(first + rows) * seq_len;
            Self {
                inputs: self.inputs[ids.clone()].to_vec(),
                targets: self.targets[ids.clone()].to_vec(),
                mask: self.mask.as_ref().map(|mask| mask[ids].to_vec()),
                shape: [rows, seq_len],
            }
        })
    }

    /// Copies the batch to a device.
    pub fn to_tensors(&self, device: &Device) -> BatchTensors {
        let ids =
            |ids: &[i32]| Tensor::from_data(TensorData::new(ids.to_vec(), self.shape), device);
        let mask = self.mask.clone();
        BatchTensors {
            inputs: ids(&self.inputs),
            targets: ids(&self.targets),
            mask: mask.map(|mask| Tensor::from_data(TensorData::new(mask, self.shape), device)),
        }
    }
}
