//! Times steps with the host's clock, run as in training.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::network::Network;
use crate::ops::{Backend, Normalise, Subset};
use crate::plan::{Mode, Plan};
use crate::rng::{Philox, Purpose};

/// Untimed steps before the first timed one.
const WARM_UP: usize = 5;

/// Steps between two synchronisations with an asynchronous device, because one takes longer than a short step.
const GROUP: usize = 16;

/// Maximum size of a group's images in bytes, unless a single step has more.
const GROUP_BYTES: usize = 16 << 20;

/// The number of resident batches, which is also the number of steps that are timed together. It is smaller for large
/// batches: their steps take longer, and their images need memory.
pub fn resident_batches<B: Backend>(backend: &B, plan: &Plan) -> usize {
    if backend.is_asynchronous() {
        (GROUP_BYTES / plan.span(plan.input, plan.max_batch).len).clamp(1, GROUP)
    } else {
        1
    }
}

/// Times `groups` groups of steps on the resident images. Returns each group's milliseconds per step, in ascending
/// order. A plan for inference runs on noise, which is written before every group, because a step reuses the memory of its
/// input.
pub fn time_steps<B: Backend>(
    backend: &mut B,
    plan: &Plan,
    program: &mut B::Program,
    groups: usize,
) -> Result<Vec<f64>> {
    let (group, batch) = (resident_batches(backend, plan), plan.max_batch);
    let [input, logits] = [plan.input, plan.logits].map(|value| plan.span(value, batch));
    let mut stream = Philox::new(0, Purpose::Benchmark, 0);
    let count = if plan.mode == Mode::Inference { input.len } else { 0 };
    let noise: Vec<f32> = (0..count).map(|_| stream.uniform(-1.0, 1.0)).collect();
    let mut seconds_of = |steps| {
        if !noise.is_empty() {
            backend.write(input, &noise)?;
        }
        seconds(backend, program, batch, (steps, group))
    };
    seconds_of(WARM_UP)?;
    let times = (0..groups).map(|_| Ok(seconds_of(group)? * 1e3 / group as f64));
    let mut milliseconds = times.collect::<Result<Vec<f64>>>()?;
    let loss = backend.read_metrics()?.loss();
    let finite = loss.is_finite() && backend.read(logits)?.iter().all(|logit| logit.is_finite());
    ensure!(finite, "the network's outputs are not finite, so the times mean nothing");
    milliseconds.sort_by(f64::total_cmp);
    Ok(milliseconds)
}

/// Seconds for `steps` steps that cycle through `resident` batches, until the device has finished the last one.
fn seconds<B: Backend>(
    backend: &mut B,
    program: &mut B::Program,
    batch: usize,
    (steps, resident): (usize, usize),
) -> Result<f64> {
    let order: Vec<u32> = (0..batch * steps).map(|index| (index % (batch * resident)) as u32).collect();
    backend.set_order(Subset::Train, &order, 0)?;
    backend.synchronize()?;
    let start = Instant::now();
    (0..steps).try_for_each(|_| backend.run(program))?;
    backend.synchronize()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Loads `count` random images and labels as a resident data set.
pub fn load_random_images<B: Backend>(backend: &mut B, network: &Network, count: usize) -> Result<()> {
    let (shape, classes) = (network.input(), network.classes() as u32);
    let mut stream = Philox::new(0, Purpose::Benchmark, 0);
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
