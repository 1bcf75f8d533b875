//! Several training steps in one graph: no bit of a run depends on how many, and they are taken where they save time.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::data::Dataset;
use cnn_cuda::network::{Builder, Conv2dOptions, Network};
use cnn_cuda::ops::{Algorithm, Augmentation, Backend, Branches, GraphSteps, Recording, Sgd};
use cnn_cuda::shape::{Shape, Window};
use cnn_cuda::train::{Hyperparameters, Outcome, TrainState, Trainer};

use super::harness::{Listener, bits, digits, two_epochs};
use crate::ops::cuda::options;
use crate::support::cuda::{on_cuda, on_the_emulator};
use crate::support::emulator::on_emulator;

const BATCH: usize = 4;

/// Quick on the emulator, with statistics and a dropout.
fn network() -> Network {
    let mut net = Builder::new("small", Shape::new(28, 28, 1));
    let strided = Conv2dOptions { out_channels: 4, kernel: 3, stride: 2, ..Default::default() };
    let conv = net.conv2d("conv", 0, strided).expect("conv");
    let normalised = net.batch_norm2d("bn", conv).expect("bn");
    let relu = net.relu(normalised).expect("relu");
    let pool = net.max_pool2d(relu, Window { kernel: 2, stride: 2, padding: 0 }).expect("pool");
    let flat = net.flatten(pool);
    let hidden = net.linear("fc1", flat, 16).expect("fc1");
    let dropped = net.dropout(hidden, 0.25).expect("dropout");
    net.linear("fc2", dropped, 10).expect("fc2");
    net.finish().expect("a network")
}

/// Epochs of 22 steps, the last one on a partial batch.
fn set() -> Dataset {
    digits(86, 16)
}

fn hyper() -> Hyperparameters {
    Hyperparameters { batch_size: BATCH, ..two_epochs() }
}

fn cuda(graph_steps: GraphSteps) -> Cuda {
    Cuda::new(Options { graphs: true, graph_steps, ..options("fp32") }).expect("a CUDA device")
}

fn trainer<B: Backend>(backend: B, hyper: Hyperparameters, set: Dataset) -> Trainer<B> {
    Trainer::new(backend, network(), set, hyper).expect("a trainer")
}

/// All that a run leaves, in a form that can be compared to the bit.
#[derive(PartialEq)]
struct Left {
    weights: Vec<u32>,
    losses: Vec<u32>,
    state: TrainState,
    metrics: Vec<String>,
}

fn left<B: Backend>(trainer: &mut Trainer<B>, listeners: &[&Listener]) -> Left {
    let state = TrainState { epoch_seconds: 0.0, ..trainer.state().expect("a state") };
    let losses = listeners.iter().flat_map(|listener| bits(&listener.losses)).collect();
    let epochs = listeners.iter().flat_map(|listener| &listener.epochs);
    let metrics = epochs.map(|epoch| format!("{:?} {:?} {}", epoch.train, epoch.test, epoch.total_steps)).collect();
    Left { weights: bits(&state.parameters), losses, state, metrics }
}

/// What a whole run leaves, and how often it was told of steps.
fn whole_run<B: Backend>(backend: B, hyper: Hyperparameters, set: Dataset) -> (Left, u64) {
    let (mut trainer, mut listener) = (trainer(backend, hyper, set), Listener::default());
    assert_eq!(trainer.run(&mut listener).expect("a run"), Outcome::Finished);
    (left(&mut trainer, &[&listener]), listener.steps)
}

