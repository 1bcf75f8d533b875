//! The resolved configuration of a training run: flags and defaults, or what `config.toml` of a run to resume says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::augmentation::AugmentationConfig;
use super::dataset::absolute_path;
use super::device::{ConvAlgo, DeviceArgs, DeviceChoice};
use super::input::{InputConfig, PictureConfig};
use super::residency::Residency;
use super::train::TrainArgs;
use super::variation::{ActivationChoice, Conv1};
use super::{recipe, usage};
use crate::files::write_atomically;
use crate::ops::{Choice, Precision, Sgd};
use crate::train::{Hyperparameters, LearningRate, Schedule};

/// Everything needed to run it again; what `config.toml` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    pub model: String,
    /// In place of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationChoice>,
    #[serde(default)]
    pub conv1: Conv1,
    /// A name, or an absolute path.
    pub dataset: String,
    pub data: PathBuf,
    pub device: DeviceChoice,
    pub precision: Precision,
    pub epochs: u32,
    pub batch_size: usize,
    pub eval_batch_size: usize,
    pub lr: f32,
    #[serde(default, with = "schedule_text")]
    pub schedule: Schedule,
    #[serde(default)]
    pub warm_up: u32,
    pub momentum: f32,
    pub nesterov: bool,
    pub weight_decay: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_norm: Option<f32>,
    /// What stays of the weights' average in a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    #[serde(default)]
    pub label_smoothing: f32,
    /// Instead of the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f32>,
    pub seed: u64,
    pub shuffle: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_accuracy: Option<f64>,
    /// Of a recipe: the test accuracy that it reaches. It is shown, and changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_accuracy: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Decides the pieces, and so the order, of some sums on a CUDA device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_mb: Option<usize>,
    pub log_steps: bool,
    /// Decides the order of sums on a CUDA device, as do the algorithms chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conv_algo: Option<ConvAlgo>,
    /// What was chosen by `--conv-algo auto`, by operator: a run that goes on keeps to it where its device can.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub algorithms: BTreeMap<String, String>,
    /// Where decoded images are; the results are the same.
    #[serde(default)]
    pub residency: Residency,
    /// How training images are changed at random.
    #[serde(default, skip_serializing_if = "AugmentationConfig::is_none")]
    pub augmentation: AugmentationConfig,
    /// How a folder of pictures is read; none for a data set with a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<PictureConfig>,
    /// What the data set turned out to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputConfig>,
}

/// The file's name in a run's folder.
pub const FILE: &str = "config.toml";

/// Keys of earlier versions, which changed no result; the flags of the same names are taken with a warning, too.
const RETIRED: [&str; 2] = ["branches", "graph-steps"];

/// Takes those out of a file, and says which were there.
pub fn remove_retired(file: &mut Table) -> Vec<&'static str> {
    RETIRED.into_iter().filter(|key| file.remove(*key).is_some()).collect()
}

impl Config {
    /// What no file and no flag says.
    fn standard(data: PathBuf) -> Self {
        Self {
            model: "mnist-cnn".into(),
            activation: None,
            conv1: Conv1::default(),
            dataset: "mnist".into(),
            data,
            device: DeviceChoice::default(),
            precision: Precision::default(),
            epochs: 20,
            batch_size: 64,
            eval_batch_size: 128,
            lr: 0.1,
            schedule: Schedule::default(),
            warm_up: 0,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            clip_grad_norm: None,
            ema: None,
            label_smoothing: 0.0,
            dropout: None,
            seed: 0,
            shuffle: true,
            max_steps: None,
            target_accuracy: None,
            expected_accuracy: None,
            patience: None,
            init: None,
            threads: None,
            workspace_mb: None,
            log_steps: false,
            conv_algo: None,
            algorithms: BTreeMap::new(),
            residency: Residency::default(),
            augmentation: AugmentationConfig::default(),
            pictures: None,
            input: None,
        }
    }

    /// The flags, then what the file of `--config` says, then defaults.
    pub fn new(args: &TrainArgs) -> Result<Self> {
        let standard = Self::standard(absolute_path(&args.data.folder.folder())?);
        let mut config = match &args.config {
            Some(path) => recipe::load(path, &standard)?,
            None => standard,
        };
        config.apply_data(&args.data)?;
        config.apply(args)?;
        usage(config.warm_up < config.epochs, || {
            format!("--warm-up {} leaves nothing of {} epochs for the schedule", config.warm_up, config.epochs)
        })?;
        usage(!config.nesterov || config.momentum > 0.0, || "--nesterov needs a --momentum above 0".into())?;
        let on_cpu = config.device == DeviceChoice::Cpu && config.precision != Precision::Fp32;
        usage(!on_cpu, || "--precision is for CUDA devices; the CPU computes in fp32 alone".into())?;
        Ok(config)
    }

