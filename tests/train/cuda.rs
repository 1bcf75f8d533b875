//! Training on CUDA: PyTorch's losses, gradients, bit-identical reruns with and without CUDA graphs, and resuming on
//! another device.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::cuda::{Cuda, Options};
use cnn_cuda::data::Dataset;
use cnn_cuda::ops::{Algorithm, Backend, Metrics, Precision};
use cnn_cuda::train::{Hyperparameters, LearningRate, Outcome, Schedule, Trainer};

use super::harness::{Listener, bits, digits, diverging, lenet5, two_epochs};
use super::parity::Expectation;
use super::{averaging, dag, mixing, parity, views};
use crate::ops::cuda::{FP16, options};
use crate::ops::{FP32, Tolerance};
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

/// Sums are in another order, over fifty steps.
const LOSSES: Tolerance = Tolerance { absolute: 0.0, relative: 1e-4 };

#[test]
fn a_narrow_network_gives_pytorchs_losses_and_weights() {
    let weights = Tolerance { absolute: 3e-6, relative: 1e-5 };
    let losses = || Expectation { tolerance: LOSSES, steps: 50 };
    on_cuda(|| parity::check_narrow(|| cuda(Precision::Fp32), losses(), Some(weights)));
}

#[test]
fn a_narrow_network_is_close_to_pytorch_in_lower_precision() {
    // Rounding to 11 bits changes an activation by up to a thousandth.
    let expected = || Expectation { tolerance: Tolerance { absolute: 0.0, relative: 0.03 }, steps: 10 };
    on_cuda(|| {
        parity::check_narrow(|| cuda(Precision::Tf32), expected(), None);
        parity::check_narrow(|| cuda(Precision::Fp16), expected(), None);
        // With 8 bits, by eight times as much.
        let coarse = Expectation { tolerance: Tolerance { absolute: 0.0, relative: 0.1 }, steps: 10 };
        parity::check_narrow(|| cuda(Precision::Bf16), coarse, None);
    });
}

fn implicit(precision: Precision) -> Cuda {
    let algorithm = Some(Algorithm::Implicit);
    Cuda::new(Options { graphs: true, algorithm, ..options(precision) }).expect("a CUDA device")
}

#[test]
#[ignore = "long; CI runs it"]
fn implicit_gemm_gives_pytorchs_losses_and_weights() {
    let weights = Tolerance { absolute: 3e-6, relative: 1e-5 };
    let losses = || Expectation { tolerance: LOSSES, steps: 50 };
    on_cuda(|| parity::check_narrow(|| implicit(Precision::Fp32), losses(), Some(weights)));
}

#[test]
#[ignore = "long; CI runs it"]
fn implicit_gemm_is_close_to_pytorch_in_lower_precision() {
    let expected = || Expectation { tolerance: Tolerance { absolute: 0.0, relative: 0.03 }, steps: 10 };
    on_cuda(|| {
        parity::check_narrow(|| implicit(Precision::Tf32), expected(), None);
        parity::check_narrow(|| implicit(Precision::Fp16), expected(), None);
        let coarse = Expectation { tolerance: Tolerance { absolute: 0.0, relative: 0.1 }, steps: 10 };
        parity::check_narrow(|| implicit(Precision::Bf16), coarse, None);
    });
}

#[test]
#[ignore = "long; CI runs it"]
fn implicit_gemm_is_bit_identical_in_reruns_and_graphs() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
            let with_graphs = few_steps(implicit(precision));
            assert!(with_graphs == few_steps(implicit(precision)), "two runs differ in {precision}");
            let algorithm = Some(Algorithm::Implicit);
            let eager = few_steps(Cuda::new(Options { algorithm, ..options(precision) }).expect("a CUDA device"));
            assert!(with_graphs == eager, "graphs change the numbers in {precision}");
        }
    });
}

/// On a GPU, kernels then overlap. The emulator runs one at a time.
#[test]
#[ignore = "long; CI runs it"]
fn dependent_launches_do_not_change_the_numbers() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Tf32, Precision::Fp16] {
            let run = |dependent_launches| {
                let algorithm = Some(Algorithm::Implicit);
                let options = Options { graphs: true, dependent_launches, algorithm, ..options(precision) };
                few_steps(Cuda::new(options).expect("a CUDA device"))
            };
            assert!(run(true) == run(false), "dependent launches change the numbers in {precision}");
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
#[ignore = "long; CI runs it"]
fn mnist_cnn_gives_pytorchs_losses_on_mnist() {
    on_cuda(|| {
        // On the emulator, fifty steps would take minutes; the narrow network covers them there.
        let steps = if on_the_emulator() { 5 } else { 50 };
        parity::check_mnist(|| cuda(Precision::Fp32), Expectation { tolerance: LOSSES, steps });
    });
}

#[test]
fn gradients_of_a_branching_graph_match_finite_differences() {
    on_cuda(|| dag::check_gradients(&mut cuda(Precision::Fp32)));
}

#[test]
#[ignore = "long; CI runs it"]
fn reruns_are_bit_identical_and_graphs_change_nothing() {
    on_cuda(|| {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
            let with_graphs = whole_run(cuda(precision));
            assert!(with_graphs == whole_run(cuda(precision)), "two runs differ in {precision}");
            let eager = whole_run(Cuda::new(options(precision)).expect("a CUDA device"));
            assert!(with_graphs == eager, "graphs change the numbers in {precision}");
        }
    });
}

