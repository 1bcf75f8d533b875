//! When, on which machine and by which version a run was trained: a record for the reader, which changes nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::RunConfig;

/// What the section `[environment]` of a run's `config.toml` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Environment {
    /// When the run began, in UTC, as `2026-01-31 12:00:00`.
    pub started: String,
    /// The version of the program, and the system that it was built for.
    pub version: String,
    /// As the program names it, with the number of threads.
    pub device: String,
    /// The model of the processor, if the system reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// The number of processors that the process may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processors: Option<usize>,
    /// The machine's memory, in GiB, if the system reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_gib: Option<f64>,
}

impl Environment {
    /// The machine now, with the device that the program uses.
    pub fn now(device: &str) -> Self {
        let memory = proc_value("/proc/meminfo", "MemTotal");
        let kibibytes = memory.and_then(|text| text.strip_suffix("kB")?.trim().parse::<f64>().ok());
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        Self {
            started: date_and_time(seconds),
            version: format!("{} ({} {})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH),
            device: device.into(),
            processor: proc_value("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().ok().map(usize::from),
            memory_gib: kibibytes.map(|it| (10.0 * it / f64::from(1 << 20)).round() / 10.0),
        }
    }
}

impl RunConfig {
    /// Records the machine that trains from now on. A resumed run keeps when it began.
    pub fn record_environment(&mut self, device: &str) {
        let now = Environment::now(device);
        let started = self.record.environment.take().map_or(now.started, |it| it.started);
        self.record.environment = Some(Environment { started, ..now });
    }
}

/// The first value with a name in one of Linux's files of names and values.
fn proc_value(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let entry = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    entry.map(|(_, value)| value.trim().to_string())
}

/// Seconds since 1970 as date and time in UTC (Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2021).
pub fn date_and_time(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153; // months from March on
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}
