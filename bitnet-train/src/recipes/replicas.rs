//! Data parallel: the same model on several devices, each of which learns from its rows of every batch.
//!
//! Every replica lives in a thread of its own, since devices are fed in parallel. Gradients are sums over the rows of all
//! devices, by Burn's collectives (NCCL on CUDA). Invariant: all replicas take the same step with the same gradients, so
//! their parameters and moments stay equal; nothing but gradients is ever exchanged.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bitnet_models::decoder::Decoder;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::distributed::{CollectiveTensor, ReduceOperation, all_reduce};
use burn::tensor::{Device, Tensor};

use super::course::Preparation;
use super::step::{Learned, Whole, language_modelling, learn, update};
use crate::TrainError;
use crate::data::batches::Batch;
use crate::optimizer::{Optimizer, Rates};

/// From the gradients of one device to the sums over all of them. All threads call it at the same time.
type Reduce = Arc<dyn Fn(&Decoder, GradientsParams) -> GradientsParams + Send + Sync>;

/// The replicas beside the model of the caller; none where there is one device.
pub(super) struct Replicas {
    others: Vec<Replica>,
    reduce: Reduce,
    at_once: usize,
    limit: f64,
}

struct Replica {
    orders: SyncSender<Order>,
    losses: Receiver<f64>,
    thread: JoinHandle<()>,
}

/// A step of one replica.
struct Order {
    rows: Batch,
    whole: Whole,
    preparation: Preparation,
    rates: Rates,
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas")
            .field("others", &self.others.len())
            .finish_non_exhaustive()
    }
}

/// Proves that these devices can share batches of so many rows.
pub(super) fn check(devices: &[Device], rows: usize) -> Result<(), TrainError> {
    let refused = |found: String, expected: &str, way_out: &str| {
        Err(TrainError::Request {
            what: "devices",
            found,
            expected: expected.to_owned(),
            way_out: way_out.to_owned(),
        })
    };
    let n = devices.len();
    let collective = collective();
    let adds_up = |device: &Device| collective.contains(&device.clone().inner());
    if n > 1 && !devices.iter().all(adds_up) {
        return refused(
            format!("{n} devices, not all of them CUDA's"),
            "one, or several of CUDA's: Burn adds gradients up over these alone",
            "Train on one device",
        );
    }
    if !rows.is_multiple_of(n) {
        return refused(
            format!("{n} for `batch.rows` of {rows}"),
            "a number that divides the rows of a batch",
            "Change `batch.rows`, or train on fewer devices",
        );
    }
    Ok(())
}

/// The devices whose gradients Burn adds up.
fn collective() -> Vec<Device> {
    #[cfg(feature = "cuda")]
    return Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec();
    #[cfg(not(feature = "cuda"))]
    return Vec::new();
}

impl Replicas {
    /// Copies of a model and of its optimizer's state on all devices but the first, which the caller keeps.
    pub(super) fn new(
        devices: &[Device],
        model: &Decoder,
        optimizer: &Optimizer,
        at_once: usize,
        limit: f64,
    ) -> Self {
        let inner: Vec<Device> = devices
            .iter()
            .map(|device| device.clone().inner())
            .collect();
        let reduce: Reduce = match devices.len() {
            1 => Arc::new(|_, gradients| gradients),
            _ => Arc::new(move |model, gradients| sums(model, gradients, &inner)),
        };
        Self::with(devices, model, optimizer, at_once, limit, reduce)
    }

    fn with(
        devices: &[Device],
        model: &Decoder,
        optimizer: &Optimizer,
        at_once: usize,
        limit: f64,
        reduce: Reduce,
    ) -> Self {
        let replica = |(number, device): (usize, &Device)| {
            let model = model.clone().fork(device);
            let (optimizer, reduce) = (optimizer.clone(), reduce.clone());
            let (orders, todo) = sync_channel(1);
            let (done, losses) = sync_channel(1);
            let work = move || {
                work(
                    number, model, optimizer, at_once, limit, &reduce, &todo, &done,
                )
            };
            let thread = thread::Builder::new().name(format!("replica {number}"));
            Replica {
                orders,
                losses,
                thread: thread.spawn(work).expect("the system starts threads"),
            }
        };
        Self {
            others: devices.iter().enumerate().skip(1).map(replica).collect(),
            reduce,
            at_once,
            limit,
        }
    }

