//! Settings in a TOML file: a recipe, or a run's `config.toml`. The parser of a flag also parses its value in a file.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Command, FromArgMatches};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::layers::{Layer, arguments, is_switch, key, table, values};
use super::{AugmentationSettings, Environment, PictureSettings, Settings};
use crate::data::{Dataset, MAX_SIDE, Normalisation};
use crate::shape::Shape;

/// Keys of earlier versions, which never affected results and are ignored.
const RETIRED: [&str; 2] = ["branches", "graph-steps"];

/// The entries of a file that are not settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// The test accuracy that a recipe reaches, for display only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_accuracy: Option<f64>,
    /// The algorithms that `--conv-algo auto` chose, by operator. A resumed run uses them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub algorithms: BTreeMap<String, String>,
    /// The weights of the classes that `--class-weights` gave, in their order. A resumed run uses them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_weights: Option<Vec<f32>>,
    /// The machine that a run was trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// A description of the data set that was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<InputRecord>,
}

/// What a network was trained for: the shape and normalisation of its input, and the names of its classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InputRecord {
    channels: usize,
    height: usize,
    width: usize,
    mean: Vec<f32>,
    std: Vec<f32>,
    pub classes: Vec<String>,
}

/// The content of a settings file.
#[derive(Clone, Debug)]
pub struct SettingsFile {
    pub layer: Layer,
    pub record: Record,
    /// Keys of earlier versions that the file contains.
    pub retired: Vec<&'static str>,
}

impl SettingsFile {
    /// # Errors
    /// The text is not TOML, a key does not exist, or a value has the wrong type or is out of range. The message names
    /// the key and, if there is a similar one, suggests it with its section.
    pub fn parse(text: &str) -> Result<Self> {
        let mut file: Table = toml::from_str(text).map_err(|error| anyhow!(not_toml(text, &error)))?;
        let retired = RETIRED.into_iter().filter(|key| file.remove(*key).is_some()).collect();
        check_keys(&file)?;
        let mut record = Table::new();
        let mut settings = Table::new();
        for (key, value) in file {
            match value {
                Value::Table(section) if SECTIONS.contains(&key.as_str()) => settings.extend(section),
                value if RECORD.contains(&key.as_str()) => {
                    record.insert(key, value);
                }
                value => {
                    let is_section = SECTIONS.contains(&key.as_str());
                    ensure!(!is_section, "the value of {key} cannot be used: it must be a section, written as [{key}]");
                    settings.insert(key, value);
                }
            }
        }
        for (key, value) in &record {
            // One key at a time, so that the error can name it.
            let alone = Table::from_iter([(key.clone(), value.clone())]).try_into::<Record>();
            alone.map_err(|error| anyhow!("the value of {key} cannot be used: {}", error.message()))?;
        }
        let record: Record = record.try_into()?;
        record.check()?;
        let flags = settings.iter().map(|(key, value)| flag(key, value)).collect();
        let layer = parse_flags(flags).map_err(|error| anyhow!(explain(&error, &settings)))?;
        check_types(&settings, &layer)?;
        Ok(Self { layer, record, retired })
    }
}

/// Formats a syntax error with its position.
fn not_toml(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let (line, column) = (before.split('\n').count(), before.chars().rev().take_while(|c| *c != '\n').count() + 1);
    format!("this is not TOML: line {line}, column {column}: {}", error.message())
}

/// # Errors
/// A value whose text is valid, but whose type in the file is wrong.
fn check_types(written: &Table, layer: &Layer) -> Result<()> {
    let parsed = table(&layer.given)?;
    for (key, parsed) in values(&parsed) {
        let Some(value) = written.get(key) else { continue };
        let reason = match (value, parsed) {
            (Value::String(text), parsed) if !parsed.is_str() && text.trim().parse::<f64>().is_ok() => {
                "write it without quotes".into()
            }
            (Value::String(text), Value::Boolean(_)) if text.parse::<bool>().is_ok() => {
                "write it without quotes".into()
            }
            (Value::Array(written), Value::Array(parsed)) if written.len() != parsed.len() => {
                format!("it must be a single number, or an array of {}", parsed.len())
            }
            (Value::Array(_), parsed) if !parsed.is_array() => "write it without brackets".into(),
            _ => continue,
        };
        bail!(unusable(key, Some(value), &reason));
    }
    Ok(())
}

/// The error for a setting's value, which is shown as it is written in the file.
fn unusable(key: &str, value: Option<&Value>, reason: &str) -> String {
    let section = known_keys().into_iter().find(|(_, known)| known == key).map_or("", |(section, _)| section);
    let value = value.map_or(String::new(), |value| format!(", {value},"));
    format!("the value of {}{value} cannot be used: {reason}", qualified(section, key))
}

/// Sections that contain settings.
const SECTIONS: [&str; 2] = ["augmentation", "pictures"];

