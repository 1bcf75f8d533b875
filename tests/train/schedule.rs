//! Learning-rate schedules: agreement with PyTorch, warm-up, resuming, and the conditions that end a run.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::train::{Ending, Hyperparameters, LearningRate, Outcome, Schedule, Trainer, WarmUp};
use serde_json::Value;

use super::harness::{Listener, bits, digits, lenet5, two_epochs};

#[test]
fn schedules_match_pytorch() {
    let text = std::fs::read_to_string("tests/reference/schedules.json").expect("a golden file");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let number = |name: &str| golden[name].as_u64().expect("a number");
    let rate = golden["rate"].as_f64().expect("a rate");
    let schedules = golden["rates"].as_object().expect("rates");
    assert_eq!(schedules.len(), 7);
    for (name, expected) in schedules {
        let schedule: Schedule = name.parse().expect("a schedule");
        let learning_rate = LearningRate { rate: rate as f32, schedule, warm_up: WarmUp::default() };
        for (step, expected) in expected.as_array().expect("rates").iter().enumerate() {
            let got = f64::from(learning_rate.at(step as u64, number("steps_per_epoch"), number("epochs") as u32));
            let expected = expected.as_f64().expect("a rate");
            // fp32 rounds, and PyTorch's cosine accumulates its steps.
            assert!((got - expected).abs() <= 2e-7 * rate, "{name}, step {step}: {got} instead of {expected}");
        }
    }
}

#[test]
fn the_schedule_covers_the_steps_after_a_linear_warm_up() {
    let learning_rate = LearningRate { rate: 1.0, schedule: Schedule::Cosine, warm_up: WarmUp::Epochs(2) };
    let rates: Vec<f32> = (0..20).map(|step| learning_rate.at(step, 4, 5)).collect();
    assert_eq!(rates[..8], [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]);
    assert_eq!((rates[8], rates[14]), (1.0, 0.5));
    assert!(rates[19] > 0.0 && rates[8..].windows(2).all(|pair| pair[1] < pair[0]), "{rates:?}");
}

#[test]
fn a_warm_up_in_steps_need_not_end_with_an_epoch() {
    let rates = |warm_up| {
        let learning_rate = LearningRate { rate: 1.0, schedule: Schedule::Linear { end: 0.5 }, warm_up };
        (0..20).map(|step| learning_rate.at(step, 4, 5)).collect::<Vec<_>>()
    };
    assert_eq!(rates(WarmUp::Steps(8)), rates(WarmUp::Epochs(2)));
    let five = rates(WarmUp::Steps(5));
    assert_eq!(five[..6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]);
    // 15 steps are left, of which the last would be followed by half the rate.
    assert!((five[19] - (1.0 - 14.0 / 15.0 * 0.5)).abs() < 1e-7, "{five:?}");
}

#[test]
fn a_warm_up_in_steps_is_shorter_than_the_run() {
    let with = |steps| {
        let learning_rate = LearningRate { warm_up: WarmUp::Steps(steps), ..LearningRate::constant(0.05) };
        let hyper = Hyperparameters { learning_rate, ..two_epochs() };
        Trainer::new(Cpu::new(Some(1)).expect("threads"), lenet5(), digits(340, 150), hyper).map(|_| ())
    };
    let steps = 2 * 340_u64.div_ceil(two_epochs().batch_size as u64);
    assert!(with(steps - 1).is_ok());
    let error = format!("{:#}", with(steps).expect_err("as long as the run"));
    assert!(
        error.contains(&format!("--warm-up-steps {steps} must be shorter than the run of {steps} steps")),
        "{error}"
    );
}

/// PyTorch divides by zero here.
#[test]
fn a_cycle_that_rises_in_one_step_starts_at_its_peak() {
    let learning_rate =
        LearningRate { rate: 1.0, schedule: Schedule::OneCycle { rise: 0.25 }, warm_up: WarmUp::default() };
    let rates: Vec<f32> = (0..4).map(|step| learning_rate.at(step, 1, 4)).collect();
    assert_eq!(rates[0], 1.0);
    assert!(rates.windows(2).all(|pair| pair[1] < pair[0]), "{rates:?}");
}