    /// One step of language modelling, on all devices. Where the loss or the gradients are not finite, the model stays as it
    /// was, and the replicas mean nothing more.
    ///
    /// # Panics
    ///
    /// Panics if a replica has.
    pub(super) fn step(
        &self,
        mut model: Decoder,
        optimizer: &mut Optimizer,
        batch: &Batch,
        preparation: Preparation,
        rates: Rates,
    ) -> (Decoder, Learned) {
        const FAILED: &str = "a replica has failed: its message is above";
        let whole = Whole::of(batch);
        let mut rows = batch.split(batch.shape[0] / (1 + self.others.len()));
        let own = rows.next().expect("a batch has rows");
        for (replica, rows) in self.others.iter().zip(rows) {
            let order = Order {
                rows,
                whole,
                preparation,
                rates,
            };
            replica.orders.send(order).expect(FAILED);
        }
        preparation.apply(&mut model, 0);
        let (gradients, loss) = learn(&model, &own, whole, self.at_once, language_modelling);
        // Before gradients are added up: who waited for a device that has failed would wait forever.
        let others = self
            .others
            .iter()
            .map(|replica| replica.losses.recv().expect(FAILED));
        let loss = loss + others.sum::<f64>();
        let gradients = (self.reduce)(&model, gradients);
        update(model, optimizer, (gradients, loss), rates, self.limit)
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for replica in self.others.drain(..) {
            drop(replica.orders); // ends its loop
            if !thread::panicking() {
                let _ = replica.thread.join();
            }
        }
    }
}

/// The thread of a replica: one step for each order.
#[allow(clippy::too_many_arguments, reason = "the state of a thread")]
fn work(
    number: usize,
    mut model: Decoder,
    mut optimizer: Optimizer,
    at_once: usize,
    limit: f64,
    reduce: &Reduce,
    todo: &Receiver<Order>,
    done: &SyncSender<f64>,
) {
    for order in todo {
        order.preparation.apply(&mut model, number);
        let (rows, whole) = (&order.rows, order.whole);
        let (gradients, loss) = learn(&model, rows, whole, at_once, language_modelling);
        if done.send(loss).is_err() {
            return; // nobody waits for this step any more
        }
        let gradients = reduce(&model, gradients);
        // Its own loss does not decide: if the whole is not finite, the run ends.
        (model, _) = update(model, &mut optimizer, (gradients, 0.0), order.rates, limit);
    }
}

/// Sums of the gradients over `devices`: every one of them calls this with its own, in the same order.
fn sums(model: &Decoder, gradients: GradientsParams, devices: &[Device]) -> GradientsParams {
    let mut started = Started {
        gradients,
        devices,
        sums: GradientsParams::new(),
    };
    model.visit(&mut started);
    started.sums
}

struct Started<'a> {
    gradients: GradientsParams,
    devices: &'a [Device],
    sums: GradientsParams,
}