/// Keys that are not settings: the fields of [`Record`].
const RECORD: [&str; 5] = ["expected-accuracy", "loss-weights", "algorithms", "environment", "input"];

/// Flags of `cnn-cuda train` that are not settings.
const ONLY_FLAGS: [&str; 8] = ["color", "config", "out", "progress", "quiet", "resident", "resume", "stream"];

/// Whether a key is a section, which a run's `config.toml` or a recipe may have.
fn is_section(key: &str) -> bool {
    SECTIONS.contains(&key) || ["algorithms", "environment", "input"].contains(&key)
}

/// All keys with their sections. The section of top-level keys is empty.
fn known_keys() -> Vec<(&'static str, String)> {
    let keys = |arguments: Vec<clap::Arg>| arguments.iter().map(key).collect::<Vec<_>>();
    let sections = [keys(arguments::<AugmentationSettings>()), keys(arguments::<PictureSettings>())];
    let in_sections =
        SECTIONS.iter().zip(&sections).flat_map(|(section, keys)| keys.iter().map(|key| (*section, key.clone())));
    let top = keys(arguments::<Settings>()).into_iter().filter(|key| !sections.iter().any(|keys| keys.contains(key)));
    let others = SECTIONS.into_iter().chain(RECORD).map(String::from);
    top.chain(others).map(|key| ("", key)).chain(in_sections).collect()
}

/// # Errors
/// A key that does not exist in its section.
fn check_keys(file: &Table) -> Result<()> {
    let known = known_keys();
    for (name, value) in file {
        check_key(&known, "", name, value)?;
        if let Value::Table(section) = value
            && SECTIONS.contains(&name.as_str())
        {
            section.iter().try_for_each(|(key, value)| check_key(&known, name, key, value))?;
        }
    }
    Ok(())
}