#[test]
fn no_bit_depends_on_how_many_steps_are_one_graph() {
    let averaged = Sgd { clip_norm: Some(0.125), average_decay: Some(0.9), ..two_epochs().sgd };
    let augmentation = Augmentation { crop_padding: 2, flip: true, ..Augmentation::default() };
    let all = [
        ("fp32", Algorithm::Direct, Branches::Off, hyper()),
        ("fp32", Algorithm::Implicit, Branches::On, Hyperparameters { augmentation, ..hyper() }),
        ("fp32", Algorithm::Im2col, Branches::Off, Hyperparameters { sgd: averaged, max_steps: Some(31), ..hyper() }),
        ("fp16", Algorithm::Direct, Branches::Off, hyper()),
    ];
    on_cuda(|| {
        for (precision, algorithm, branches, hyper) in all {
            let run = |graph_steps| {
                let algorithm = Some(algorithm);
                let options = Options { graphs: true, algorithm, branches, graph_steps, ..options(precision) };
                whole_run(Cuda::new(options).expect("a CUDA device"), hyper, set())
            };
            let (expected, told) = run(GraphSteps::Count(1));
            assert_eq!(told, hyper.max_steps.unwrap_or(44));
            assert_eq!(expected.losses.len() as u64, told);
            for graph_steps in [GraphSteps::Count(4), GraphSteps::Count(16), GraphSteps::Auto] {
                let (found, told) = run(graph_steps);
                assert!(found == expected, "{graph_steps:?} in {precision}, {algorithm:?}");
                let grouped = told < expected.losses.len() as u64 - 10;
                assert_eq!(grouped, graph_steps != GraphSteps::Auto, "{graph_steps:?}: told {told} times");
            }
        }
    });
}

#[test]
fn the_first_steps_and_what_is_left_of_an_epoch_are_single() {
    on_cuda(|| {
        // 1, 1, four times 4, 1, 1, 1, the partial batch; five times 4, 1, the partial batch.
        assert_eq!(whole_run(cuda(GraphSteps::Count(4)), hyper(), set()).1, 10 + 7);
        // 1, 1, 16, 1, 1, 1, the partial batch; 16, 1.
        let hyper = Hyperparameters { max_steps: Some(39), ..hyper() };
        assert_eq!(whole_run(cuda(GraphSteps::Count(16)), hyper, set()).1, 7 + 2);
    });
}

#[test]
fn an_interrupted_run_goes_on_with_other_graphs() {
    on_cuda(|| {
        let (expected, _) = whole_run(cuda(GraphSteps::Count(1)), hyper(), set());
        for (stop, steps) in [(3, 6), (12, 30)] {
            let mut first = trainer(cuda(GraphSteps::Count(4)), hyper(), set());
            let mut before = Listener { stop_after: Some(stop), ..Listener::default() };
            assert_eq!(first.run(&mut before).expect("a run"), Outcome::Interrupted);
            assert_eq!(first.position().total_steps, steps);
            let mut second = trainer(cuda(GraphSteps::Count(5)), hyper(), set());
            second.restore(&first.state().expect("a state")).expect("restored");
            let mut after = Listener::default();
            second.run(&mut after).expect("a run");
            assert!(left(&mut second, &[&before, &after]) == expected, "stopped after {steps} steps");
        }
    });
}

#[test]
fn streamed_steps_and_those_of_a_host_are_single() {
    on_cuda(|| {
        let mut streamed = set();
        streamed.stream_from_memory().expect("streamed");
        let (expected, _) = whole_run(cuda(GraphSteps::Count(1)), hyper(), set());
        let (found, told) = whole_run(cuda(GraphSteps::Count(4)), hyper(), streamed);
        assert!(found == expected && told == 44, "told {told} times");
    });
    assert_eq!(whole_run(Cpu::new(Some(1)).expect("a thread"), hyper(), set()).1, 44);
}

#[test]
fn several_steps_are_a_steps_nodes_several_times() {
    on_cuda(|| {
        for branches in [Branches::Off, Branches::On] {
            let options = Options { graphs: true, branches, graph_steps: GraphSteps::Count(6), ..options("fp16") };
            let mut trainer = trainer(Cuda::new(options).expect("a CUDA device"), hyper(), set());
            trainer.run(&mut Listener::default()).expect("a run");
            let [one, six] = [1, 6].map(|steps| Recording::TrainSteps { batch: BATCH, steps });
            let nodes = trainer.backend.recorded_launches(one).expect("recorded");
            assert_eq!(trainer.backend.recorded_launches(six), Some(6 * nodes));
            assert_eq!(trainer.backend.has_branches(six), Some(branches == Branches::On));
        }
    });
}

