//! Layers of settings: flags override a recipe, which overrides the defaults.

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::Settings;

/// Settings without their defaults: a setting that no flag gives is `None`. The help still shows the defaults. A switch
/// that is on by default has a flag `--no-…` too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given<T>(pub T);

impl<T: Args + Serialize + for<'de> Deserialize<'de>> Args for Given<T> {
    fn augment_args(command: Command) -> Command {
        arguments::<T>().into_iter().fold(command, |command, argument| {
            let off = is_on_by_default(&argument).then(|| off_flag(&argument));
            // The command that includes these flags decides their order in the help.
            command.arg(without_default(argument).display_order(None)).args(off)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Args + Serialize + for<'de> Deserialize<'de>> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = T::from_arg_matches(matches)?;
        let keys = arguments::<T>().into_iter().filter(is_on_by_default).map(|argument| key(&argument));
        let off: Vec<String> = keys.filter(|key| matches.get_flag(&format!("no-{key}"))).collect();
        if off.is_empty() {
            return Ok(Self(given));
        }
        let mut all = table(&given).map_err(|error| Error::raw(ErrorKind::InvalidValue, error))?;
        all.extend(off.into_iter().map(|key| (key, Value::Boolean(false))));
        all.try_into().map(Self).map_err(|error| Error::raw(ErrorKind::InvalidValue, error))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<T: Args + Serialize + for<'de> Deserialize<'de>> Given<T> {
    /// Fills in the defaults of settings that are not given.
    pub fn or_defaults(&self) -> Result<T> {
        let mut all = table(&defaults::<T>())?;
        all.extend(table(&self.0)?);
        all.try_into().context("settings")
    }
}

/// The command-line arguments of a group of settings.
pub(super) fn arguments<T: Args>() -> Vec<Arg> {
    T::augment_args(Command::new("settings")).get_arguments().cloned().collect()
}

/// The key of a setting in files.
pub(super) fn key(argument: &Arg) -> String {
    argument.get_id().as_str().replace('_', "-")
}

/// Whether an argument is a switch, which takes no value.
pub(super) fn is_switch(argument: &Arg) -> bool {
    argument.get_num_args().is_some_and(|count| count.max_values() == 0)
}

/// Whether a setting is a switch, or is off by default.
fn can_be_off(argument: &Arg) -> bool {
    let mut default = argument.get_default_values().iter();
    is_switch(argument) || default.all(|value| matches!(&*value.to_string_lossy(), "0" | "constant" | "false" | "none"))
}

/// Whether a setting is a switch that is on by default.
fn is_on_by_default(argument: &Arg) -> bool {
    is_switch(argument) && argument.get_default_values() == ["true"]
}

/// The hidden flag `--no-…` of a setting.
fn off_flag(argument: &Arg) -> Arg {
    let name = format!("no-{}", key(argument));
    Arg::new(name.clone()).long(name).action(ArgAction::SetTrue).hide(true).overrides_with(argument.get_id())
}

/// Removes an argument's default value, and appends it to the help text instead.
fn without_default(argument: Arg) -> Arg {
    let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if default.is_empty() {
        return argument;
    }
    let shown = format!(" [default: {}]", default.join(","));
    let hidden = is_switch(&argument) || argument.is_hide_default_value_set();
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    argument.default_values(Vec::<&str>::new()).help(if hidden { help } else { help + &shown })
}

/// The default settings of a group.
pub fn defaults<T: Args>() -> T {
    let matches = T::augment_args(Command::new("defaults").no_binary_name(true)).get_matches_from(Vec::<&str>::new());
    // Every field is optional.
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The settings from one source: the command line or a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    pub given: Settings,
    /// Keys that `--no-…` switches off, or resets to their default.
    pub off: Vec<String>,
}

impl Args for Layer {
    fn augment_args(command: Command) -> Command {
        let command = Given::<Settings>::augment_args(command);
        let others = arguments::<Settings>().into_iter().filter(|it| can_be_off(it) && !is_on_by_default(it));
        command.args(others.map(|argument| off_flag(&argument)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Layer {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let off = matches.ids().filter_map(|id| id.as_str().strip_prefix("no-"));
        let off = off.filter(|key| matches.get_flag(&format!("no-{key}"))).map(String::from).collect();
        Ok(Self { given: Settings::from_arg_matches(matches)?, off })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The defaults, overridden by each layer in order.
///
/// # Errors
/// A value that TOML cannot represent, such as a path that is not UTF-8.
pub fn overlay(layers: &[&Layer]) -> Result<Settings> {
    let defaults = table(&defaults::<Settings>())?;
    let mut all = defaults.clone();
    for layer in layers {
        layer.off.iter().for_each(|key| switch_off(&mut all, &defaults, key));
        merge(&mut all, table(&layer.given)?);
    }
    all.try_into().context("settings")
}

pub(super) fn table<T: Serialize>(settings: &T) -> Result<Table> {
    Table::try_from(settings).context("a value that config.toml cannot hold")
}

/// Every key of a file with its value, sections included.
pub(super) fn values(file: &Table) -> Vec<(&str, &Value)> {
    let mut all = Vec::new();
    for (key, value) in file {
        match value {
            Value::Table(section) => all.extend(values(section)),
            value => all.push((key.as_str(), value)),
        }
    }
    all
}

fn switch_off(all: &mut Table, defaults: &Table, key: &str) {
    match (all.get_mut(key), defaults.get(key)) {
        (Some(Value::Boolean(on)), Some(_)) => *on = false,
        (Some(value), Some(default)) => *value = default.clone(),
        (Some(_), None) => {
            all.remove(key);
        }
        (None, _) => {
            for (name, value) in all {
                if let (Value::Table(section), Some(Value::Table(defaults))) = (value, defaults.get(name))
                    && section.contains_key(key)
                {
                    switch_off(section, defaults, key);
                }
            }
        }
    }
}

fn merge(all: &mut Table, given: Table) {
    for (key, value) in given {
        match (all.get_mut(&key), value) {
            (Some(Value::Table(section)), Value::Table(given)) => merge(section, given),
            (_, value) => {
                all.insert(key, value);
            }
        }
    }
}
