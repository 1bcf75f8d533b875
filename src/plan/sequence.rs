//! The sequences of a plan's steps: a training step, an evaluation step, a forward pass, and only the images of either step.

use super::{Matrix, Plan, ValueId};
use crate::ops::{
    AccumulateGradients, AddView, Augment, Augmentation, Gather, LossGradient, MicroBatch, MixImages, Muon,
    MuonDirection, Optimizer, OptimizerUpdate, Rule, SoftmaxCrossEntropy, Span, Stage, Step, Subset, View,
};

/// The settings of a training step. Steps with equal settings share a program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrainSettings {
    pub optimizer: Optimizer,
    /// Label smoothing, in `[0, 1)`.
    pub label_smoothing: f32,
    pub augmentation: Option<Augmentation>,
    pub stage: Option<Stage>,
    /// Whether each class has a weight in the loss.
    pub weighted: bool,
    /// If the step has several micro-batches, each of which runs as one sequence.
    pub accumulation: Option<Accumulation>,
}

/// How a micro-batch enters its optimiser step. The last one makes the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accumulation {
    pub micro_batch: MicroBatch,
    /// Its share of the step's images.
    pub weight: f32,
}

/// A sequence of steps that runs as one program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sequence {
    /// One optimiser step on the next training images, or one of its micro-batches.
    TrainStep(TrainSettings),
    /// Loss and accuracy of the next test images, by the mean logits of their views, added to the metrics.
    EvaluateStep,
    /// The forward pass, from [`Plan::input`] to [`Plan::logits`].
    Forward,
    /// The backward pass of an attribution, from the gradient of the last node to that of the input.
    Backward,
    /// The images of a training step with these settings, transformed and mixed, in [`Plan::input`].
    TrainImages(TrainSettings),
    /// The next test images, in [`Plan::input`].
    TestImages,
}

impl Plan {
    /// The steps of a sequence, in terms of the plan's values.
    pub fn sequence(&self, sequence: &Sequence) -> Vec<Step<ValueId>> {
        let gathered = |op| std::iter::once(Step { label: "gather".into(), op });
        let gather = |subset, augmentation, view, output| {
            Gather { subset, shape: self.input_shape, augmentation, view, output }.into()
        };
        let train = |augmentation, stage| {
            let output = self.unmixed.unwrap_or(self.input);
            match stage {
                Some(stage) => Augment { stage, shape: self.input_shape, augmentation, output }.into(),
                None => gather(Subset::Train, augmentation, View::default(), output),
            }
        };
        let mix = || {
            self.unmixed.map(|unmixed| {
                let op = MixImages { shape: self.input_shape, input: unmixed, output: self.input };
                Step { label: "mix".into(), op: op.into() }
            })
        };
        let forward = self.forward.iter().cloned();
        match *sequence {
            Sequence::TrainStep(settings) => {
                let TrainSettings { optimizer, label_smoothing, augmentation, stage, weighted, accumulation } =
                    settings;
                let trains = self.places[self.trained_gradients].len > 0;
                let updates = trains && accumulation.is_none_or(|it| it.micro_batch == MicroBatch::Last);
                gathered(train(augmentation, stage))
                    .chain(mix())
                    .chain(forward)
                    .chain(self.losses(label_smoothing, weighted))
                    .chain(self.backward.iter().cloned())
                    .chain(accumulation.map(|it| self.accumulate(it)))
                    .chain(updates.then(|| self.update(&optimizer)).into_iter().flatten())
                    .collect()
            }
            Sequence::EvaluateStep => {
                let pass = |(index, &(view, weight)): (usize, &(View, f32))| {
                    let add = self.average.map(|average| {
                        let before = (index > 0).then_some(average);
                        let op = AddView { weight, logits: self.logits, before, average };
                        Step { label: format!("view {}", index + 1), op: op.into() }
                    });
                    gathered(gather(Subset::Test, None, view, self.input))
                        .chain(forward.clone())
                        .chain(add)
                        .collect::<Vec<_>>()
                };
                let loss = SoftmaxCrossEntropy { classes: self.classes, logits: self.evaluated(), gradient: None };
                let loss = Step { label: "loss".into(), op: loss.into() };
                self.views.list().iter().enumerate().flat_map(pass).chain([loss]).collect()
            }
            Sequence::Forward => forward.collect(),
            Sequence::Backward => self.backward.clone(),
            Sequence::TrainImages(TrainSettings { augmentation, stage, .. }) => {
                gathered(train(augmentation, stage)).chain(mix()).collect()
            }
            Sequence::TestImages => gathered(gather(Subset::Test, None, View::default(), self.input)).collect(),
        }
    }

    /// The steps of a sequence, in terms of spans, for a batch of at most [`Plan::max_batch`].
    pub fn steps(&self, sequence: &Sequence, batch: usize) -> Vec<Step> {
        let placed = |step: Step<ValueId>| Step { label: step.label, op: step.op.map(|value| self.span(value, batch)) };
        self.sequence(sequence).into_iter().map(placed).collect()
    }

    /// The step that adds a micro-batch's gradients to those before it.
    fn accumulate(&self, Accumulation { micro_batch, weight }: Accumulation) -> Step<ValueId> {
        let [_, gradients, ..] = self.whole_regions;
        let op = AccumulateGradients { weight, micro_batch, gradients, sum: self.gradient_sum };
        Step { label: "accumulation".into(), op: op.into() }
    }

    /// The steps that change the parameters.
    fn update(&self, optimizer: &Optimizer) -> impl Iterator<Item = Step<ValueId>> {
        let update = OptimizerUpdate::new(*optimizer, self.groups, self.whole_regions);
        self.directions(optimizer.rule).chain([Step { label: "update".into(), op: update.into() }])
    }

    /// The steps before an update that turn gradients into Muon's directions.
    fn directions(&self, rule: Rule) -> impl Iterator<Item = Step<ValueId>> {
        let muon = if let Rule::Muon(muon) = rule { Some(muon) } else { None };
        let step = move |op: Muon| {
            move |(index, it): (usize, &Matrix)| {
                let Matrix { rows, weight, gradient, momentum, .. } = *it;
                let weight = op.normalises.then_some(weight);
                let all_gradients = (index == 0).then_some(self.trained_gradients);
                let direction = MuonDirection { op, rows, gradient, momentum, weight, all_gradients };
                Step { label: format!("{} direction", it.name), op: direction.into() }
            }
        };
        muon.into_iter().flat_map(move |op| self.matrices.iter().enumerate().map(step(op)))
    }

    /// The losses of the main head, then of the auxiliary heads.
    fn losses(&self, smoothing: f32, weighted: bool) -> impl Iterator<Item = Step<ValueId>> {
        self.heads.iter().map(move |&(logits, gradient)| {
            let label = if gradient.auxiliary.is_some() { "auxiliary loss" } else { "loss" };
            let gradient = Some(LossGradient { smoothing, weighted, mixed: self.unmixed.is_some(), ..gradient });
            let op = SoftmaxCrossEntropy { classes: self.classes, logits, gradient };
            Step { label: label.into(), op: op.into() }
        })
    }

    /// The logits that an evaluation step takes its loss of, `[max_batch][classes]`.
    pub fn evaluated(&self) -> ValueId {
        self.average.unwrap_or(self.logits)
    }

    /// The span of a buffer, for a batch of at most [`Plan::max_batch`].
    pub fn span(&self, value: ValueId, batch: usize) -> Span {
        let whole = self.places[value];
        if whole.region.is_planned() { Span { len: whole.len / self.max_batch * batch, ..whole } } else { whole }
    }
}
