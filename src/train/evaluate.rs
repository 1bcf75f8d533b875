//! Evaluation: every image of the validation and the test set once, in order.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::Trainer;
use super::programs::Programs;
use super::setup::load_split;
use crate::data::Split;
use crate::network::{Network, Weights};
use crate::ops::{Backend, DeviceInfo, Metrics, Normalise, Subset, TestViews};
use crate::plan::{self, Mode, Plan, Sequence};

impl<B: Backend> Trainer<B> {
    /// Loss and accuracy over the whole test set, with the averaged weights if averaging is enabled. The metrics of the
    /// current epoch are restored afterwards.
    pub fn evaluate(&mut self) -> Result<Metrics> {
        let test = self.val_count..self.val_count + self.test_count;
        let metrics = self.evaluate_all([test], || false)?;
        metrics.map(|[test]| test).context("the evaluation was stopped")
    }

    /// Loss and accuracy over the validation set, if there is one, and the test set, as by [`Self::evaluate`]; `None` if
    /// `stop`, which is called before every step, became true.
    pub(super) fn evaluate_unless(&mut self, stop: impl Fn() -> bool) -> Result<Option<(Option<Metrics>, Metrics)>> {
        let (val, test) = (0..self.val_count, self.val_count..self.val_count + self.test_count);
        if val.is_empty() {
            return Ok(self.evaluate_all([test], stop)?.map(|[test]| (None, test)));
        }
        Ok(self.evaluate_all([val, test], stop)?.map(|[val, test]| (Some(val), test)))
    }

    /// The metrics of ranges of the evaluation images; `None` if `stop` became true before the last.
    fn evaluate_all<const N: usize>(
        &mut self,
        ranges: [Range<usize>; N],
        stop: impl Fn() -> bool,
    ) -> Result<Option<[Metrics; N]>> {
        let training = self.backend.read_metrics()?;
        if self.has_average() {
            self.backend.swap_average()?;
        }
        let mut results = [Metrics::default(); N];
        let mut complete = true;
        for (range, result) in ranges.into_iter().zip(&mut results) {
            let (backend, plan) = (&mut self.backend, &self.eval_plan);
            (*result, complete) = evaluate(backend, plan, &mut self.programs, range, &stop, |_, _, _| Ok(()))?;
            if !complete {
                break;
            }
        }
        if self.has_average() {
            self.backend.swap_average()?;
        }
        self.backend.set_metrics(training)?;
        Ok(complete.then_some(results))
    }

    /// Ends the training, and evaluates these weights on the test set, with the memory and the programs of the run.
    ///
    /// # Errors
    /// Those of the device.
    pub fn into_evaluator(self, weights: &Weights) -> Result<Evaluator<B>> {
        let Self { mut backend, eval_plan: plan, programs, val_count, test_count, .. } = self;
        plan::write_weights(&mut backend, weights)?;
        Ok(Evaluator { backend, plan, programs, range: val_count..val_count + test_count })
    }
}

/// Runs evaluation steps over a range of the images until `stop` is true before a step. Returns the metrics, and whether
/// all images were evaluated. After every step, `each` receives the backend, the index of the step's first image and the
/// batch size.
fn evaluate<B: Backend>(
    backend: &mut B,
    plan: &Plan,
    programs: &mut Programs<B>,
    range: Range<usize>,
    stop: impl Fn() -> bool,
    mut each: impl FnMut(&mut B, usize, usize) -> Result<()>,
) -> Result<(Metrics, bool)> {
    let order: Vec<u32> = (range.start as u32..range.end as u32).collect();
    backend.set_order(Subset::Test, &order, 0)?;
    backend.set_metrics(Metrics::default())?;
    for begin in range.clone().step_by(plan.max_batch) {
        if stop() {
            return Ok((backend.read_metrics()?, false));
        }
        let batch = plan.max_batch.min(range.end - begin);
        let program = programs.get(backend, plan, Sequence::EvaluateStep, batch)?;
        backend.run(program)?;
        each(backend, begin, batch)?;
    }
    Ok((backend.read_metrics()?, true))
}