impl ModuleVisitor for Started<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let sum: CollectiveTensor<D> =
                all_reduce(gradient, ReduceOperation::Sum, self.devices.to_vec());
            self.sums.register::<D>(param.id, sum.resolve());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, Mutex};

    use super::super::step::step;
    use super::*;
    use crate::model::{ModelConfig, Origin};

    const MODEL: &str =
        "hidden_size = 32\nintermediate_size = 48\nn_layers = 2\nn_heads = 2\ncontext = 8";
    const OPTIMIZER: &str = "lr = 1e-2";
    const RATES: Rates = Rates {
        lr: 1e-2,
        weight_decay: 0.1,
    };

    fn model(device: &Device) -> Decoder {
        let config: ModelConfig = toml::from_str(MODEL).unwrap();
        let origin = Origin::open(&config).unwrap();
        let description = origin.describe(40, None);
        origin.load(&description, 3, device).unwrap()
    }

    fn batch(step: i32) -> Batch {
        let ids = |from: i32| (0..32).map(|at| (from + at * at + 7 * step) % 40).collect();
        Batch {
            inputs: ids(0),
            targets: ids(1),
            // Rows with unlike numbers of targets: the mean is over the whole batch, not over each device.
            mask: Some((0..32).map(|at| at < 16 || at % 3 == 0).collect()),
            shape: [4, 8],
        }
    }

    fn preparation(step: u64) -> Preparation {
        Preparation::of(Some(1.0), None, step)
    }

    struct Add<'a>(GradientsParams, &'a mut GradientsParams);

    impl ModuleVisitor for Add<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.0.remove::<D>(param.id) else {
                return;
            };
            let sum = match self.1.remove::<D>(param.id) {
                Some(other) => other + gradient,
                None => gradient,
            };
            self.1.register::<D>(param.id, sum);
        }
    }

    struct Take<'a>(&'a GradientsParams, GradientsParams);

    impl ModuleVisitor for Take<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(sum) = self.0.get::<D>(param.id) {
                self.1.register::<D>(param.id, sum);
            }
        }
    }

    /// What collectives do, for threads that share a memory.
    fn in_memory(count: usize) -> Reduce {
        let (shared, all) = (Mutex::new(GradientsParams::new()), Barrier::new(count));
        Arc::new(move |model, gradients| {
            model.visit(&mut Add(gradients, &mut shared.lock().unwrap()));
            all.wait();
            let sums = {
                let shared = shared.lock().unwrap();
                let mut taken = Take(&shared, GradientsParams::new());
                model.visit(&mut taken);
                taken.1
            };
            if all.wait().is_leader() {
                *shared.lock().unwrap() = GradientsParams::new();
            }
            all.wait();
            sums
        })
    }

    struct Values(Vec<Vec<f32>>);

    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().into_data().iter().collect());
        }
    }

    fn values(model: &Decoder) -> Vec<Vec<f32>> {
        let mut values = Values(Vec::new());
        model.visit(&mut values);
        values.0
    }

    #[test]
    fn two_replicas_take_the_steps_of_one_model_that_sees_all_rows() {
        let device = Device::flex().autodiff();
        let config = toml::from_str(OPTIMIZER).unwrap();
        let (mut one, mut one_optimizer) = (model(&device), Optimizer::new(&config));
        let (mut two, mut two_optimizer) = (model(&device), Optimizer::new(&config));
        let devices = [device.clone(), device];
        let replicas = Replicas::with(
            &devices,
            &two,
            &two_optimizer,
            2,
            1.0,
            in_memory(devices.len()),
        );
        for at in 0..3 {
            let batch = batch(at);
            let (expected, found);
            preparation(at as u64).apply(&mut one, 0);
            let loss = language_modelling;
            (one, expected) = step(one, &mut one_optimizer, &batch, 2, RATES, 1.0, loss);
            let preparation = preparation(at as u64);
            (two, found) = replicas.step(two, &mut two_optimizer, &batch, preparation, RATES);
            // Two addends have one sum in either order, so nothing may differ.
            assert_eq!(found, expected, "step {at}");
        }
        assert_eq!(values(&two), values(&one));
    }

    #[test]
    fn devices_that_cannot_add_up_gradients_and_rows_that_cannot_be_shared_are_refused() {
        let flex = Device::flex();
        assert!(check(std::slice::from_ref(&flex), 3).is_ok());
        let refused = check(&[flex.clone(), flex], 4).unwrap_err().to_string();
        assert!(refused.contains("CUDA"), "{refused}");
        assert!(check(&[], 4).is_err());
    }
}
