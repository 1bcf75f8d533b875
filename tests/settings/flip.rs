//! `--flip` and `--crop-padding-mode`: their modes, and the values of earlier versions.

use cnn_cuda::ops::{Flip, PaddingMode};

use super::optimiser::config;
use super::parse;

#[test]
fn a_flip_has_a_mode_and_files_of_earlier_versions_stay_valid() {
    let flip = |recipe: &str, flags: &[&str]| config(&format!("[augmentation]\n{recipe}"), flags).expect("settings");
    let mode = |recipe: &str, flags: &[&str]| flip(recipe, flags).hyperparameters().augmentation.flip;
    assert_eq!(mode("", &[]), Flip::Never);
    assert_eq!(mode("", &["--flip"]), Flip::Random);
    assert_eq!(mode("", &["--flip", "--nesterov", "--momentum=0.5"]), Flip::Random);
    assert_eq!(mode("", &["--flip", "random"]), Flip::Random);
    assert_eq!(mode("", &["--flip=alternating"]), Flip::Alternating);
    assert_eq!(mode("flip = true", &[]), Flip::Random);
    assert_eq!(mode("flip = false", &[]), Flip::Never);
    assert_eq!(mode("flip = 'random'", &[]), Flip::Random);
    assert_eq!(mode("flip = 'alternating'", &[]), Flip::Alternating);
    assert_eq!(mode("flip = true", &["--flip", "alternating"]), Flip::Alternating);
    assert_eq!(mode("flip = 'alternating'", &["--no-flip"]), Flip::Never);
    assert_eq!(mode("flip = true", &["--no-flip"]), Flip::Never);
    for (recipe, line) in [
        ("flip = true", "flip = true"),
        ("flip = 'random'", "flip = true"),
        ("flip = 'alternating'", "flip = \"alternating\""),
        ("flip = false", "flip = false"),
    ] {
        let text = toml::to_string(&flip(recipe, &[]).settings).expect("TOML");
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
    assert!(parse(&["--flip=sometimes"]).is_err());
}

#[test]
fn a_padding_mode_needs_a_padding() {
    let reflect = ["--crop-padding-mode=reflect"];
    let augmentation =
        config("[augmentation]\ncrop-padding = 2", &reflect).expect("settings").hyperparameters().augmentation;
    assert_eq!((augmentation.crop_padding, augmentation.padding_mode), (2, PaddingMode::Reflect));
    let off = ["--no-crop-padding-mode"];
    let recipe = "[augmentation]\ncrop-padding = 2\ncrop-padding-mode = 'reflect'";
    let augmentation = config(recipe, &off).expect("settings").hyperparameters().augmentation;
    assert_eq!((augmentation.crop_padding, augmentation.padding_mode), (2, PaddingMode::Constant));
    let error = config("", &reflect).expect_err("no padding").to_string();
    assert!(error.contains("--crop-padding-mode needs a --crop-padding above 0"), "{error}");
}
