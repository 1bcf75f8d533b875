//! All settings of a run with their values and defaults, for a reader.

use anyhow::Result;
use toml::Value;

use super::layers::{defaults, table, values};
use super::shown::number;
use super::{RunConfig, Settings};

/// A setting of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueOfSetting {
    pub name: String,
    pub value: String,
    /// The default, if the value is another; empty if the setting has none.
    pub default: Option<String>,
}

impl RunConfig {
    /// The settings that have a value, by name. Those of pictures are left out for other data sets.
    ///
    /// # Errors
    /// A value that a configuration cannot contain.
    pub fn listed(&self) -> Result<Vec<ValueOfSetting>> {
        let mut all = table(&self.settings)?;
        if !self.has_pictures() {
            all.remove("pictures");
        }
        let defaults = table(&defaults::<Settings>())?;
        let defaults = values(&defaults);
        let mut listed: Vec<ValueOfSetting> = values(&all)
            .into_iter()
            .map(|(name, value)| {
                let default = defaults.iter().find(|(key, _)| *key == name).map(|(_, default)| *default);
                let default = (default != Some(value)).then(|| default.map_or(String::new(), text));
                ValueOfSetting { name: name.into(), value: text(value), default }
            })
            .collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }
}

/// A value without quotes.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(", "),
        value => number(value),
    }
}
