//! Steps as training runs them, timed by the host's clock.

use std::iter::{once, repeat_n};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::bench::{BenchArgs, BenchMode};
use crate::network::Network;
use crate::ops::{Backend, Normalise, Sgd, Subset};
use crate::plan::{self, Plan};
use crate::rng::{Purpose, Stream};

/// Steps before the first that is timed.
const WARM_UP: usize = 5;

/// Steps between two waits for a device that works on its own, as in training: a wait costs more than a short step.
const GROUP: usize = 16;

/// Bytes of a group's images, unless one step has more.
const GROUP_BYTES: usize = 16 << 20;

/// Runs of several groups in which a backend may find out how many steps are best done at once.
const TRIES: usize = 12;

/// What was timed.
pub struct Times {
    /// Of a step, for every timed group of them, in ascending order.
    pub milliseconds: Vec<f64>,
    /// Steps that were run at once.
    pub at_once: usize,
}

/// Batches that are resident, and steps that are timed together at least. Of large batches fewer: they take long enough,
/// and the images must be there.
pub fn resident_batches<B: Backend>(backend: &B, plan: &Plan) -> usize {
    if backend.is_asynchronous() { (GROUP_BYTES / plan.input.len).clamp(1, GROUP) } else { 1 }
}

/// Times steps on the images that are resident.
pub fn time_steps<B: Backend>(backend: &mut B, plan: &Plan, args: &BenchArgs) -> Result<Times> {
    let resident = resident_batches(backend, plan);
    if args.mode == BenchMode::Infer {
        let pixels = plan.input.len;
        let mut stream = Stream::new(0, Purpose::Benchmark, 0);
        let input: Vec<f32> = (0..pixels).map(|_| stream.uniform(-1.0, 1.0)).collect();
        backend.write(plan.input, &input)?;
    }
    seconds(backend, plan, args, (WARM_UP, resident))?;
    let at_once = if args.mode == BenchMode::Train { settle(backend, plan, args, resident)? } else { 1 };
    let group = resident.next_multiple_of(at_once);
    if at_once > 1 {
        seconds(backend, plan, args, (2 * group, resident))?; // which records them
    }
    let times = (0..args.steps).map(|_| Ok(seconds(backend, plan, args, (group, resident))? * 1e3 / group as f64));
    let mut milliseconds = times.collect::<Result<Vec<f64>>>()?;
    let loss = backend.read_metrics()?.loss();
    let logits = backend.read(plan.logits)?;
    let finite = loss.is_finite() && logits.iter().all(|logit| logit.is_finite());
    ensure!(finite, "the network's results are not finite: the times mean nothing");
    milliseconds.sort_by(f64::total_cmp);
    Ok(Times { milliseconds, at_once })
}

/// Runs steps until it is known how many are best done at once, which training finds out on its way.
fn settle<B: Backend>(backend: &mut B, plan: &Plan, args: &BenchArgs, resident: usize) -> Result<usize> {
    for steps in once(2 * GROUP).chain(repeat_n(4 * GROUP, TRIES)) {
        if !backend.compares_steps() {
            break;
        }
        seconds(backend, plan, args, (steps, resident))?;
    }
    backend.steps_at_once(args.batch_size, u64::MAX)
}

/// Seconds of that many steps, the last of which is waited for, on resident batches in turn.
fn seconds<B: Backend>(
    backend: &mut B,
    plan: &Plan,
    args: &BenchArgs,
    (steps, resident): (usize, usize),
) -> Result<f64> {
    let batch = args.batch_size;
    let order: Vec<u32> = (0..batch * steps).map(|index| (index % (batch * resident)) as u32).collect();
    backend.set_order(Subset::Train, &order, 0)?;
    backend.synchronize()?;
    let (start, mut left) = (Instant::now(), steps);
    while left > 0 {
        let done = match args.mode {
            BenchMode::Train => backend.steps_at_once(batch, left as u64)?,
            BenchMode::Infer => 1,
        };
        match args.mode {
            BenchMode::Train => plan::train_steps(backend, plan, &Sgd::default(), batch, done)?,
            BenchMode::Infer => plan::forward(backend, plan, batch)?,
        }
        left -= done;
    }
    backend.synchronize()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Noise with labels, resident as a data set would be.
pub fn load_random_images<B: Backend>(backend: &mut B, network: &Network, count: usize) -> Result<()> {
    let (shape, classes) = (network.input(), network.classes() as u32);
    let mut stream = Stream::new(0, Purpose::Benchmark, 0);
    let (bytes, mut images) = (count * shape.len(), Vec::new());
    images.try_reserve_exact(bytes).with_context(|| {
        format!(
            "not enough memory for {} MB of images; try a smaller --batch-size, or smaller images",
            bytes / 1_000_000
        )
    })?;
    images.extend((0..bytes).map(|_| stream.next_u32() as u8));
    let labels = (0..count).map(|_| stream.below(classes)).collect();
    let normalise = Normalise { shape, mean: vec![0.5; shape.channels], std: vec![0.5; shape.channels] };
    backend.load_subset(Subset::Train, &normalise, images, labels)
}
