//! Weight files and checkpoints: round trips, compatibility with PyTorch, and rejection of invalid files.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use cnn_cuda::checkpoint::{RunIdentity, load_pretrained, load_state, load_weights, save_state, save_weights};
use cnn_cuda::cpu::Cpu;
use cnn_cuda::models::{find, googlenet};
use cnn_cuda::network::{Network, Statistics};
use cnn_cuda::ops::{LossScale, Metrics};
use cnn_cuda::plan::{Mode, Plan};
use cnn_cuda::shape::Shape;
use cnn_cuda::train::{Best, Chosen, Position, TrainState};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

use crate::train::harness;

mod foreign;
mod integrity;
mod torch;
mod versions;

fn network() -> Network {
    let model = find("lenet5").expect("a known model");
    (model.build)(model.input, model.classes).expect("a network")
}

/// Saves the initial weights of `lenet5`. Returns the temporary folder and the path of the file.
fn saved_weights() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let network = network();
    save_weights(&path, &network, &network.initial_parameters(5), &Statistics::default()).expect("saved");
    (folder, path)
}

/// The error of loading `path`, which must name the file.
fn load_error(path: &Path) -> String {
    let message = format!("{:#}", load_weights(path, &network()).expect_err("the file is invalid"));
    assert!(message.contains(&path.display().to_string()), "the message does not name the file: {message}");
    message
}

/// A tensor: its name, data type, shape and bytes.
type RawTensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// Applies `change` to the tensors of a safetensors file and writes them back.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<RawTensor>)) {
    let bytes = fs::read(path).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("valid safetensors");
    let raw = |(name, view): (String, TensorView)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let mut tensors: Vec<RawTensor> = file.tensors().into_iter().map(raw).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("consistent"))
    });
    fs::write(path, safetensors::serialize(views, None::<HashMap<String, String>>).expect("serialised"))
        .expect("write");
}

fn find_tensor<'a>(tensors: &'a mut [RawTensor], name: &str) -> &'a mut RawTensor {
    tensors.iter_mut().find(|tensor| tensor.0 == name).expect("the tensor exists")
}

#[test]
fn weights_round_trip_bit_for_bit() {
    let (_folder, path) = saved_weights();
    assert_eq!(load_weights(&path, &network()).expect("loaded"), network().initial_weights(5));
}

#[test]
fn tensors_have_pytorchs_names_and_shapes() {
    let (_folder, path) = saved_weights();
    let bytes = fs::read(path).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("valid safetensors");
    assert_eq!(file.tensor("conv2.weight").expect("the tensor exists").shape(), [16, 6, 5, 5]);
    assert_eq!(file.tensor("fc1.weight").expect("the tensor exists").shape(), [120, 400]);
    assert_eq!(file.len(), 10);
}

