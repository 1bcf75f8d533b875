//! Training on CUDA: PyTorch's losses, gradients of graphs, bit-identical reruns, graphs against eager, and going on
//! with a run on another device.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::data::Dataset;
use cnn_cuda::ops::{Algorithm, Backend, Metrics, Precision};
use cnn_cuda::train::{Hyperparameters, LearningRate, Outcome, Schedule, Trainer};

use super::harness::{Listener, bits, digits, diverging, lenet5, two_epochs};
use super::parity::Expectation;
use super::{averaging, dag, parity};
use crate::ops::Tolerance;
use crate::ops::cuda::options;
use crate::support::cuda::{on_cuda, on_the_emulator};

fn cuda(precision: Precision) -> Cuda {
    Cuda::new(Options { graphs: true, ..options(precision) }).expect("a CUDA device")
}

fn trainer<B: Backend>(backend: B) -> Trainer<B> {
    Trainer::new(backend, lenet5(), digits(150, 40), two_epochs()).expect("a trainer")
}

/// Weights and step losses of a whole run, as bits.
fn whole_run<B: Backend>(backend: B) -> (Vec<u32>, Vec<u32>) {
    let (mut trainer, mut listener) = (trainer(backend), Listener::default());
    assert_eq!(trainer.run(&mut listener).expect("a run"), Outcome::Finished);
    assert_eq!((listener.losses.len(), listener.epochs.len(), listener.steps), (10, 2, 10));
    (bits(&trainer.parameters().expect("read")), bits(&listener.losses))
}

/// Another order of the sums, over fifty steps.
const LOSSES: Tolerance = Tolerance { absolute: 0.0, relative: 1e-4 };

#[test]
fn a_narrow_network_gives_pytorchs_losses_and_weights() {
    let weights = Tolerance { absolute: 3e-6, relative: 1e-5 };
    let losses = || Expectation { tolerance: LOSSES, steps: 50 };
    on_cuda(|| parity::check_narrow(|| cuda(Precision::Fp32), losses(), Some(weights)));
}

#[test]
fn a_narrow_network_comes_close_in_lower_precision() {
    // Rounded to 11 bits, an activation strays by a thousandth.
    let loose = || Expectation { tolerance: Tolerance { absolute: 0.0, relative: 0.03 }, steps: 10 };
    on_cuda(|| {
        parity::check_narrow(|| cuda(Precision::Tf32), loose(), None);
        parity::check_narrow(|| cuda(Precision::Fp16), loose(), None);
    });
}

fn implicit(precision: Precision) -> Cuda {
    let algorithm = Some(Algorithm::Implicit);
    Cuda::new(Options { graphs: true, algorithm, ..options(precision) }).expect("a CUDA device")
}

#[test]
fn implicit_products_give_pytorchs_losses_and_weights() {
    let weights = Tolerance { absolute: 3e-6, relative: 1e-5 };
    let losses = || Expectation { tolerance: LOSSES, steps: 50 };
    on_cuda(|| parity::check_narrow(|| implicit(Precision::Fp32), losses(), Some(weights)));
}

#[test]
fn implicit_products_come_close_in_lower_precision() {
    let loose = || Expectation { tolerance: Tolerance { absolute: 0.0, relative: 0.03 }, steps: 10 };
    on_cuda(|| {
        parity::check_narrow(|| implicit(Precision::Tf32), loose(), None);
        parity::check_narrow(|| implicit(Precision::Fp16), loose(), None);
    });
}

#[test]
fn implicit_products_are_bit_identical_in_reruns_and_graphs() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16] {
            let recorded = few_steps(implicit(precision));
            assert!(recorded == few_steps(implicit(precision)), "two runs differ in {precision}");
            let algorithm = Some(Algorithm::Implicit);
            let eager = few_steps(Cuda::new(Options { algorithm, ..options(precision) }).expect("a CUDA device"));
            assert!(recorded == eager, "graphs change the numbers in {precision}");
        }
    });
}