    /// Puts the flags that are given over what is there.
    fn apply(&mut self, args: &TrainArgs) -> Result<()> {
        set(&mut self.model, args.model.clone());
        self.activation = args.activation.activation.or(self.activation);
        set(&mut self.conv1, args.conv1);
        self.augmentation = args.augmentation.over(&self.augmentation);
        set(&mut self.batch_size, args.batch_size);
        set(&mut self.lr, args.lr);
        set(&mut self.schedule, args.schedule);
        set(&mut self.warm_up, args.warm_up);
        set(&mut self.momentum, args.momentum);
        set(&mut self.weight_decay, args.weight_decay);
        self.clip_grad_norm = args.clip_grad_norm.or(self.clip_grad_norm);
        self.ema = args.ema.or(self.ema);
        set(&mut self.label_smoothing, args.label_smoothing);
        self.dropout = args.dropout.or(self.dropout);
        set(&mut self.seed, args.seed);
        self.nesterov |= args.nesterov;
        self.shuffle &= !args.no_shuffle;
        self.init = args.init.as_deref().map(absolute_path).transpose()?.or(self.init.take());
        self.apply_anew(args);
        Ok(())
    }

    /// Those flags of it that a run may be given anew when it goes on.
    pub fn apply_anew(&mut self, args: &TrainArgs) {
        set(&mut self.device, args.device.device);
        set(&mut self.precision, args.device.precision);
        set(&mut self.epochs, args.epochs);
        set(&mut self.eval_batch_size, args.eval_batch_size);
        set(&mut self.residency, args.residency.given());
        self.threads = args.device.threads.or(self.threads);
        self.workspace_mb = args.device.workspace_mb.or(self.workspace_mb);
        self.conv_algo = args.device.conv_algo.or(self.conv_algo);
        self.max_steps = args.max_steps.map(|steps| steps as u64).or(self.max_steps);
        self.target_accuracy = args.target_accuracy.or(self.target_accuracy);
        self.patience = args.patience.or(self.patience);
        self.log_steps |= args.log_steps;
    }

    /// The device, and how it is used; `given` are the flags, some of which are kept nowhere.
    pub fn device(&self, given: &DeviceArgs) -> DeviceArgs {
        DeviceArgs {
            device: Some(self.device),
            precision: Some(self.precision),
            threads: self.threads,
            workspace_mb: self.workspace_mb,
            conv_algo: self.conv_algo,
            branches: given.branches.clone(),
            graph_steps: given.graph_steps.clone(),
            algorithms: self.algorithms.clone(),
        }
    }

    /// Writes down what a backend chose.
    pub fn record(&mut self, choices: Vec<Choice>) {
        self.algorithms.extend(choices.into_iter().map(|choice| (choice.site, choice.algorithm.name().to_string())));
    }

    /// What the trainer needs of it.
    pub fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters {
            epochs: self.epochs,
            batch_size: self.batch_size,
            eval_batch_size: self.eval_batch_size,
            learning_rate: LearningRate { rate: self.lr, schedule: self.schedule, warm_up: self.warm_up },
            sgd: Sgd {
                momentum: self.momentum,
                nesterov: self.nesterov,
                weight_decay: self.weight_decay,
                clip_norm: self.clip_grad_norm,
                average_decay: self.ema,
                frozen: 0, // the network tells
            },
            augmentation: self.augmentation.augmentation(),
            label_smoothing: self.label_smoothing,
            seed: self.seed,
            shuffle: self.shuffle,
            max_steps: self.max_steps,
            target_accuracy: self.target_accuracy,
            patience: self.patience,
            log_steps: self.log_steps,
        }
    }

    /// Writes `config.toml` into a run's folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let text = toml::to_string(self).context("config.toml")?;
        write_atomically(&folder.join(FILE), |writer| Ok(writer.write_all(text.as_bytes())?))
    }
}

/// Replaces `value` where another is given.
fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

/// A schedule as its flag is written.
mod schedule_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::train::Schedule;

    pub fn serialize<S: Serializer>(schedule: &Schedule, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(schedule)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Schedule, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
