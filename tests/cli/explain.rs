//! `explain` and `filters`.

use std::fs;
use std::path::{Path, PathBuf};

use image::GenericImageView;

use super::train;
use crate::support::program::{fail, succeed};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A gray picture with a stroke of `width` pixels.
fn picture(path: &Path, width: usize) -> PathBuf {
    let pixels: Vec<u8> = (0..28 * 28).map(|at| if (12..12 + width).contains(&(at % 28)) { 250 } else { 0 }).collect();
    image::save_buffer(path, &pixels, 28, 28, image::ExtendedColorType::L8).expect("saved");
    path.to_path_buf()
}

/// The names of all files below a folder, sorted.
fn files(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => all.push(path.strip_prefix(folder).expect("below").to_string_lossy().into_owned()),
            }
        }
    }
    all.sort();
    all
}

/// Whether a picture has pixels of different colours.
fn shows_something(path: &Path) -> bool {
    let picture = image::open(path).expect("a PNG file");
    let first = picture.get_pixel(0, 0);
    picture.width() >= 28 && picture.pixels().any(|(_, _, pixel)| pixel != first)
}

#[test]
fn pictures_are_explained_by_files_and_a_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "60", "--quiet"]);
    fs::create_dir(folder.path().join("more")).expect("a folder");
    let one = picture(&folder.path().join("<b>one&.png"), 3);
    let two = picture(&folder.path().join("more/<b>one&.png"), 9);
    let explained = folder.path().join("explained");
    let common = ["explain", "--device", "cpu", "--weights", text(&out), "--out", text(&explained)];
    let ran = succeed([&common[..], &[text(&one), text(&two)]].concat());
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("<b>one&.png: "), "{}", ran.stdout);
    assert_eq!(lines[2], text(&explained.join("index.html")));
    let maps = ["deconv", "gradcam", "occlusion", "saliency", "smoothgrad"];
    let layers =
        ["conv1", "conv2", "fc1", "fc2", "fc3", "avgpool.1", "avgpool.2"].map(|layer| format!("layer-{layer}"));
    let names = maps.map(String::from).into_iter().chain(layers);
    let pictures: Vec<String> = names.map(|name| format!("{name}.png")).collect();
    let mut expected = vec!["index.html".to_string()];
    for folder in ["<b>one&", "<b>one&-2"] {
        expected.extend(pictures.iter().map(|name| format!("{folder}/{name}")));
    }
    expected.sort();
    assert_eq!(files(&explained), expected);
    for name in expected.iter().filter(|name| !name.ends_with("html")) {
        assert!(shows_something(&explained.join(name)), "{name}");
    }
    let page = fs::read_to_string(explained.join("index.html")).expect("a page");
    assert!(page.contains("&lt;b&gt;one&amp;.png") && !page.contains("<b>one"), "the name is not escaped");
    assert!(!page.contains("http://") && !page.contains("https://"), "the page loads something");
    assert_eq!(page.matches("data:image/png").count(), 2 * (pictures.len() + 1), "each picture and the two inputs");
    // The page and the folder of a picture of its name get along.
    let page_name = picture(&folder.path().join("index.html.png"), 5);
    succeed([&common[..], &["--method", "saliency", text(&page_name)]].concat());
    assert!(explained.join("index.html").is_file() && explained.join("index.html-2/saliency.png").is_file());
    // Again into the same folder, with fewer methods, of another class.
    let ran = succeed([&common[..], &["--method", "gradcam", "--class", "3", "--layer", "conv1", text(&one)]].concat());
    assert!(ran.stderr.contains("<b>one&.png: gradcam"), "{}", ran.stderr);
    let page = fs::read_to_string(explained.join("index.html")).expect("a page");
    assert!(page.contains("Why “3”") && page.contains("Where conv1 speaks for the class"), "{page}");
    assert!(!page.contains("Saliency"));
}

#[test]
fn what_cannot_be_explained_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "1", "--quiet"]);
    let one = picture(&folder.path().join("one.png"), 3);
    let explained = folder.path().join("explained");
    let refused = |code, more: &[&str], words: &[&str]| {
        let common = ["explain", "--device", "cpu", "--weights", text(&out), "--out", text(&explained)];
        fail(code, [&common[..], more].concat(), words);
        assert!(!explained.exists(), "something was written");
    };
    refused(2, &[], &["IMAGE"]);
    refused(2, &["--method", "magic", text(&one)], &["gradcam", "occlusion"]);
    refused(2, &["--class", "10", text(&one)], &["--class \"10\"", "a number below 10"]);
    refused(2, &["--class", "-1", text(&one)], &["--class"]);
    refused(1, &["--layer", "conv9", text(&one)], &["--layer", "lenet5 has no layer \"conv9\"", "cnn-cuda summary"]);
    refused(1, &["--layer", "fc1", "--method", "gradcam", text(&one)], &["--layer fc1 has a single position"]);
    refused(1, &["no.png"], &["no.png"]);
    fs::remove_dir(&explained).ok();
    fs::write(&explained, "a file").expect("written");
    let args = ["explain", "--device", "cpu", "--weights", text(&out), "--out", text(&explained), text(&one)];
    fail(1, args, &["cannot create the folder"]);
}

#[test]
fn filters_are_shown_with_what_excites_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(&out, &["--max-steps", "60", "--quiet"]);
    let shown = folder.path().join("filters");
    let common = ["filters", "--device", "cpu", "--out", text(&shown), "--weights"];
    let ran = succeed([&common[..], &[text(&out), "--images", "50", "--maps", "4", "--top", "5"]].concat());
    assert_eq!(ran.stdout.trim(), text(&shown.join("index.html")));
    assert_eq!(files(&shown), ["first-layer.png", "index.html", "layer-conv1.png", "layer-conv2.png"]);
    for name in ["first-layer.png", "layer-conv1.png", "layer-conv2.png"] {
        assert!(shows_something(&shown.join(name)), "{name}");
    }
    let page = fs::read_to_string(shown.join("index.html")).expect("a page");
    assert!(page.contains("50 test images of digits") && page.contains("The first 4 of 16 channels"), "{page}");
    // A linear layer has no field of its own: its units see the whole image.
    succeed([&common[..], &[text(&out), "--images", "20", "--layer", "fc1,conv2", "--maps", "3"]].concat());
    assert!(files(&shown).contains(&"layer-fc1.png".to_string()));
    fail(1, [&common[..], &[text(&out), "--layer", "conv9"]].concat(), &["--layer", "no layer \"conv9\""]);
    fail(1, [&common[..], &["no.safetensors"]].concat(), &["no.safetensors"]);
}

#[test]
fn without_images_only_the_first_filters_are_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = folder.path().join("filters");
    let weights = "tests/reference/lenet5.safetensors"; // does not say what it was trained on
    let args = ["filters", "--model", "lenet5", "--device", "cpu", "--out", text(&shown), "--weights", weights];
    let ran = succeed(args);
    assert!(ran.stderr.contains("only the first layer is shown; for deeper layers, --dataset"), "{}", ran.stderr);
    assert_eq!(files(&shown), ["first-layer.png", "index.html"]);
    succeed([&args[..], &["--dataset", "digits", "--images", "10"]].concat());
    assert_eq!(files(&shown), ["first-layer.png", "index.html", "layer-conv1.png", "layer-conv2.png"]);
}