/// `tests/reference/lenet5.*` hold weights from PyTorch, images as bytes, and the logits that PyTorch computes for
/// them.
#[test]
fn pytorchs_weights_give_pytorchs_logits_and_are_saved_unchanged() {
    let path = Path::new("tests/reference/lenet5.safetensors");
    let (network, weights) = (network(), load_weights(path, &network()).expect("PyTorch's state_dict"));
    let [images, logits] = ["images", "logits"].map(|name| {
        let bytes = fs::read(path.with_extension(format!("{name}.safetensors"))).expect("the committed reference");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("valid safetensors");
        file.tensor(name).expect("the tensor exists").data().to_vec()
    });
    let (count, classes) = (images.len() / network.input().len(), network.classes());
    let plan = Plan::new(&network, Mode::Inference, count).expect("a plan");
    let mut backend = Cpu::new(Some(2)).expect("two threads");
    let input: Vec<f32> = images.iter().map(|&x| (f32::from(x) / 255.0 - 0.5) / 0.5).collect();
    let got = harness::logits(&mut backend, &plan, &weights, &input);
    assert_eq!(got.len(), count * classes);
    for (got, expected) in got.iter().zip(logits.chunks_exact(4)) {
        let expected = f32::from_le_bytes(expected.try_into().expect("four bytes"));
        assert!((got - expected).abs() < 1e-4, "{got} instead of {expected}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let back = folder.path().join("back.safetensors");
    save_weights(&back, &network, &weights.parameters, &weights.statistics).expect("saved");
    let files = [path, &back].map(|path| fs::read(path).expect("read"));
    let files = files.each_ref().map(|bytes| safetensors::SafeTensors::deserialize(bytes).expect("valid safetensors"));
    assert_eq!(files[0].len(), files[1].len());
    for (name, theirs) in files[0].tensors() {
        let ours = files[1].tensor(&name).expect("the same names");
        assert!(ours.shape() == theirs.shape() && ours.data() == theirs.data(), "{name} differs");
    }
}

#[test]
fn weights_in_other_float_types_are_converted() {
    let (_folder, path) = saved_weights();
    rewrite(&path, |tensors| {
        let (_, dtype, _, bytes) = find_tensor(tensors, "fc3.bias");
        (*dtype, *bytes) = (Dtype::F16, (0..10).flat_map(|i| half::f16::from_f32(i as f32).to_le_bytes()).collect());
        let (_, dtype, _, bytes) = find_tensor(tensors, "fc2.bias");
        (*dtype, *bytes) = (Dtype::BF16, (0..84).flat_map(|_| half::bf16::from_f32(0.5).to_le_bytes()).collect());
        let (_, dtype, _, bytes) = find_tensor(tensors, "conv1.bias");
        (*dtype, *bytes) = (Dtype::F64, (0..6).flat_map(|_| 0.25_f64.to_le_bytes()).collect());
    });
    let (network, weights) = (network(), load_weights(&path, &network()).expect("loaded").parameters);
    let values_of =
        |name: &str| &weights[network.parameters.iter().find(|p| p.name == name).expect("the tensor exists").range()];
    assert_eq!((values_of("fc3.bias")[9], values_of("fc2.bias")[3], values_of("conv1.bias")[5]), (9.0, 0.5, 0.25));
}

#[test]
fn damaged_and_mismatched_weights_are_refused() {
    let (folder, path) = saved_weights();
    let whole = fs::read(&path).expect("read");
    fs::write(&path, []).expect("write");
    assert!(load_error(&path).contains("an empty file"));
    for len in [3, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).expect("write");
        assert!(load_error(&path).contains("truncated or damaged"));
    }
    // A header that claims an enormous length is rejected before anything is allocated.
    fs::write(&path, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).expect("write");
    load_error(&path);
    fs::write(&path, &whole).expect("write");
    rewrite(&path, |tensors| tensors.retain(|tensor| tensor.0 != "fc2.weight"));
    assert!(load_error(&path).contains("fc2.weight of lenet5 is missing"));
    fs::write(&path, &whole).expect("write");
    rewrite(&path, |tensors| tensors.push(("fc9.bias".into(), Dtype::F32, vec![1], vec![0; 4])));
    assert!(load_error(&path).contains("fc9.bias does not belong"));
    fs::write(&path, &whole).expect("write");
    rewrite(&path, |tensors| find_tensor(tensors, "fc2.weight").2 = vec![120, 84]);
    let message = load_error(&path);
    assert!(message.contains("shape [120, 84]") && message.contains("--classes"), "{message}");
    fs::write(&path, &whole).expect("write");
    rewrite(&path, |tensors| find_tensor(tensors, "fc2.bias").3[8..12].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(load_error(&path).contains("fc2.bias holds NaN at index 2"));
    fs::write(&path, &whole).expect("write");
    rewrite(&path, |tensors| find_tensor(tensors, "fc2.bias").1 = Dtype::I32);
    assert!(load_error(&path).contains("I32"));
    fs::write(&path, b"PK\x03\x04 as torch.save begins").expect("write");
    assert!(load_error(&path).contains("truncated or damaged"));
    load_error(&folder.path().join("missing.safetensors"));
    assert!(load_error(folder.path()).contains("not a file"));
}

fn identity() -> RunIdentity {
    RunIdentity {
        model: "lenet5".into(),
        dataset: "digits".into(),
        train_images: 320,
        data_fingerprint: 99,
        seed: 3,
        batch_size: 32,
        shuffle: true,
        test_images: 60,
        val_images: 30,
        val_fingerprint: 55,
        test_fingerprint: 77,
        settings: [("lr", "0.1"), ("momentum", "0.9")].map(|(key, value)| (key.into(), value.into())).into(),
    }
}

fn state(momentum: bool) -> TrainState {
    let parameters = network().initial_parameters(1);
    TrainState {
        momentum: if momentum { network().initial_parameters(2) } else { Vec::new() },
        second_moment: Vec::new(),
        update_count: 12,
        average: if momentum { network().initial_parameters(3) } else { Vec::new() },
        parameters,
        statistics: Statistics::default(),
        position: Position { epoch: 1, step_in_epoch: 4, total_steps: 14 },
        evaluation_pending: momentum,
        metrics: Metrics { loss_sum: 1.0 / 3.0, correct: 77, samples: 128, steps: 4, first_bad_step: None },
        best: Some(Best { test_accuracy: 0.875, epoch: 2 }),
        chosen: Some(Chosen { value: 0.125, epoch: 1 }),
        loss_scale: momentum.then_some(LossScale { scale: 1024.0, good_steps: 7, skipped_steps: 2 }),
        epoch_seconds: 1.5,
    }
}

#[test]
fn states_round_trip_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    for momentum in [false, true] {
        save_state(&path, &network(), &identity(), &state(momentum)).expect("saved");
        assert_eq!(load_state(&path, &network(), &identity()).expect("loaded"), state(momentum));
    }
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1, "temporary files were left behind");
}

