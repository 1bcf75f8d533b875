//! A run that stops early after a failed save: what is saved, and what is reported.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Command, FromArgMatches};
use cnn_cuda::checkpoint::{self, RunIdentity};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::run::{Outputs, RunObserver, identity};
use cnn_cuda::settings::{Layer, RunConfig, build_network};
use cnn_cuda::train::{Observer, Trainer};
use cnn_cuda::{data, models};

/// A run in `out` after two steps, with its trainer and identity. The save of these steps failed; the next one can
/// succeed.
fn run_after_failed_save(out: &Path, stop: &Arc<AtomicBool>) -> (RunObserver, Trainer<Cpu>, RunIdentity) {
    let command = Layer::augment_args(Command::new("train").no_binary_name(true));
    let matches = command.get_matches_from(["--model=lenet5", "--dataset=digits", "--max-steps=2"]);
    let config = RunConfig::new(&Layer::from_arg_matches(&matches).expect("flags"), None).expect("a configuration");
    let dataset = data::load("digits", &config.load_options()).expect("digits");
    let identity = identity(&config, &dataset);
    let network = build_network(models::find("lenet5").expect("LeNet-5"), dataset.shape, 10).expect("a network");
    let backend = Cpu::new(Some(2)).expect("two threads");
    let mut trainer = Trainer::new(backend, network, dataset, config.hyperparameters()).expect("a trainer");
    let outputs = Outputs::create(Some(out), &config).expect("a folder");
    let mut run =
        RunObserver::new(outputs, identity.clone(), &config, true, trainer.steps_per_epoch(), Arc::clone(stop));
    run.begin(&mut trainer).expect("saved");
    // A folder with the name of the weight file makes the save fail.
    let weights = out.join(Outputs::WEIGHTS);
    fs::remove_file(&weights).and_then(|()| fs::create_dir(&weights)).expect("a folder");
    trainer.run(&mut run).expect("two steps");
    let begun = Instant::now();
    while !Observer::<Cpu>::wants_to_stop(&run) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the failure was never reported");
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::remove_dir(&weights).expect("removed");
    (run, trainer, identity)
}

#[test]
fn a_failed_save_is_repeated_with_the_current_state() {
    for interrupt in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let (out, stop) = (folder.path().join("run"), Arc::new(AtomicBool::new(false)));
        let (mut run, mut trainer, identity) = run_after_failed_save(&out, &stop);
        stop.store(interrupt, Ordering::Relaxed);
        match run.interrupted(&mut trainer) {
            Ok(()) => assert!(interrupt, "without an interrupt, the failed save must be reported as an error"),
            Err(error) => {
                let message = format!("{error:#}");
                assert!(!interrupt, "{message}");
                assert!(message.contains("after 2 steps and saved") && message.contains("cannot write"), "{message}");
            }
        }
        let path = out.join(Outputs::CHECKPOINT);
        let saved = checkpoint::load_state(&path, &trainer.network, &identity).expect("a checkpoint");
        assert_eq!(saved.position.total_steps, 2);
    }
}