#[test]
fn a_loss_that_is_not_finite_is_found_at_its_step() {
    on_cuda(|| {
        let message = |steps| {
            let mut trainer = trainer(cuda(GraphSteps::Count(steps)), hyper(), set());
            trainer.hyper.learning_rate.rate = 1e38;
            format!("{:#}", trainer.run(&mut Listener::default()).expect_err("it diverges"))
        };
        let (one, several) = (message(1), message(8));
        assert!(one.contains(" at step ") && one == several, "{one}; {several}");
    });
}

/// Steps that are enough to compare, in epochs of 200 or of 60.
const ENOUGH: u64 = 290;
const EPOCHS: [usize; 2] = [200, 60];

fn long_run(epoch: usize) -> (Hyperparameters, Dataset) {
    (Hyperparameters { epochs: 9, max_steps: Some(ENOUGH), ..hyper() }, digits(epoch * BATCH, 16))
}

/// What a long run leaves that compares, how often it was told of steps, and how many it then takes at once.
fn compared(epoch: usize) -> (Left, u64, usize) {
    let (hyper, set) = long_run(epoch);
    let (mut trainer, mut listener) = (trainer(cuda(GraphSteps::Auto), hyper, set), Listener::default());
    trainer.run(&mut listener).expect("a run");
    let at_once = trainer.backend.steps_at_once(BATCH, 100).expect("a number");
    if on_the_emulator() {
        // A GPU may not have come to the marks in time.
        assert!(!trainer.backend.compares_steps(), "nothing was settled");
        let several = Recording::TrainSteps { batch: BATCH, steps: 16 };
        assert_eq!(trainer.backend.recorded_launches(several).is_some(), at_once > 1, "what is not used is kept");
    }
    (left(&mut trainer, &[&listener]), listener.steps, at_once)
}

fn single_steps(epoch: usize) -> Left {
    let (hyper, set) = long_run(epoch);
    whole_run(cuda(GraphSteps::Count(1)), hyper, set).0
}

/// By a clock that counts work, a graph of several steps saves nothing.
#[test]
fn steps_stay_single_where_launches_cost_nothing() {
    on_cuda(|| {
        for epoch in EPOCHS {
            let (found, told, at_once) = compared(epoch);
            assert!(found == single_steps(epoch));
            // Six times sixteen were handed out to be compared.
            let compared = (at_once, told) == (1, ENOUGH - 6 * 15);
            assert!(compared || !on_the_emulator(), "{at_once} at once, told {told} times");
        }
    });
}

#[test]
fn several_steps_are_one_graph_where_launches_cost() {
    on_emulator(&[("CUDA_EMULATOR_GRAPH_LAUNCH_NS", "3000")], || {
        // In long epochs one and five more once it was settled; in short ones three, in the last.
        for (epoch, more) in EPOCHS.into_iter().zip([6, 3]) {
            let (found, told, at_once) = compared(epoch);
            assert!(found == single_steps(epoch));
            assert_eq!((at_once, told), (16, ENOUGH - (6 + more) * 15), "epochs of {epoch} steps");
        }
    });
}

#[test]
fn long_steps_are_not_compared() {
    on_emulator(&[("CUDA_EMULATOR_GRAPH_LAUNCH_NS", "1000000")], || {
        let (_, told, at_once) = compared(EPOCHS[0]);
        assert_eq!((told, at_once), (ENOUGH, 1));
    });
}

#[test]
fn a_graph_that_is_refused_is_done_without() {
    let refusing = |nodes| [("CUDA_EMULATOR_GRAPH_NODES", nodes)];
    on_emulator(&refusing("60"), || {
        let (expected, _) = whole_run(cuda(GraphSteps::Count(1)), hyper(), set());
        for steps in [GraphSteps::Count(5), GraphSteps::Count(17)] {
            let (found, told) = whole_run(cuda(steps), hyper(), set());
            assert!(found == expected, "{steps:?}");
            assert!(told >= 44 - 16, "{steps:?}: told {told} times");
        }
        let (found, _, at_once) = compared(EPOCHS[0]);
        assert!(found == single_steps(EPOCHS[0]) && at_once == 1);
    });
}
