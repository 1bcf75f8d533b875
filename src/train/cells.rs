//! Learning without gradients: the rules by which the S-cells of a neocognitron find their features, layer by layer.
//!
//! The cells of a middle layer learn without labels, by the rule *add if silent* (Fukushima, "Training multi-layered neural
//! network neocognitron", Neural Networks 40, 2013): where no cell responds to a patch that is not silent itself, a cell is
//! added whose feature is this patch. The strongest patch comes first, like the seed cells of 1980. The threshold is higher
//! than that of the responses (the dual threshold of Fukushima, "Neocognitron for handwritten digit recognition",
//! Neurocomputing 51, 2003).
//!
//! The cells of the last layer, which see the whole layer before, learn with labels as in 2003: of all cells, the one with
//! the strongest response wins. If it belongs to the class of the image, its feature moves towards the image: it is the mean
//! of the images that it has won. Otherwise, or if all are silent, a cell is added for this image.

use anyhow::{Context, Result, ensure};

use super::programs::Programs;
use crate::data::{Dataset, Split, sampler};
use crate::network::{CellLayer, Network, Weights};
use crate::ops::{Backend, Normalise, Region, Span};
use crate::plan::{self, Mode, Plan, Sequence};
use crate::shape::Shape;

/// The cosine below which a patch is unlike a feature, while the middle layers learn.
const LEARNING_THRESHOLD: f32 = 0.5;
/// The images that the middle layers learn from.
const MIDDLE_IMAGES: usize = 1000;
/// A patch takes part if its norm is at least this part of the image's largest.
const LEAST_STRENGTH: f32 = 0.3;
/// Two images of a class with this cosine need only one new cell of the last layer.
const SAME_PATTERN: f32 = 0.8;
/// The images whose responses are computed at a time.
const BATCH: usize = 50;
/// The logits of a class are this times the sum of `cos − θ` over its cells, for an image of mean strength.
const LOGIT_SCALE: f64 = 4.0;

/// What a layer of cells has learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedLayer {
    pub name: String,
    /// The features that it has found, and those that it has room for.
    pub features: usize,
    pub capacity: usize,
    /// The images that were presented to it.
    pub images: usize,
}

/// Weights that were found without gradients.
pub struct Learned {
    pub weights: Weights,
    pub layers: Vec<LearnedLayer>,
}

/// Finds the features of all cells of `network` from the training images, in the order of the first epoch. `None` if `stop`,
/// which is called before each batch of images, became true.
///
/// # Errors
/// The network does not fit the images, an image can no longer be read, or the device has too little memory.
pub fn learn_cells<B: Backend>(
    backend: &mut B,
    network: &Network,
    dataset: &Dataset,
    seed: u64,
    shuffle: bool,
    stop: impl Fn() -> bool,
) -> Result<Option<Learned>> {
    super::setup::check_dataset(network, dataset)?;
    let order = sampler::epoch_order(dataset.train.count(), seed, 0, shuffle);
    let normalise = Normalise { shape: dataset.shape, mean: dataset.mean.clone(), std: dataset.std.clone() };
    let mut learning = Learning {
        backend,
        network,
        train: &dataset.train,
        normalise: &normalise,
        weights: network.initial_weights(seed),
        stop: &stop,
    };
    let mut layers = Vec::new();
    for layer in network.cells.iter().filter(|layer| !layer.innate) {
        let learned = match layer.kernel {
            0 => learning.patterns(layer, &order)?,
            _ => learning.features(layer, &order[..order.len().min(MIDDLE_IMAGES)])?,
        };
        let Some(learned) = learned else { return Ok(None) };
        layers.push(learned);
    }
    Ok(Some(Learned { weights: learning.weights, layers }))
}

struct Learning<'a, B: Backend, Stop> {
    backend: &'a mut B,
    network: &'a Network,
    train: &'a Split,
    normalise: &'a Normalise,
    weights: Weights,
    stop: &'a Stop,
}

/// The part of a network that ends with a layer of cells, on a backend.
struct Stage<B: Backend> {
    plan: Plan,
    programs: Programs<B>,
    /// The lengths of the layer before, of the V-cells and of the S-cells of an image.
    lens: [usize; 3],
}

/// What a layer of cells and the layer before it compute for an image.
struct Responses<'a> {
    input: &'a [f32],
    /// The norms of the patches.
    norms: &'a [f32],
    /// `[positions][features]`
    cells: &'a [f32],
}