fn check_key(known: &[(&'static str, String)], section: &str, name: &str, value: &Value) -> Result<()> {
    let is_lost = section.is_empty() && value.is_table() && !is_section(name);
    if !is_lost && known.iter().any(|(home, key)| *home == section && key == name) {
        return Ok(());
    }
    let written = name.to_lowercase().replace('_', "-");
    let distance = |(_, key): &&(&str, String)| strsim::damerau_levenshtein(&written, key);
    ensure!(!ONLY_FLAGS.contains(&written.as_str()), "{name} is a flag only, not a recipe key");
    if let Some((home, key)) = known.iter().find(|known| !is_lost && distance(known) == 0 && known.0 != section) {
        let place = if home.is_empty() {
            format!("write {key} = {value} at the top of the file, before the first section")
        } else {
            format!("write it as {key} = {value} in the section [{home}]")
        };
        bail!("there is no key {} here; {place}", qualified(section, name));
    }
    // Suggest only keys that accept the value, and prefer those of the same section.
    let tolerance = |key: &str| if is_lost { key.len() / 3 } else { key.len().div_ceil(2) };
    let near = |known: &&(&str, String)| distance(known) <= tolerance(&known.1) && accepts(&known.1, value);
    let nearest = known.iter().filter(near).min_by_key(|known| (known.0 != section, distance(known)));
    let described = || known.iter().find(|(_, key)| is_described(key, &written) && accepts(key, value));
    let hint = match nearest.or_else(described) {
        Some((home, key)) => format!("did you mean {}?", qualified(home, key)),
        None if is_lost => "write its keys at the top of the file, before the first section".into(),
        None => the_keys(known, section),
    };
    let what = if is_lost { "section" } else { "key" };
    bail!("there is no {what} {}; {hint}", qualified(section, name))
}

/// Whether a setting's help begins with the words of `written`, such as `learning-rate`.
fn is_described(key: &str, written: &str) -> bool {
    let help = arguments::<Settings>().into_iter().find(|argument| self::key(argument) == key);
    let help = help.and_then(|argument| argument.get_help().map(|help| help.to_string().to_lowercase()));
    let rest = help.as_deref().and_then(|help| help.strip_prefix(&written.replace('-', " ")));
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// Lists the keys of a section. At the top of a file, the sections follow.
fn the_keys(known: &[(&'static str, String)], section: &str) -> String {
    let here = known.iter().filter(|(home, _)| *home == section).map(|(_, key)| key.as_str());
    let (sections, keys): (Vec<_>, Vec<_>) = here.partition(|key| is_section(key));
    let sections: String = sections.iter().map(|section| format!(", [{section}]")).collect();
    let sections = sections.trim_start_matches(", ");
    let keys = format!("the keys are: {}", keys.join(", "));
    if sections.is_empty() { keys } else { format!("{keys}; the sections are: {sections}") }
}

fn qualified(section: &str, key: &str) -> String {
    if section.is_empty() { key.into() } else { format!("{section}.{key}") }
}

/// Whether `value` is valid for a key.
fn accepts(key: &str, value: &Value) -> bool {
    match value {
        Value::Table(_) => is_section(key),
        _ if SECTIONS.contains(&key) || RECORD.contains(&key) => key == "expected-accuracy" && value.is_float(),
        _ => match parse_flags(vec![flag(key, value)]) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::MissingRequiredArgument,
        },
    }
}

/// Formats a key and its value as a flag.
fn flag(name: &str, value: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let is_switched = || arguments::<Settings>().iter().any(|argument| is_switch(argument) && key(argument) == name);
    match value {
        Value::Boolean(true) if is_switched() => format!("--{name}"),
        Value::Boolean(false) if is_switched() => format!("--no-{name}"),
        Value::Array(values) if values.iter().all(|value| value.is_float() || value.is_integer()) => {
            format!("--{name}={}", values.iter().map(text).collect::<Vec<_>>().join(","))
        }
        value => format!("--{name}={}", text(value)),
    }
}

fn parse_flags(flags: Vec<String>) -> Result<Layer, clap::Error> {
    let command = Layer::augment_args(Command::new("file").no_binary_name(true));
    Layer::from_arg_matches(&command.try_get_matches_from(flags)?)
}

/// Rewrites an error about a flag as one about a key of the file.
fn explain(error: &clap::Error, written: &Table) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(all)) => all.join(", "),
        _ => String::new(),
    };
    let flag = context(ContextKind::InvalidArg);
    let name = flag.trim_start_matches("--").split([' ', '=']).next().unwrap_or_default().to_string();
    let reason = match (error.kind(), std::error::Error::source(error)) {
        (ErrorKind::MissingRequiredArgument, _) => {
            return format!("{name} is missing; mean and std must both be given");
        }
        (ErrorKind::TooManyValues, _) => "it must be true or false".into(),
        (_, Some(source)) => source.to_string(),
        (ErrorKind::InvalidValue, None) if error.get(ContextKind::ValidValue).is_some() => {
            format!("it must be one of: {}", context(ContextKind::ValidValue))
        }
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_string(),
    };
    unusable(&name, written.get(&name), &reason)
}

impl Record {
    fn check(&self) -> Result<()> {
        let in_range = self.expected_accuracy.is_none_or(|accuracy| accuracy > 0.0 && accuracy <= 1.0);
        ensure!(in_range, "the value of expected-accuracy cannot be used: it must be above 0 and at most 1");
        self.input.as_ref().map_or(Ok(()), InputRecord::check).context("the section [input] cannot be used")
    }
}

impl InputRecord {
    pub fn new(dataset: &Dataset) -> Self {
        let Shape { height, width, channels } = dataset.shape;
        let (mean, std, classes) = (dataset.mean.clone(), dataset.std.clone(), dataset.classes.clone());
        Self { channels, height, width, mean, std, classes }
    }

    pub fn shape(&self) -> Shape {
        Shape::new(self.height, self.width, self.channels)
    }

    /// The first value that differs from that of `now`, in words; `None` if all are equal.
    pub fn difference(&self, now: &Self) -> Option<String> {
        let one =
            |what: &str, then: &dyn ToString, now: &dyn ToString| (what.to_string(), then.to_string(), now.to_string());
        let mut values = vec![
            one("the number of channels", &self.channels, &now.channels),
            one("the height", &self.height, &now.height),
            one("the width", &self.width, &now.width),
            one("the number of classes", &self.classes.len(), &now.classes.len()),
        ];
        values.extend(self.mean.iter().zip(&now.mean).map(|(then, now)| one("the mean", then, now)));
        values.extend(self.std.iter().zip(&now.std).map(|(then, now)| one("the standard deviation", then, now)));
        let names = self.classes.iter().zip(&now.classes).enumerate();
        values.extend(names.map(|(at, (then, now))| one(&format!("the name of class {at}"), then, now)));
        let differs = values.into_iter().find(|(_, then, now)| then != now);
        differs.map(|(what, then, now)| format!("there, {what} is {then}, but now it is {now}"))
    }

    pub fn normalisation(&self) -> Normalisation {
        (self.mean.clone(), self.std.clone())
    }

    pub(super) fn check(&self) -> Result<()> {
        let sides = [self.channels, self.height, self.width];
        ensure!(
            sides.iter().all(|side| (1..=MAX_SIDE).contains(side)),
            "channels, height and width are {sides:?}; each must be from 1 to {MAX_SIDE}"
        );
        ensure!(
            self.mean.len() == self.channels && self.std.len() == self.channels,
            "it must have one mean and one std per channel"
        );
        ensure!(self.mean.iter().all(|mean| mean.is_finite()), "mean is {:?}; it must be finite", self.mean);
        ensure!(
            self.std.iter().all(|std| std.is_finite() && *std > 0.0),
            "std is {:?}; it must be finite and above 0",
            self.std
        );
        ensure!(!self.classes.is_empty(), "classes is empty");
        Ok(())
    }
}
