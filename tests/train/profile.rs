//! Profiling: the time of a part covers its launches only, and profiling a step does not change the training state.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::network::Network;
use cnn_cuda::ops::{
    Activation, Backend, CopyBuffer, LossScale, MemorySizes, Metrics, Normalise, Op, Optimizer, Precision, Region,
    Rule, Sgd, Span, Step, StepSeconds, Subset, TIMED_RUNS, TrainingState,
};
use cnn_cuda::plan::{self, Mode, Plan, Sequence, TrainSettings};
use cnn_cuda::shape::Shape;

use super::dag::branching;
use super::harness::bits;
use super::norm::normalised;
use crate::ops::cuda::options;
use crate::ops::lab::{Lab, optimizer_update, random};
use crate::support::cuda::{on_cuda, on_the_emulator};

const BATCH: usize = 3;
const SGD: Optimizer = Optimizer {
    rule: Rule::Sgd(Sgd { momentum: 0.9, nesterov: true }),
    weight_decay: 1e-3,
    clip_norm: Some(0.5),
    average_decay: Some(0.9),
    average_warm_up: true,
};

fn train_step(plan: &Plan) -> Vec<Step> {
    plan.steps(&Sequence::TrainStep(TrainSettings { optimizer: SGD, ..TrainSettings::default() }), BATCH)
}

/// The state that outlives a step, as bits, after three training steps with `between` called before the last.
fn after_steps<B: Backend>(
    mut backend: B,
    network: &Network,
    between: fn(&mut B, &Plan, &mut B::Program),
) -> (Vec<Vec<u32>>, Metrics, Option<LossScale>) {
    let plan = Plan::new(network, Mode::Training, BATCH).expect("a plan");
    let shape = network.input();
    let normalise = Normalise { shape, mean: vec![0.5; shape.channels], std: vec![0.5; shape.channels] };
    let images = (0..BATCH * shape.len()).map(|index| (index * 31 % 256) as u8).collect();
    backend.load_subset(Subset::Train, &normalise, images, vec![1, 0, 2]).expect("images");
    let sizes = MemorySizes { average: plan.parameter_count, ..plan.memory_sizes(true) };
    backend.allocate(&sizes).expect("memory");
    let mut program = backend.compile(train_step(&plan)).expect("a program");
    plan::write_weights(&mut backend, &network.initial_weights(0)).expect("weights");
    backend.set_metrics(Metrics::default()).expect("metrics");
    backend.set_learning_rates(&[0.05]).expect("rate");
    for step in 0..3 {
        if step == 2 {
            between(&mut backend, &plan, &mut program);
        }
        backend.set_order(Subset::Train, &[2, 0, 1], 0).expect("order");
        backend.run(&mut program).expect("a step");
    }
    let regions = [Region::Parameters, Region::Momentum, Region::Gradients, Region::Average];
    let spans = regions.map(|region| Span::new(region, 0, plan.parameter_count));
    let statistics = Span::new(Region::Statistics, 0, network.statistics_len());
    let values = spans.into_iter().chain([statistics]).map(|span| backend.read(span).expect("read"));
    let values = values.map(|values| bits(&values)).collect();
    (values, backend.read_metrics().expect("metrics"), backend.loss_scale().expect("scale"))
}

fn profiled<B: Backend>(backend: &mut B, plan: &Plan, program: &mut B::Program) {
    let order: Vec<u32> = (0..(BATCH * TIMED_RUNS) as u32).map(|index| index % 3).collect();
    backend.set_order(Subset::Train, &order, 0).expect("order");
    let times = plan::profile_step(backend, &train_step(plan), program).expect("a profile");
    assert_eq!(times.len(), plan.forward.len() + plan.backward.len() + 3);
    assert!(times.iter().all(|part| part.seconds > 0.0));
    let ends = times.windows(2).all(|pair| pair[1].start >= pair[0].start + 0.999 * pair[0].seconds);
    assert!(ends, "a part begins before the previous one ends");
}

fn networks() -> [Network; 2] {
    let shape = Shape::new(6, 6, 1);
    [branching(shape, 2, 0.1), normalised(shape, 2, Activation::Relu)]
}

#[test]
fn a_profiled_step_changes_nothing_on_cuda() {
    on_cuda(|| {
        for (network, precision) in networks().iter().zip([Precision::Fp32, Precision::Fp16]) {
            let cuda = || Cuda::new(Options { graphs: true, ..options(precision) }).expect("a CUDA device");
            let expected = after_steps(cuda(), network, |_, _, _| ());
            assert!(after_steps(cuda(), network, profiled) == expected, "{} in {precision}", network.name);
        }
    });
}

#[test]
fn a_profiled_step_changes_nothing_on_the_cpu() {
    let cpu = || Cpu::new(Some(1)).expect("a thread");
    for network in networks() {
        let expected = after_steps(cpu(), &network, |_, _, _| ());
        assert!(after_steps(cpu(), &network, profiled) == expected, "{}", network.name);
    }
}

/// The emulator's clock advances by a microsecond for every operation and a nanosecond for every thread.
#[test]
fn a_step_is_timed_between_two_events() {
    on_cuda(|| {
        let mut lab = Lab::new(Cuda::new(options(Precision::Fp16)).expect("a CUDA device"));
        let (input, output) = (lab.put(Region::Arena, &random(64, 0)), lab.empty(Region::Arena, 64));
        lab.backend.write(Span::new(Region::Gradients, 0, 64), &[0.0; 64]).expect("write");
        lab.backend.set_learning_rates(&[0.01]).expect("rate");
        let mut timed = |op: Op| {
            let mut program = lab.backend.compile(vec![Step { label: "timed".into(), op }]).expect("a program");
            let launches = Cuda::launches(&program).expect("a device launches").concat().len();
            let StepSeconds { seconds, runs } = lab.backend.time_step(&mut program, 0).expect("timed");
            assert!((1..=TIMED_RUNS).contains(&runs), "{runs} runs");
            (launches, seconds)
        };
        let (one, once) = timed(CopyBuffer { input, output }.into());
        // The gradient norm with the overflow check, and the update.
        let (two, twice) =
            timed(optimizer_update(Optimizer { clip_norm: Some(1.0), ..Optimizer::default() }, 64).into());
        assert_eq!((one, two), (1, 2));
        assert!(0.0 < once && once < twice, "{once} for one launch, {twice} for two");
        if on_the_emulator() {
            // Ten launches of one block, and the event after them.
            assert!((once - 1.356e-6).abs() < 1e-11, "{once}");
            // One more launch, and one more block in each.
            assert!((twice - once - 1.512e-6).abs() < 1e-11, "{twice} after {once}");
        }
    });
}