impl<B: Backend, Stop: Fn() -> bool> Learning<'_, B, Stop> {
    /// Finds the features of a middle layer.
    fn features(&mut self, layer: &CellLayer, order: &[u32]) -> Result<Option<LearnedLayer>> {
        let (network, capacity) = (self.network, self.network.feature_count(layer));
        let mut stage = self.stage(layer)?;
        let (mut found, mut seen) = (0, 0);
        for batch in order.chunks(BATCH) {
            if (self.stop)() {
                return Ok(None);
            }
            let values = self.run(&mut stage, batch)?;
            let mut added = Vec::new();
            for responses in stage.responses(&values) {
                silent_patches(layer, network.nodes[layer.input].shape, &responses, &mut added, capacity - found);
            }
            seen += batch.len();
            for feature in &added {
                network.set_feature(&mut self.weights.parameters, layer, found, feature);
                found += 1;
            }
            if !added.is_empty() {
                plan::write_weights(self.backend, &self.weights)?;
            }
            if found == capacity {
                break;
            }
        }
        Ok(Some(LearnedLayer { name: layer.name.clone(), features: found, capacity, images: seen }))
    }

    /// Finds the features of the last layer, and the classes that its cells belong to.
    fn patterns(&mut self, layer: &CellLayer, order: &[u32]) -> Result<Option<LearnedLayer>> {
        let (network, capacity) = (self.network, self.network.feature_count(layer));
        let mut stage = self.stage(layer)?;
        let mut patterns = Patterns { capacity, sums: Vec::new(), classes: Vec::new() };
        let mut strength = 0.0;
        for batch in order.chunks(BATCH) {
            if (self.stop)() {
                return Ok(None);
            }
            let values = self.run(&mut stage, batch)?;
            let known = patterns.sums.len();
            let mut changed = Vec::new();
            for (responses, &image) in stage.responses(&values).zip(batch) {
                strength += f64::from(responses.norms[0]);
                changed.extend(patterns.present(&responses, self.train.labels[image as usize], known));
            }
            changed.sort_unstable();
            changed.dedup();
            for cell in changed {
                network.set_feature(&mut self.weights.parameters, layer, cell, &patterns.sums[cell]);
                let written = network.feature_range(layer, cell);
                let span = Span::new(Region::Parameters, written.start, written.len());
                self.backend.write(span, &self.weights.parameters[written])?;
            }
        }
        let features = patterns.sums.len();
        ensure!(features > 0, "no training image excites the cells: all are blank, or have no edges");
        let head = network.head_weights().context("the network has no layer for its logits")?;
        let scale = (LOGIT_SCALE * order.len() as f64 / strength) as f32;
        for (class, weights) in self.weights.parameters[head].chunks_exact_mut(capacity).enumerate() {
            let of_class = |&cell: &u32| cell as usize == class;
            weights
                .iter_mut()
                .zip(&patterns.classes)
                .for_each(|(weight, cell)| *weight = scale * f32::from(of_class(cell)));
        }
        Ok(Some(LearnedLayer { name: layer.name.clone(), features, capacity, images: order.len() }))
    }

    fn stage(&mut self, layer: &CellLayer) -> Result<Stage<B>> {
        let outputs = [layer.input, layer.inhibition, layer.output];
        let plan = Plan::new(&self.network.with_outputs(&outputs), Mode::Inference, BATCH.min(self.train.count()))?;
        self.backend.allocate(&plan.memory_sizes(false))?;
        let mut programs = Programs::default();
        programs.get(self.backend, &plan, Sequence::Forward, plan.max_batch)?;
        plan::write_weights(self.backend, &self.weights)?;
        Ok(Stage { plan, programs, lens: outputs.map(|output| self.network.nodes[output].shape.len()) })
    }

    /// The responses to training images.
    fn run(&mut self, stage: &mut Stage<B>, numbers: &[u32]) -> Result<Vec<f32>> {
        let Stage { plan, programs, .. } = stage;
        let images = self.train.read(numbers, self.normalise.shape.len())?;
        self.backend.write(plan.span(plan.input, numbers.len()), &self.normalise.apply(&images))?;
        let program = programs.get(self.backend, plan, Sequence::Forward, numbers.len())?;
        self.backend.run(program)?;
        self.backend.read(plan.span(plan.logits, numbers.len()))
    }
}

