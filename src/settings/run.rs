//! The configuration of one run: a new run, one that is resumed, or the one that produced a weights file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use toml::Value;
use tracing::warn;

use super::data::{self, absolute, absolute_path, check_dataset, short_name};
use super::described::{Description, Preparation};
use super::file::{InputRecord, Record, SettingsFile};
use super::layers::{Layer, defaults, overlay, table, values};
use super::shown::{as_flag, contradiction, number};
use super::{
    AugmentationSettings, ClassWeights, DataSettings, DeviceChoice, DeviceSettings, PictureSettings, Settings,
    augmentation, device, evaluation, optimiser, output, rule, schedule, usage,
};
use crate::data::{LoadOptions, PictureOptions, is_path};
use crate::files::write_atomically;
use crate::ops::{Choice, Precision};
use crate::train::Hyperparameters;

/// The file's name in a run's folder.
pub const FILE: &str = "config.toml";

/// Larger files are not read.
const MAX_RECIPE_BYTES: u64 = 1 << 20;
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Settings that may change when a run is resumed: where and how long it runs, but not what is trained or how.
const CHANGEABLE: [&[&str]; 4] = [data::CHANGEABLE, device::CHANGEABLE, schedule::CHANGEABLE, output::CHANGEABLE];

/// Settings that checkpoints of earlier versions do not have.
const NEWER: [&[&str]; 3] = [optimiser::NEWER, augmentation::NEWER, evaluation::NEWER];

/// Everything needed to repeat a run: the content of `config.toml`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunConfig {
    #[serde(flatten)]
    pub settings: Settings,
    #[serde(flatten)]
    pub record: Record,
}

impl RunConfig {
    /// The configuration of a new run. Flags override the recipe, which overrides the defaults.
    ///
    /// # Errors
    /// The recipe cannot be read or is invalid, or settings contradict each other.
    pub fn new(flags: &Layer, recipe: Option<&Path>) -> Result<Self> {
        let (mut recipe, record) = match recipe {
            Some(path) => {
                let file = read_recipe(path)?;
                for key in file.retired {
                    warn!("{key} no longer has any effect, because it gave no speedup");
                }
                (file.layer, Record { environment: None, ..file.record })
            }
            None => (Layer::default(), Record::default()),
        };
        let before = Self { settings: overlay(&[&recipe])?, record };
        let named = flags.given.data.dataset.as_deref().unwrap_or(before.dataset());
        check_dataset(named)?;
        let same_data = absolute(named)? == absolute(before.dataset())?;
        // Options for the recipe's own folder do not apply to another data set.
        if !same_data && recipe.given.data.dataset.is_some() {
            recipe.given.pictures = PictureSettings::default();
        }
        flags.given.pictures.check(named)?;
        recipe.given.pictures.check(named)?;
        let mut config = Self { settings: overlay(&[&recipe, flags])?, ..before.clone() };
        // The recipe's record of its data set is void if flags select other data or read the data differently.
        let given = &flags.given.data;
        let reads_differently = given.normalisation.given().is_some() || given.classes.is_some();
        if !same_data || reads_differently || config.pictures() != before.pictures() {
            config.record.input = None;
        }
        // So is its accuracy with another network.
        if !same_data || config.model() != before.model() {
            config.record.expected_accuracy = None;
        }
        let model = config.model().to_string();
        rule::refuse_unused(&model, &recipe, flags)?;
        let settings = &mut config.settings;
        let class_weights = settings.optimiser.class_weights.as_ref().map(ClassWeights::absolute).transpose()?;
        if config.record.input.is_none() || class_weights != before.settings.optimiser.class_weights {
            config.record.loss_weights = None;
        }
        settings.optimiser.class_weights = class_weights;
        settings.optimiser.complete(&[&recipe, flags]);
        rule::complete(&model, settings);
        settings.data.dataset = Some(absolute(named)?);
        settings.data.folder.data = Some(absolute_path(&settings.data.folder.folder())?);
        settings.schedule.init = settings.schedule.init.as_deref().map(absolute_path).transpose()?;
        settings.finetuning.resolve()?;
        config.check()?;
        Ok(config)
    }