#[test]
fn checkpoints_of_another_run_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    save_state(&path, &network(), &identity(), &state(true)).expect("saved");
    let error_for = |run: &RunIdentity| {
        format!("{:#}", load_state(&path, &network(), run).expect_err("the checkpoint is of another run"))
    };
    assert!(
        error_for(&RunIdentity { dataset: "mnist".into(), ..identity() })
            .contains("dataset = \"digits\", but its config.toml has \"mnist\"")
    );
    assert!(error_for(&RunIdentity { model: "mnist-cnn".into(), ..identity() }).contains("model = \"lenet5\""));
    assert!(
        error_for(&RunIdentity { batch_size: 64, ..identity() })
            .contains("batch-size = 32, but its config.toml has 64")
    );
    assert!(error_for(&RunIdentity { seed: 4, ..identity() }).contains("seed = 3"));
    assert!(error_for(&RunIdentity { data_fingerprint: 1, ..identity() }).contains("fingerprint is 99"));
    assert!(error_for(&RunIdentity { train_images: 1, ..identity() }).contains("training images is 320"));
    assert!(error_for(&RunIdentity { shuffle: false, ..identity() }).contains("shuffle = true"));
    assert!(error_for(&RunIdentity { test_images: 1, ..identity() }).contains("test images is 60"));
    assert!(error_for(&RunIdentity { test_fingerprint: 1, ..identity() }).contains("test data's fingerprint is 77"));
    let mut edited = identity();
    edited.settings.insert("lr".into(), "0.2".into());
    assert!(error_for(&edited).contains("started with lr = 0.1, but its config.toml has 0.2"));
    edited = identity();
    edited.settings.insert("ema".into(), "0.5".into());
    assert!(error_for(&edited).contains("started with ema = nothing, but its config.toml has 0.5"));
    save_weights(&path, &network(), &state(false).parameters, &Statistics::default()).expect("saved");
    assert!(error_for(&identity()).contains("not a checkpoint"));
    fs::write(&path, [0xf3; 99]).expect("write");
    assert!(error_for(&identity()).contains("truncated or damaged"));
    // Only the elements that differ are shown, as they were written.
    let with = |mean: &str| {
        let mut run = identity();
        run.settings.insert("mean".into(), mean.into());
        run
    };
    save_state(&path, &network(), &with("[0.5, 0.6000000238418579]"), &state(true)).expect("saved");
    let message = error_for(&with("[0.5, 0.25]"));
    assert!(message.contains("mean[1] = 0.6, but its config.toml has 0.25; restore 0.6 to"), "{message}");
}

