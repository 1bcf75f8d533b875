//! A run whose save failed or whose folder was replaced: what is saved, and what is reported.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Command, FromArgMatches};
use cnn_cuda::checkpoint::{self, RunIdentity};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::report::ProgressMode;
use cnn_cuda::run::{Display, Outputs, RunObserver, identity};
use cnn_cuda::settings::{InputRecord, Layer, RunConfig, build_network};
use cnn_cuda::train::{Observer, Trainer};
use cnn_cuda::{data, models};

/// A run of two steps that begins in `out`, with its trainer and identity.
fn begun_run(out: &Path, stop: &Arc<AtomicBool>) -> (RunObserver, Trainer<Cpu>, RunIdentity) {
    let command = Layer::augment_args(Command::new("train").no_binary_name(true));
    let matches = command.get_matches_from(["--model=lenet5", "--dataset=digits", "--max-steps=2"]);
    let mut config = RunConfig::new(&Layer::from_arg_matches(&matches).expect("flags"), None).expect("a configuration");
    let dataset = data::load("digits", &config.load_options()).expect("digits");
    config.record.input = Some(InputRecord::new(&dataset));
    let identity = identity(&config, &dataset).expect("an identity");
    let network = build_network(models::find("lenet5").expect("LeNet-5"), dataset.shape, 10).expect("a network");
    let backend = Cpu::new(Some(2)).expect("two threads");
    let mut trainer = Trainer::new(backend, network, dataset, config.hyperparameters()).expect("a trainer");
    let outputs = Outputs::create(Some(out), &config).expect("a folder");
    let display = Display::new(ProgressMode::None, false, &config, &identity, &trainer, Vec::new());
    let mut run = RunObserver::new(outputs, identity.clone(), &config, display, Arc::clone(stop));
    run.begin(&mut trainer, true).expect("saved");
    (run, trainer, identity)
}

/// The same run after its steps. Their save failed; the next one can succeed.
fn run_after_failed_save(out: &Path, stop: &Arc<AtomicBool>) -> (RunObserver, Trainer<Cpu>, RunIdentity) {
    let (mut run, mut trainer, identity) = begun_run(out, stop);
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

/// A second run may have begun in a new folder of the same name, whose files the first one must not replace.
#[cfg(unix)]
#[test]
fn a_run_does_not_write_into_a_folder_that_replaced_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, stop) = (folder.path().join("run"), Arc::new(AtomicBool::new(false)));
    let (mut run, mut trainer, _) = begun_run(&out, &stop);
    fs::rename(&out, folder.path().join("moved")).and_then(|()| fs::create_dir(&out)).expect("replaced");
    fs::write(out.join(Outputs::CHECKPOINT), "another run's").expect("write");
    let error = trainer.run(&mut run).and_then(|_| run.interrupted(&mut trainer)).expect_err("the folder was replaced");
    assert!(format!("{error:#}").contains("was replaced while this run trained in it"), "{error:#}");
    let message = run.failed();
    assert!(message.contains("that was moved or removed") && !message.contains("no checkpoint"), "{message}");
    assert_eq!(fs::read(out.join(Outputs::CHECKPOINT)).expect("read"), b"another run's");
    assert_eq!(fs::read_dir(&out).expect("list").count(), 1, "files were written");
    fs::remove_dir_all(&out).expect("removed");
    let error = run.interrupted(&mut trainer).expect_err("the folder was removed");
    assert!(format!("{error:#}").contains("was removed while this run trained in it"), "{error:#}");
    assert!(!out.exists());
}