    /// The configuration of the run in `folder`. The flags may change where and how long it runs, but not what is
    /// trained or how.
    ///
    /// # Errors
    /// The folder contains no run, or a flag contradicts the run.
    pub fn resumed(folder: &Path, flags: &Layer) -> Result<Self> {
        let path = folder.join(FILE);
        ensure!(
            path.is_file(),
            "--resume {}: this is not a run's folder, because {} is missing",
            folder.display(),
            path.display()
        );
        let (layer, run) = Self::of_run(&path).with_context(|| format!("--resume {}", folder.display()))?;
        let mut flags = flags.clone();
        if let Some(given) = &flags.given.data.dataset {
            let moved = is_path(given) && is_path(run.dataset());
            let given = absolute(given)?;
            // The files may have moved. Loading the checkpoint compares the training data's fingerprint.
            let contradicts = || contradiction(&format!("--dataset {given}"), &format!("has {}", run.dataset()));
            ensure!(moved || given == run.dataset(), contradicts());
            flags.given.data.dataset = Some(given);
        }
        if let Some(given) = &mut flags.given.optimiser.class_weights {
            *given = given.absolute()?;
        }
        rule::refuse_unused(run.model(), &Layer::default(), &flags)?;
        run.check_unchanged(&flags)?;
        let mut config = Self { settings: overlay(&[&layer, &flags])?, ..run };
        let checked = check_dataset(config.dataset());
        match flags.given.data.dataset {
            Some(_) => checked?,
            None => checked.map_err(|error| anyhow!("{}: {error:#}", path.display()))?,
        }
        if let Some(folder) = &flags.given.data.folder.data {
            config.settings.data.folder.data = Some(absolute_path(folder)?);
        }
        let device = &mut config.settings.device;
        let is_on_cpu = device.precision.unwrap_or_default().is_on_cpu();
        if device.device == Some(DeviceChoice::Cpu) && !is_on_cpu && flags.given.device.precision.is_none() {
            device.precision = Some(Precision::Fp32); // checkpoints are fp32 in every precision
        }
        config.check()?;
        Ok(config)
    }

    /// The configuration of the run that produced `weights`: the file next to it, else the description in its metadata.
    /// `None` if there is neither.
    ///
    /// # Errors
    /// The file is not the configuration of a run, or is that of other weights.
    pub fn of_weights(weights: &Path, description: Option<&str>) -> Result<Option<Self>> {
        let shown = weights.display();
        let described = description.map(Description::parse).transpose().with_context(|| shown.to_string())?;
        let beside = weights.parent().map(|folder| folder.join(FILE)).filter(|path| path.symlink_metadata().is_ok());
        let Some(path) = beside else {
            let Some((layer, record)) = described.map(Description::into_layer) else { return Ok(None) };
            let config = Self { settings: overlay(&[&layer])?, record };
            config.check().with_context(|| shown.to_string())?;
            return Ok(Some(config));
        };
        let remedy = || {
            format!(
                "{shown} and its configuration cannot be used together; to use the weights without it, \
                                 move them to another folder"
            )
        };
        let (_, config) = Self::of_run(&path).with_context(remedy)?;
        if let Some(described) = described {
            let is_same = described.is_of_run(&config.description()?);
            let other = "is the configuration of another run: its network, classes or input differ";
            ensure!(is_same, "{}: {} {other}", remedy(), path.display());
        }
        Ok(Some(config))
    }

