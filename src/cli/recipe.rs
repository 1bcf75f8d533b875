//! Recipes: TOML files with some or all of the keys of a run's `config.toml`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use serde::de::value::Error as NoValue;
use serde::de::{Deserializer, Error, Visitor};
use toml::{Table, Value};
use tracing::warn;

use super::augmentation::AugmentationConfig;
use super::config::{self, Config};
use super::dataset;
use super::input::{InputConfig, PictureConfig};
use crate::data::PictureOptions;

/// More is no recipe, whatever its name.
const MAX_BYTES: u64 = 1 << 20;

/// The configuration in `path`; what it does not say is as in `standard`.
///
/// # Errors
/// Where it cannot be read or is no TOML, and for keys that do not exist or whose values are of another type or out of
/// range; the message names file, key and, where one is near, the key that was meant.
pub fn load(path: &Path, standard: &Config) -> Result<Config> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).with_context(|| format!("--config {shown}: cannot read it"))?;
    ensure!(
        metadata.is_file() && metadata.len() <= MAX_BYTES,
        "--config {shown}: that is no recipe, but something else"
    );
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {shown}: cannot read it"))?;
    parse(&text, standard).with_context(|| format!("--config {shown}"))
}

fn parse(text: &str, standard: &Config) -> Result<Config> {
    let mut file: Table = toml::from_str(text).map_err(|error| anyhow!("it is not TOML: {error}"))?;
    for key in config::remove_retired(&mut file) {
        warn!("{key} has no effect any more: it measured no gain");
    }
    let mut all = Table::try_from(standard).context("the defaults")?;
    check_keys::<Config>("", &file)?;
    for (key, value) in file {
        let value = match (key.as_str(), value) {
            ("pictures", Value::Table(table)) => {
                check_keys::<PictureConfig>("pictures.", &table)?;
                let mut pictures = Table::try_from(PictureConfig::new(&PictureOptions::default()))?;
                pictures.extend(table);
                Value::Table(pictures)
            }
            ("augmentation", Value::Table(table)) => {
                check_keys::<AugmentationConfig>("augmentation.", &table)?;
                Value::Table(table)
            }
            ("input", Value::Table(table)) => {
                check_keys::<InputConfig>("input.", &table)?;
                Value::Table(table)
            }
            (_, value) => value,
        };
        // One key at a time, so that an error is that key's.
        all.insert(key.clone(), value);
        let parsed = all.clone().try_into::<Config>();
        parsed.map_err(|error| anyhow!("the value of {key} cannot be used: {}", error.message()))?;
    }
    let mut config: Config = all.try_into().map_err(|error: toml::de::Error| anyhow!("{}", error.message()))?;
    config.check()?;
    dataset::check_dataset(&config.dataset).context("the value of dataset cannot be used")?;
    config.dataset = dataset::absolute(&config.dataset)?;
    config.data = dataset::absolute_path(&config.data)?;
    config.init = config.init.as_deref().map(dataset::absolute_path).transpose()?;
    Ok(config)
}

/// An error for the first key that `T` does not have.
fn check_keys<T: for<'de> Deserialize<'de>>(prefix: &str, table: &Table) -> Result<()> {
    let known = keys_of::<T>();
    let Some(unknown) = table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let distance = |key: &&&str| strsim::damerau_levenshtein(&unknown.to_lowercase().replace('_', "-"), key);
    let nearest = known.iter().min_by_key(distance).filter(|key| distance(key) <= key.len().div_ceil(2));
    let hint = match nearest {
        Some(key) => format!("; did you mean {prefix}{key}?"),
        None => format!("; it may have: {}", known.join(", ")),
    };
    Err(anyhow!("there is no key {prefix}{unknown}{hint}"))
}

/// The keys of a structure, as it deserialises.
fn keys_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // The deserialiser below gives no value: what fails is meant to.
    let _ = T::deserialize(Keys(&mut keys));
    keys
}

/// A deserialiser that only takes down which fields it is asked for.
struct Keys<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Keys<'_> {
    type Error = NoValue;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
        Err(NoValue::custom("there is no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