#[test]
fn a_failed_save_leaves_the_old_file_intact() {
    let (folder, path) = saved_weights();
    let before = fs::read(&path).expect("read");
    let failing = cnn_cuda::files::write_atomically(&path, |writer| {
        writer.write_all(b"half of it")?;
        anyhow::bail!("the disk is full")
    });
    assert!(format!("{:#}", failing.expect_err("the write fails")).contains("disk is full"));
    assert_eq!(fs::read(&path).expect("read"), before);
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1, "temporary files were left behind");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("random.safetensors");
        fs::write(&path, &bytes).expect("write");
        prop_assert!(load_weights(&path, &network()).is_err());
        prop_assert!(load_state(&path, &network(), &identity()).is_err());
    }

    #[test]
    fn mutated_files_are_refused_or_give_finite_weights(
        changes in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..8),
        header in any::<bool>(),
    ) {
        let (_folder, path) = saved_weights();
        let mut bytes = fs::read(&path).expect("read");
        let range = if header { 1200.min(bytes.len()) } else { bytes.len() };
        for (at, value) in changes {
            bytes[at as usize % range] = value;
        }
        fs::write(&path, &bytes).expect("write");
        if let Ok(weights) = load_weights(&path, &network()) {
            prop_assert!(weights.parameters.iter().all(|weight| weight.is_finite()));
        }
    }
}

/// With `aux_logits=False`, torchvision saves no tensors of the auxiliary heads.
#[test]
fn auxiliary_heads_that_a_file_lacks_are_initialised_from_the_seed() {
    let network = googlenet::narrowed("googlenet", Shape::new(64, 64, 3), 5, 16).expect("a network");
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, bare, cut] = ["whole", "bare", "cut"].map(|name| folder.path().join(name));
    let [theirs, fresh] = [5, 8].map(|seed| network.initial_weights(seed));
    for path in [&whole, &bare, &cut] {
        save_weights(path, &network, &theirs.parameters, &theirs.statistics).expect("saved");
    }
    assert_eq!(load_pretrained(&whole, &network, 8).expect("loaded"), (theirs.clone(), false));
    rewrite(&bare, |tensors| tensors.retain(|tensor| !tensor.0.starts_with("aux")));
    let (weights, headless) = load_pretrained(&bare, &network, 8).expect("loaded");
    assert!(headless && weights.statistics == theirs.statistics);
    let mut head_tensors = 0;
    for parameter in &network.parameters {
        let is_head = parameter.name.starts_with("aux");
        let expected = if is_head { &fresh } else { &theirs };
        assert_eq!(weights.parameters[parameter.range()], expected.parameters[parameter.range()], "{}", parameter.name);
        head_tensors += usize::from(is_head);
    }
    assert_eq!((head_tensors, load_weights(&bare, &network).is_ok()), (14, true));
    // A file with only some of the heads' tensors is damaged, and so is one without the main classifier.
    rewrite(&cut, |tensors| tensors.retain(|tensor| !tensor.0.starts_with("aux2")));
    let error = format!("{:#}", load_weights(&cut, &network).expect_err("the file is incomplete"));
    assert!(error.contains("tensor aux2.") && error.contains("is missing"), "{error}");
    rewrite(&bare, |tensors| tensors.retain(|tensor| !tensor.0.starts_with("fc")));
    let error = format!("{:#}", load_weights(&bare, &network).expect_err("the file is incomplete"));
    assert!(error.contains("tensor fc.") && error.contains("is missing"), "{error}");
}