/// A network with its weights on a backend, and the images to evaluate.
///
/// ```
/// use cnn_cuda::cpu::Cpu;
/// use cnn_cuda::ops::{Normalise, TestViews};
/// use cnn_cuda::train::Evaluator;
/// use cnn_cuda::{data, models};
///
/// # fn main() -> anyhow::Result<()> {
/// let digits = data::load("digits", &data::LoadOptions::default())?;
/// let network = (models::find("lenet5")?.build)(digits.shape, digits.classes.len())?;
/// let weights = network.initial_weights(0);
/// let count = digits.test.count();
/// let normalise = Normalise { shape: digits.shape, mean: digits.mean, std: digits.std };
/// let (backend, views) = (Cpu::new(None)?, TestViews::None);
/// let mut evaluator = Evaluator::new(backend, &network, &weights, digits.test, &normalise, 500, views)?;
/// let mut classes = Vec::new();
/// let metrics = evaluator.run(|_, logits| {
///     classes.push((0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])));
/// })?;
/// assert_eq!(classes.len(), count);
/// assert!(metrics.accuracy() < 0.5); // untrained
/// # Ok(())
/// # }
/// ```
pub struct Evaluator<B: Backend> {
    backend: B,
    plan: Plan,
    programs: Programs<B>,
    /// The images to evaluate, among those on the backend.
    range: Range<usize>,
}

impl<B: Backend> Evaluator<B> {
    /// Plans the network for batches of up to `max_batch`, and loads images and weights. The logits of an image are the
    /// mean of those of its `views`.
    ///
    /// # Errors
    /// The images do not fit the network or its views, or the device has too little memory.
    pub fn new(
        mut backend: B,
        network: &Network,
        weights: &Weights,
        images: Split,
        normalise: &Normalise,
        max_batch: usize,
        views: TestViews,
    ) -> Result<Self> {
        let count = images.count();
        views.check(network.input())?;
        let plan = Plan::new(network, Mode::Inference, max_batch.min(count))?.with_views(views);
        load_split(&mut backend, Subset::Test, images, normalise, plan.max_batch)?;
        backend.allocate(&plan.memory_sizes(false))?;
        let mut programs = Programs::default();
        for batch in [plan.max_batch, count % plan.max_batch].into_iter().filter(|&batch| batch > 0) {
            programs.get(&mut backend, &plan, Sequence::EvaluateStep, batch)?;
        }
        plan::write_weights(&mut backend, weights)?;
        Ok(Self { backend, plan, programs, range: 0..count })
    }

    /// Runs the network on all images. `each` receives an image's index and its logits, `[classes]`. Returns loss and
    /// accuracy.
    ///
    /// # Errors
    /// A logit is NaN or infinite.
    pub fn run(&mut self, mut each: impl FnMut(usize, &[f32])) -> Result<Metrics> {
        let Self { backend, plan, programs, range } = self;
        let first = range.start;
        let each = |backend: &mut B, begin: usize, batch: usize| {
            let logits = backend.read(plan.span(plan.evaluated(), batch))?;
            for (index, logits) in (begin..).zip(logits.chunks_exact(plan.classes)) {
                ensure!(
                    logits.iter().all(|logit| logit.is_finite()),
                    "the network's logits for an image are {logits:?}: these weights have diverged"
                );
                each(index - first, logits);
            }
            Ok(())
        };
        Ok(evaluate(backend, plan, programs, range.clone(), || false, each)?.0)
    }

    /// The device that it runs on.
    pub fn device(&self) -> DeviceInfo {
        self.backend.info()
    }

    /// The images with these indices, normalised, as the network receives them: `[indices][height][width][channels]`.
    ///
    /// # Errors
    /// An image can no longer be read.
    pub fn images(&mut self, indices: &[usize]) -> Result<Vec<f32>> {
        if indices.is_empty() {
            return Ok(Vec::new());
        }
        let Self { backend, plan, programs, range } = self;
        let order: Vec<u32> = indices.iter().map(|index| (range.start + index) as u32).collect();
        backend.set_order(Subset::Test, &order, 0)?;
        let mut images = Vec::new();
        for batch in order.chunks(plan.max_batch).map(<[u32]>::len) {
            let program = programs.get(backend, plan, Sequence::TestImages, batch)?;
            backend.run(program)?;
            images.extend(backend.read(plan.span(plan.input, batch))?);
        }
        Ok(images)
    }
}