    /// The configuration of the run in `folder`.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(Self::of_run(&folder.join(FILE))?.1)
    }

    /// The configuration of a run in the file at `path`.
    fn of_run(path: &Path) -> Result<(Layer, Self)> {
        let read = || {
            let is_dangling = path.is_symlink() && !path.exists();
            ensure!(!is_dangling, "it is a link to a file that does not exist");
            let metadata = fs::metadata(path)?;
            ensure!(metadata.is_file(), "it is not a file");
            let length = metadata.len();
            ensure!(length <= MAX_CONFIG_BYTES, "it has {length} bytes");
            let SettingsFile { layer, record, .. } = SettingsFile::parse(&fs::read_to_string(path)?)?;
            // Every run records its input, and records it last.
            ensure!(record.input.is_some(), "the section [input], with which it ends, is missing");
            let run = Self { settings: overlay(&[&layer])?, record };
            run.check()?;
            Ok((layer, run))
        };
        read().with_context(|| format!("{} is damaged, or not the configuration of a run", path.display()))
    }

    /// The description for a weights file of this run.
    ///
    /// # Errors
    /// The run has not recorded its input yet.
    fn description(&self) -> Result<Description> {
        let input = self.record.input.clone().context("the input of the network is not known yet")?;
        let mut description =
            Description::new(self.model(), self.settings.model.activation, short_name(self.dataset()), input);
        if self.has_pictures() {
            description.preparation = Preparation::Crop;
            description.split = Some(self.settings.pictures.split());
            description.crop(self.settings.pictures.crop.given());
        }
        description.segment(&self.settings.data.segmentation);
        description.views = self.settings.evaluation.views(None);
        description.monitor = self.settings.schedule.monitor;
        let DataSettings { val_fraction, val_seed, .. } = &self.settings.data;
        description.validation = val_fraction.map(|fraction| (fraction, val_seed.unwrap_or_default()));
        Ok(description)
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// Those of a run that has not loaded its data set yet.
    pub fn weights_description(&self) -> Result<String> {
        serde_json::to_string(&self.description()?).context("the description of the weights")
    }

    /// The settings that may not change when the run is resumed and are not part of its data, with their values.
    pub fn fixed_settings(&self) -> Result<BTreeMap<String, String>> {
        let mut all = table(&self.settings)?;
        if !self.has_pictures() {
            all.remove("pictures");
        }
        if let Some(input) = &self.record.input {
            all.extend(table(input)?);
        }
        if let Some(weights) = &self.record.loss_weights {
            all.insert("loss-weights".into(), weights.clone().into());
        }
        let defaults = table(&defaults::<Settings>())?;
        let defaults = values(&defaults);
        let is_new = |key: &str, value| NEWER.concat().contains(&key) && defaults.contains(&(key, value));
        let fixed = |key: &str| !self.is_changeable(key) && !["dataset", "init", "pretrained"].contains(&key);
        let fixed = values(&all).into_iter().filter(|&(key, value)| fixed(key) && !is_new(key, value));
        Ok(fixed.map(|(key, value)| (key.to_string(), number(value))).collect())
    }

    /// Whether a setting may change when the run is resumed.
    fn is_changeable(&self, key: &str) -> bool {
        let epochs = key == "epochs" && self.settings.schedule.depends_on_epochs();
        CHANGEABLE.concat().contains(&key) && !epochs
    }

    /// # Errors
    /// Settings that contradict each other.
    fn check(&self) -> Result<()> {
        let Settings { augmentation, schedule, optimiser, finetuning, device, .. } = &self.settings;
        self.settings.data.check()?;
        augmentation.check(self.has_pictures())?;
        schedule.check()?;
        finetuning.check(schedule.epochs.unwrap_or_default())?;
        usage(schedule.init.is_none() || finetuning.pretrained.is_none(), || {
            "--init and --pretrained are two ways to start from weights; use one of them".into()
        })?;
        optimiser.check()?;
        device.check()
    }

    /// # Errors
    /// A flag contradicts a setting of this run that may not change.
    fn check_unchanged(&self, flags: &Layer) -> Result<()> {
        let mut run = table(&self.settings)?;
        if let Some(input) = &self.record.input {
            run.insert("classes".into(), Value::Integer(input.classes.len() as i64));
        }
        let changeable = |key: &str| self.is_changeable(key) || key == "dataset";
        for (key, given) in values(&table(&flags.given)?).into_iter().filter(|&(key, _)| !changeable(key)) {
            match values(&run).into_iter().find(|&(name, _)| name == key) {
                Some((_, value)) if value == given => {}
                Some((_, value)) => bail!(contradiction(&as_flag(key, given), &format!("has {}", as_flag(key, value)))),
                None => bail!(contradiction(&as_flag(key, given), "does not use it")),
            }
        }
        let defaults = table(&defaults::<Settings>())?;
        let defaults = values(&defaults);
        for key in flags.off.iter().filter(|key| !changeable(key)) {
            let is_on = |entry: &(&str, &Value)| {
                let is_off =
                    if entry.1.is_bool() { *entry.1 == Value::Boolean(false) } else { defaults.contains(entry) };
                entry.0 == key && !is_off
            };
            if let Some((_, value)) = values(&run).into_iter().find(is_on) {
                bail!(contradiction(&format!("--no-{key}"), &format!("has {}", as_flag(key, value))));
            }
        }
        Ok(())
    }

    /// A data set's name, or the absolute path of a folder or archive.
    pub fn dataset(&self) -> &str {
        self.settings.data.dataset.as_deref().unwrap_or_default()
    }

    pub fn model(&self) -> &str {
        self.settings.model.model.as_deref().unwrap_or_default()
    }

    pub fn seed(&self) -> u64 {
        self.settings.schedule.seed.unwrap_or_default()
    }

    /// How pictures are read.
    pub fn pictures(&self) -> PictureOptions {
        self.settings.pictures.resolve()
    }

    /// Whether the data set is a folder or an archive of pictures.
    pub fn has_pictures(&self) -> bool {
        is_path(self.dataset())
    }

    /// The device settings, with the algorithms that the run has chosen.
    pub fn device(&self) -> DeviceSettings {
        DeviceSettings { algorithms: self.record.algorithms.clone(), ..self.settings.device.clone() }
    }

    /// Records the algorithms that a backend chose.
    pub fn record_choices(&mut self, choices: Vec<Choice>) {
        let named = choices.into_iter().map(|choice| (choice.site, choice.candidate.to_string()));
        self.record.algorithms.extend(named);
    }

    /// How to read the data set as the run does. The recorded normalisation and classes override those of the files.
    pub fn load_options(&self) -> LoadOptions {
        let (input, transforms) = (self.record.input.as_ref(), &self.settings.augmentation.transforms);
        LoadOptions {
            folder: self.settings.data.folder.folder(),
            download: true,
            progress: true,
            pictures: PictureOptions { train: transforms.train_pictures(), ..self.pictures() },
            normalisation: input.map(InputRecord::normalisation).or_else(|| self.settings.data.normalisation.given()),
            classes: input.map(|input| input.classes.clone()),
            channels: None,
            validation: self.settings.data.validation(),
            test_only: false,
            residency: self.settings.residency.residency.unwrap_or_default(),
            segments: self.settings.data.segmentation.given_or(None),
        }
    }

    pub fn hyperparameters(&self) -> Hyperparameters {
        let Settings { optimiser, schedule, finetuning, augmentation, evaluation, output, .. } = &self.settings;
        let mut hyper = Hyperparameters {
            augmentation: augmentation.resolve(),
            transforms: augmentation.transforms.resolve(),
            mixing: augmentation.mixing(),
            views: evaluation.views(None),
            ..Hyperparameters::default()
        };
        optimiser.apply(&mut hyper);
        schedule.apply(&mut hyper);
        finetuning.apply(&mut hyper);
        output.apply(&mut hyper);
        hyper
    }

    /// Writes `config.toml` into a run's folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let mut shown = self.clone();
        if shown.settings.augmentation.is_none() {
            shown.settings.augmentation = AugmentationSettings::default();
        }
        if !self.has_pictures() {
            shown.settings.pictures = PictureSettings::default();
        }
        let text = toml::to_string(&shown).context("config.toml")?;
        write_atomically(&folder.join(FILE), |writer| Ok(writer.write_all(text.as_bytes())?))
    }
}

fn read_recipe(path: &Path) -> Result<SettingsFile> {
    let file = path.display();
    let metadata = fs::metadata(path).with_context(|| format!("--config {file}: cannot read it"))?;
    ensure!(metadata.is_file() && metadata.len() <= MAX_RECIPE_BYTES, "--config {file}: this is not a recipe");
    let text = fs::read_to_string(path).with_context(|| format!("--config {file}: cannot read it"))?;
    SettingsFile::parse(&text).with_context(|| format!("--config {file}"))
}