impl<B: Backend> Stage<B> {
    fn responses<'a>(&self, values: &'a [f32]) -> impl Iterator<Item = Responses<'a>> {
        let [input, norms, _] = self.lens;
        values.chunks_exact(self.lens.iter().sum()).map(move |values| {
            let (input, rest) = values.split_at(input);
            let (norms, cells) = rest.split_at(norms);
            Responses { input, norms, cells }
        })
    }
}

/// Adds to `added` the patches of an image, at length 1, for which all cells are silent, those that are added included, but
/// at most `room`.
fn silent_patches(layer: &CellLayer, shape: Shape, responses: &Responses, added: &mut Vec<Vec<f32>>, room: usize) {
    let Responses { input, norms, cells } = *responses;
    let strongest = norms.iter().copied().fold(0.0, f32::max);
    if strongest == 0.0 {
        return;
    }
    let features = cells.len() / norms.len();
    // The patches that excite no cell so far.
    let mut silent: Vec<(usize, Vec<f32>)> = (0..norms.len())
        .filter(|&at| norms[at] >= LEAST_STRENGTH * strongest)
        .filter(|&at| {
            let largest = cells[at * features..][..features].iter().copied().fold(0.0, f32::max);
            largest / norms[at] + layer.threshold < LEARNING_THRESHOLD
        })
        .map(|at| (at, unit_patch(input, shape, layer.kernel, at)))
        .collect();
    let is_unlike = |patch: &[f32], feature: &[f32]| cosine(patch, feature) < LEARNING_THRESHOLD;
    silent.retain(|(_, patch)| added.iter().all(|feature| is_unlike(patch, feature)));
    while added.len() < room && !silent.is_empty() {
        // The first of the strongest.
        let stronger = |a: usize, b: usize| if norms[silent[b].0] > norms[silent[a].0] { b } else { a };
        let (_, feature) = silent.swap_remove((0..silent.len()).fold(0, stronger));
        silent.retain(|(_, patch)| is_unlike(patch, &feature));
        silent.sort_unstable_by_key(|&(at, _)| at);
        added.push(feature);
    }
}

/// The patch around a position, `[kernel][kernel][channels]`, with zeros outside the image, at length 1.
fn unit_patch(input: &[f32], shape: Shape, kernel: usize, at: usize) -> Vec<f32> {
    let Shape { height, width, channels } = shape;
    let (top, left, reach) = (at / width, at % width, kernel / 2);
    let mut patch = vec![0.0; kernel * kernel * channels];
    for (tap, target) in patch.chunks_exact_mut(channels).enumerate() {
        let (y, x) = (top + tap / kernel, left + tap % kernel);
        if (reach..height + reach).contains(&y) && (reach..width + reach).contains(&x) {
            target.copy_from_slice(&input[((y - reach) * width + x - reach) * channels..][..channels]);
        }
    }
    let norm = patch.iter().map(|value| value * value).sum::<f32>().sqrt();
    patch.iter_mut().for_each(|value| *value /= norm);
    patch
}

/// The cosine of two vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The cells of the last layer.
struct Patterns {
    capacity: usize,
    /// For each cell, the sum of the images, at length 1, that it has won.
    sums: Vec<Vec<f32>>,
    classes: Vec<u32>,
}

impl Patterns {
    /// Presents an image to the cells, of which the first `known` have responded to it. Returns the cell that has changed;
    /// `None` if there is no room for a cell that is needed, or the image is blank.
    fn present(&mut self, responses: &Responses, label: u32, known: usize) -> Option<usize> {
        let norm = responses.norms[0];
        if norm == 0.0 {
            return None;
        }
        let image: Vec<f32> = responses.input.iter().map(|value| value / norm).collect();
        let cells = &responses.cells[..known];
        let winner = (0..known).reduce(|best, cell| if cells[cell] > cells[best] { cell } else { best });
        let winner = winner.filter(|&cell| cells[cell] > 0.0 && self.classes[cell] == label);
        // A cell that was added after the responses were computed.
        let recent = || {
            (known..self.sums.len()).find(|&cell| {
                let sum = &self.sums[cell];
                self.classes[cell] == label && cosine(&image, sum) >= SAME_PATTERN * cosine(sum, sum).sqrt()
            })
        };
        if let Some(cell) = winner.or_else(recent) {
            self.sums[cell].iter_mut().zip(&image).for_each(|(sum, value)| *sum += value);
            return Some(cell);
        }
        if self.sums.len() == self.capacity {
            return None;
        }
        self.sums.push(image);
        self.classes.push(label);
        Some(self.sums.len() - 1)
    }
}