/// Weights and step losses of a short run, as bits.
fn few_steps<B: Backend>(backend: B) -> (Vec<u32>, Vec<u32>) {
    let hyper = Hyperparameters { epochs: 1, max_steps: Some(4), ..two_epochs() };
    let mut trainer = Trainer::new(backend, lenet5(), digits(96, 32), hyper).expect("a trainer");
    let mut listener = Listener::default();
    trainer.run(&mut listener).expect("a run");
    (bits(&trainer.parameters().expect("read")), bits(&listener.losses))
}

#[test]
fn mnist_cnn_gives_pytorchs_losses_on_mnist() {
    on_cuda(|| {
        // The narrow network does all fifty there; this one would take minutes.
        let steps = if on_the_emulator() { 5 } else { 50 };
        parity::check_mnist(|| cuda(Precision::Fp32), Expectation { tolerance: LOSSES, steps });
    });
}

#[test]
fn gradients_of_a_branching_graph_are_those_of_its_loss() {
    on_cuda(|| dag::check_gradients(&mut cuda(Precision::Fp32)));
}

#[test]
fn reruns_are_bit_identical_and_graphs_change_nothing() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16] {
            let recorded = whole_run(cuda(precision));
            assert!(recorded == whole_run(cuda(precision)), "two runs differ in {precision}");
            let eager = whole_run(Cuda::new(options(precision)).expect("a CUDA device"));
            assert!(recorded == eager, "graphs change the numbers in {precision}");
        }
    });
}

#[test]
fn a_recorded_step_takes_its_own_rate() {
    on_cuda(|| {
        let learning_rate = LearningRate { rate: 0.05, schedule: Schedule::OneCycle { rise: 0.3 }, warm_up: 0 };
        let hyper = Hyperparameters { learning_rate, ..two_epochs() };
        let mut host =
            Trainer::new(Cpu::new(Some(1)).expect("a thread"), lenet5(), digits(150, 40), hyper).expect("host");
        let mut device = Trainer::new(cuda(Precision::Fp32), lenet5(), digits(150, 40), hyper).expect("device");
        let (mut expected, mut got) = (Listener::default(), Listener::default());
        host.run(&mut expected).expect("a run");
        device.run(&mut got).expect("a run");
        check_close(&got.losses, &bits(&expected.losses));
    });
}

#[test]
fn an_interrupted_run_ends_bit_identical() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16] {
            let whole = whole_run(cuda(precision));
            for stop in if precision == Precision::Fp32 { vec![1, 7] } else { vec![5] } {
                let mut first = trainer(cuda(precision));
                let mut before = Listener { stop_after: Some(stop), ..Listener::default() };
                assert_eq!(first.run(&mut before).expect("a run"), Outcome::Interrupted);
                let mut second = trainer(cuda(precision));
                second.restore(&first.state().expect("a state")).expect("restored");
                let mut after = Listener::default();
                second.run(&mut after).expect("a run");
                let losses = [before.losses, after.losses].concat();
                let ended = (bits(&second.parameters().expect("read")), bits(&losses));
                assert!(ended == whole, "stopped after {stop} in {precision}");
            }
        }
    });
}

/// Weights, step losses and the epochs' metrics of a run that stops after so many steps, where it does, and goes on in
/// another trainer.
fn stopped_run(
    trainer: impl Fn() -> Trainer<Cuda>,
    stop_after: Option<u64>,
) -> (Vec<u32>, Vec<u32>, Vec<[Metrics; 2]>) {
    let (mut last, mut listeners) = (trainer(), vec![Listener { stop_after, ..Listener::default() }]);
    if last.run(&mut listeners[0]).expect("a run") == Outcome::Interrupted {
        let state = last.state().expect("a state");
        last = trainer();
        last.restore(&state).expect("restored");
        listeners.push(Listener::default());
        assert_eq!(last.run(&mut listeners[1]).expect("a run"), Outcome::Finished);
    }
    assert_eq!(listeners.len(), 1 + usize::from(stop_after.is_some()));
    let losses = listeners.iter().flat_map(|listener| bits(&listener.losses)).collect();
    let epochs = listeners.iter().flat_map(|listener| &listener.epochs);
    let metrics = epochs.map(|epoch| [epoch.train, epoch.test]).collect();
    (bits(&last.parameters().expect("read")), losses, metrics)
}