#[test]
fn a_replayed_step_uses_its_scheduled_learning_rate() {
    on_cuda(|| {
        let learning_rate = LearningRate { schedule: Schedule::OneCycle { rise: 0.3 }, ..LearningRate::constant(0.05) };
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
#[ignore = "long; CI runs it"]
fn an_interrupted_and_resumed_run_is_bit_identical() {
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
                let resumed = (bits(&second.parameters().expect("read")), bits(&losses));
                assert!(resumed == whole, "stopped after {stop} in {precision}");
            }
        }
    });
}

/// Weights, step losses and the epochs' metrics of a run that, if `stop_after` is given, is interrupted after that many
/// steps and resumed in a new trainer.
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
#[ignore = "long; CI runs it"]
fn a_streamed_run_is_bit_identical_to_a_resident_one_even_when_resumed() {
    on_cuda(|| {
        let on = |set: &Dataset| {
            Trainer::new(cuda(Precision::Fp32), lenet5(), set.clone(), two_epochs()).expect("a trainer")
        };
        let resident = digits(150, 40);
        let mut streamed = resident.clone();
        streamed.stream_from_memory().expect("streamed");
        let expected = stopped_run(|| on(&resident), None);
        assert_eq!((expected.1.len(), expected.2.len()), (10, 2));
        // Without an interruption, within the first epoch, at its end, and within the second.
        for stop_after in [None, Some(1), Some(5), Some(7)] {
            assert!(stopped_run(|| on(&streamed), stop_after) == expected, "stopped after {stop_after:?}");
        }
    });
}

#[test]
fn clipped_and_averaged_runs_resume_bit_identical() {
    on_cuda(|| averaging::check_interruption(|| cuda(Precision::Fp32), &[4]));
}

/// The host does not wait for each step, so a batch that is copied too early or too late shows in the weights.
#[test]
#[ignore = "long; CI runs it"]
fn a_streamed_run_of_many_steps_is_bit_identical_to_a_resident_one() {
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
fn a_run_can_be_resumed_on_another_device() {
    on_cuda(|| {
        let on_cpu = || Cpu::new(Some(1)).expect("a thread");
        let expected = whole_run(on_cpu()).1;
        let losses_of = |mut listener: Listener, trainer: &mut dyn FnMut(&mut Listener)| {
            trainer(&mut listener);
            listener.losses
        };
        let stopping = || Listener { stop_after: Some(4), ..Listener::default() };
        let mut host = trainer(on_cpu());
        let before = losses_of(stopping(), &mut |listener| {
            host.run(listener).expect("a run");
        });
        let mut device = trainer(cuda(Precision::Fp32));
        device.restore(&host.state().expect("a state")).expect("restored");
        let after = losses_of(Listener::default(), &mut |listener| {
            device.run(listener).expect("a run");
        });
        check_close(&[before, after].concat(), &expected);
        let mut device = trainer(cuda(Precision::Fp32));
        let before = losses_of(stopping(), &mut |listener| {
            device.run(listener).expect("a run");
        });
        let mut host = trainer(on_cpu());
        host.restore(&device.state().expect("a state")).expect("restored");
        let after = losses_of(Listener::default(), &mut |listener| {
            host.run(listener).expect("a run");
        });
        check_close(&[before, after].concat(), &expected);
    });
}

fn check_close(losses: &[f32], expected: &[u32]) {
    let expected: Vec<f64> = expected.iter().map(|&bits| f32::from_bits(bits).into()).collect();
    crate::ops::compare("losses", losses, &expected, Tolerance { absolute: 0.0, relative: 1e-3 });
}

#[test]
fn the_error_for_divergence_names_the_step() {
    on_cuda(|| {
        let mut trainer = trainer(cuda(Precision::Fp32));
        trainer.set_hyper(diverging(trainer.hyper())).expect("settings");
        let message = format!("{:#}", trainer.run(&mut Listener::default()).expect_err("it diverges"));
        assert!((1..=3).any(|step| message.contains(&format!("at step {step} "))), "{message}");
    });
}

#[test]
fn views_are_averaged_as_in_pytorch() {
    on_cuda(|| {
        views::check_pytorch(|| cuda(Precision::Fp32), FP32);
        views::check_pytorch(|| cuda(Precision::Fp16), FP16);
    });
}

#[test]
#[ignore = "long; CI runs it"]
fn a_run_and_its_weights_are_evaluated_with_the_same_views() {
    on_cuda(|| views::check_run(|| cuda(Precision::Fp32)));
}

#[test]
#[ignore = "long; CI runs it"]
fn mixed_and_weighted_runs_resume_bit_identical_and_have_the_losses_of_the_cpu() {
    on_cuda(|| {
        mixing::check_interruption(|| cuda(Precision::Fp32), &[4]);
        mixing::check_losses(cuda(Precision::Fp32));
    });
}