#[test]
fn schedule_names_round_trip() {
    for name in ["constant", "cosine", "linear:0", "linear:0.25", "one-cycle:0.25", "step:30:0.1"] {
        assert_eq!(name.parse::<Schedule>().expect(name).to_string(), name);
    }
    assert_eq!("linear".parse(), Ok(Schedule::Linear { end: 0.0 }));
    for name in [
        "",
        "linear:1",
        "linear:-0.5",
        "linear:nan",
        "linear:0:1",
        "step",
        "step:0:0.1",
        "step:3:1.5",
        "one-cycle:1",
        "cosine:2",
        "step:2:nan",
    ] {
        assert!(name.parse::<Schedule>().is_err(), "{name}");
    }
}

fn one_cycle() -> Hyperparameters {
    let schedule = Schedule::OneCycle { rise: 0.3 };
    let learning_rate = LearningRate { schedule, ..LearningRate::constant(0.05) };
    Hyperparameters { learning_rate, ..two_epochs() }
}

fn trainer(hyper: Hyperparameters) -> Trainer<Cpu> {
    Trainer::new(Cpu::new(Some(2)).expect("threads"), lenet5(), digits(340, 150), hyper).expect("a trainer")
}

#[test]
fn every_step_uses_its_scheduled_rate_and_a_resumed_run_is_bit_identical() {
    let weights = |mut trainer: Trainer<Cpu>| {
        assert_eq!(trainer.run(&mut Listener::default()).expect("a run"), Outcome::Finished);
        bits(&trainer.parameters().expect("read"))
    };
    let whole = weights(trainer(one_cycle()));
    assert_ne!(whole, weights(trainer(two_epochs())), "the schedule has no effect");
    for stop in [4, 15] {
        let mut first = trainer(one_cycle());
        first.run(&mut Listener { stop_after: Some(stop), ..Listener::default() }).expect("a run");
        let mut second = trainer(one_cycle());
        second.restore(&first.state().expect("a state")).expect("restored");
        assert_eq!(weights(second), whole, "stopped after {stop}");
    }
}

#[test]
fn a_run_ends_at_its_target_accuracy_or_when_it_stops_improving() {
    let ends = |hyper: Hyperparameters| {
        let (mut trainer, mut listener) = (trainer(hyper), Listener::default());
        assert_eq!(trainer.run(&mut listener).expect("a run"), Outcome::Finished);
        let accuracies: Vec<f64> = listener.epochs.iter().map(|epoch| epoch.test.accuracy()).collect();
        // The saved state also counts as finished in a later process.
        let mut later = self::trainer(hyper);
        later.restore(&trainer.state().expect("a state")).expect("restored");
        assert_eq!(later.ending(), trainer.ending());
        (trainer.ending(), accuracies)
    };
    let (ending, accuracies) = ends(Hyperparameters { epochs: 50, target_accuracy: Some(0.3), ..two_epochs() });
    assert_eq!(ending, Some(Ending::TargetAccuracy));
    let (last, before) = accuracies.split_last().expect("an epoch");
    assert!(*last >= 0.3 && before.iter().all(|accuracy| *accuracy < 0.3), "{accuracies:?}");
    // With a negligible learning rate nothing improves: the first epoch is the best, and two more run before it ends.
    let learning_rate = LearningRate::constant(1e-12);
    let (ending, accuracies) = ends(Hyperparameters { epochs: 50, patience: Some(2), learning_rate, ..two_epochs() });
    assert_eq!((ending, accuracies.len()), (Some(Ending::Patience), 3));
    assert_eq!(ends(two_epochs()).0, Some(Ending::Epochs));
}