#[test]
fn streamed_steps_give_the_bits_of_resident_ones() {
    on_cuda(|| {
        let on = |set: &Dataset| {
            Trainer::new(cuda(Precision::Fp32), lenet5(), set.clone(), two_epochs()).expect("a trainer")
        };
        let resident = digits(150, 40);
        let mut streamed = resident.clone();
        streamed.stream_from_memory().expect("streamed");
        let expected = stopped_run(|| on(&resident), None);
        assert_eq!((expected.1.len(), expected.2.len()), (10, 2));
        // Within the first epoch and the second, and where one ends.
        for stop_after in [None, Some(1), Some(5), Some(7)] {
            assert!(stopped_run(|| on(&streamed), stop_after) == expected, "stopped after {stop_after:?}");
        }
    });
}

#[test]
fn clipped_and_averaged_runs_go_on_bit_identical() {
    on_cuda(|| averaging::check_interruption(|| cuda(Precision::Fp32), &[4]));
}

/// Neither waits for its steps, so a batch that is read from the host too early or too late shows in the weights.
#[test]
fn a_streamed_run_ends_as_a_resident_one() {
    on_cuda(|| {
        let run = |streamed: bool| {
            let (mut set, hyper) = (digits(86, 16), Hyperparameters { batch_size: 4, ..two_epochs() });
            if streamed {
                set.stream_from_memory().expect("streamed");
            }
            let mut trainer = Trainer::new(cuda(Precision::Fp32), lenet5(), set, hyper).expect("a trainer");
            let mut listener = Listener::default();
            trainer.run(&mut listener).expect("a run");
            (bits(&trainer.parameters().expect("read")), bits(&listener.losses))
        };
        assert!(run(true) == run(false));
    });
}

#[test]
fn a_run_goes_on_across_devices() {
    on_cuda(|| {
        let on_cpu = || Cpu::new(Some(1)).expect("a thread");
        let expected = whole_run(on_cpu()).1;
        let state = |mut listener: Listener, trainer: &mut dyn FnMut(&mut Listener)| {
            trainer(&mut listener);
            listener.losses
        };
        let stopping = || Listener { stop_after: Some(4), ..Listener::default() };
        let mut host = trainer(on_cpu());
        let begun = state(stopping(), &mut |listener| {
            host.run(listener).expect("a run");
        });
        let mut device = trainer(cuda(Precision::Fp32));
        device.restore(&host.state().expect("a state")).expect("restored");
        let ended = state(Listener::default(), &mut |listener| {
            device.run(listener).expect("a run");
        });
        check_close(&[begun, ended].concat(), &expected);
        let mut device = trainer(cuda(Precision::Fp32));
        let begun = state(stopping(), &mut |listener| {
            device.run(listener).expect("a run");
        });
        let mut host = trainer(on_cpu());
        host.restore(&device.state().expect("a state")).expect("restored");
        let ended = state(Listener::default(), &mut |listener| {
            host.run(listener).expect("a run");
        });
        check_close(&[begun, ended].concat(), &expected);
    });
}

fn check_close(losses: &[f32], expected: &[u32]) {
    let expected: Vec<f64> = expected.iter().map(|&bits| f32::from_bits(bits).into()).collect();
    crate::ops::compare("losses", losses, &expected, Tolerance { absolute: 0.0, relative: 1e-3 });
}

#[test]
fn divergence_is_found_at_the_end_of_its_epoch_and_names_its_step() {
    on_cuda(|| {
        let mut trainer = trainer(cuda(Precision::Fp32));
        trainer.set_hyper(diverging(trainer.hyper())).expect("settings");
        let message = format!("{:#}", trainer.run(&mut Listener::default()).expect_err("it diverges"));
        assert!((1..=3).any(|step| message.contains(&format!("at step {step} "))), "{message}");
    });
}
