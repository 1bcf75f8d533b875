//! The tuner on the emulator with tiles of implicit GEMM: it chooses the fastest, records it, and a resumed run keeps it.

use std::fs;
use std::path::{Path, PathBuf};

use super::cuda::{run_with, step_losses, succeed};
use super::cuda_mnist::small_set;
use crate::support::emulator::emulator;

/// A folder with a small data set, a tuning cache and runs.
struct Lab {
    folder: tempfile::TempDir,
    data: String,
    libraries: &'static Path,
}

impl Lab {
    fn new(libraries: &'static Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = small_set(folder.path());
        Self { folder, data, libraries }
    }

    fn run(&self, args: &[&str]) -> String {
        let cache = self.cache();
        succeed(run_with(self.libraries, &[("XDG_CACHE_HOME", cache.to_str().expect("UTF-8"))], args)).stderr
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Trains `steps` steps in a new folder.
    fn train(&self, name: &str, steps: &str) -> PathBuf {
        let out = self.folder.path().join(name);
        let shape = ["--data", &self.data, "--model", "lenet5", "--device", "0", "--batch-size", "4"];
        let rest = ["--log-steps", "--quiet", "--max-steps", steps, "--out", out.to_str().expect("UTF-8")];
        self.run(&[&["train"], &shape[..], &rest].concat());
        out
    }

    fn resume(&self, run: &Path, steps: &str) -> String {
        self.run(&["train", "--resume", run.to_str().expect("UTF-8"), "--max-steps", steps, "--quiet"])
    }

    /// Makes a candidate the fastest in the tuning cache wherever it was timed; returns how often that was.
    fn make_fastest(&self, candidate: &str) -> usize {
        let files: Vec<_> = fs::read_dir(self.cache().join("cnn-cuda")).expect("a cache").flatten().collect();
        let mut paths = files.iter().map(fs::DirEntry::path);
        let path = paths.find(|path| path.to_string_lossy().contains("algorithms-")).expect("a file");
        let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        let mut count = 0;
        for times in file["microseconds"].as_object_mut().expect("times").values_mut() {
            if let Some(time) = times.get_mut(candidate) {
                *time = 0.0.into();
                count += 1;
            }
        }
        fs::write(path, file.to_string()).expect("written");
        count
    }
}

/// The choices that a run recorded.
fn recorded(run: &Path) -> toml::Table {
    let text = fs::read_to_string(run.join("config.toml")).expect("read");
    let config: toml::Table = toml::from_str(&text).expect("TOML");
    config["algorithms"].as_table().expect("a table").clone()
}

/// Replaces every recorded choice, by the site's name and the choice.
fn replace_recorded(run: &Path, name: impl Fn(&str, &str) -> String) {
    let path = run.join("config.toml");
    let mut config: toml::Table = toml::from_str(&fs::read_to_string(&path).expect("read")).expect("TOML");
    for (site, choice) in config["algorithms"].as_table_mut().expect("a table") {
        *choice = name(site, choice.as_str().expect("a name")).into();
    }
    fs::write(&path, toml::to_string(&config).expect("TOML")).expect("written");
}

#[test]
#[ignore = "long; CI runs it"]
fn the_fastest_tile_is_chosen_recorded_and_kept() {
    let Some(libraries) = emulator() else { return };
    let lab = Lab::new(libraries);
    lab.train("first", "1");
    let count = lab.make_fastest("implicit 32x128");
    assert!(count > 0);
    let whole = lab.train("whole", "4");
    let chosen = recorded(&whole);
    assert!(chosen.values().filter(|name| name.as_str() == Some("implicit 32x128")).count() >= count, "{chosen:?}");
    let half = lab.train("half", "2");
    // The cache now prefers another tile, but the run keeps its own.
    fs::remove_dir_all(lab.cache()).expect("removed");
    let stderr = lab.resume(&half, "4");
    assert!(!stderr.contains("last bits"), "{stderr}");
    assert_eq!(recorded(&half), chosen);
    assert_eq!(step_losses(&half), step_losses(&whole));
}

#[test]
#[ignore = "long; CI runs it"]
fn a_recorded_tile_that_does_not_exist_is_reported() {
    let Some(libraries) = emulator() else { return };
    let lab = Lab::new(libraries);
    let run = lab.train("run", "1");
    let is_forward = |site: &str| site.starts_with("linear_forward");
    let lost = recorded(&run).keys().filter(|site| is_forward(site)).count();
    replace_recorded(&run, |site, name| if is_forward(site) { "implicit 7x7".into() } else { name.into() });
    let stderr = lab.resume(&run, "2");
    let warnings: Vec<&str> = stderr.lines().filter(|line| line.contains("last bits")).collect();
    assert_eq!(warnings.len(), lost, "{stderr}");
    assert!(warnings.iter().all(|line| line.contains("linear_forward") && line.contains("implicit 7x7")), "{stderr}");
    assert!(recorded(&run).values().all(|name| name.as_str() != Some("implicit 7x7")));
}

/// Earlier versions recorded no tiles: theirs were those that `--conv-algo implicit` uses.
#[test]
#[ignore = "long; CI runs it"]
fn a_recorded_algorithm_without_a_tile_means_the_usual_one() {
    let Some(libraries) = emulator() else { return };
    let lab = Lab::new(libraries);
    let run = lab.train("run", "1");
    replace_recorded(&run, |_, _| "implicit".into());
    let stderr = lab.resume(&run, "2");
    assert!(!stderr.contains("last bits"), "{stderr}");
    let now = recorded(&run);
    assert!(now.values().all(|name| name.as_str().is_some_and(|name| name.starts_with("implicit "))), "{now:?}");
    assert_eq!(now["linear_forward 84 to 10, batch 4, fp32"].as_str(), Some("implicit 256x16"), "{now:?}");
}
