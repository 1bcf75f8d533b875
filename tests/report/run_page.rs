//! A run's report as HTML, and the pictures beside it: escaped names, missing parts, any number of classes.

use cnn_cuda::ops::{Metrics, Mix};
use cnn_cuda::report::picture::{Picture, WHITE};
use cnn_cuda::report::{Confusion, Evaluation, ListedSetting, Mistake, RunPage, batch_picture, confusion_picture};
use cnn_cuda::shape::Shape;

use super::{epoch, validated};

const NASTY: &str = "<script>alert(1)</script>&\"'";

/// An evaluation of `count` classes with a mistake in each.
fn evaluation(classes: Vec<String>) -> Evaluation {
    let count = classes.len();
    let mut confusion = Confusion::new(classes);
    for class in 0..count {
        (0..9).for_each(|_| confusion.add(class as u32, class as u32));
        confusion.add(class as u32, ((class + 1) % count) as u32);
    }
    let picture = Picture::filled(28, 28, WHITE);
    let mistake = |index: usize| Mistake {
        index,
        truth: index,
        predicted: (index + 1) % count,
        probability: 0.875,
        true_probability: 0.0625,
        loss: 2.5,
        picture: picture.clone(),
    };
    let worst = (0..count.min(25)).map(mistake).collect();
    let samples = 10 * count as u64;
    let metrics = Metrics { samples, correct: 9 * count as u64, loss_sum: samples as f64, ..Metrics::default() };
    Evaluation { metrics, confusion, top5_accuracy: Some(0.99), worst }
}

fn page(evaluation: Result<Evaluation, String>) -> RunPage {
    RunPage {
        title: format!("lenet5 on {NASTY}, seed 0"),
        lead: "2026-01-31 12:00:00 UTC".into(),
        epochs: Ok(vec![epoch(1), validated(2, 0.5, 0.75)]),
        evaluated: "The weights after the last step.".into(),
        evaluation,
        train_batch: Ok((Picture::filled(2, 2, WHITE).png().unwrap(), NASTY.into())),
        filters: Ok((Picture::filled(2, 2, WHITE), "White is 0".into())),
        settings: vec![
            ListedSetting { name: "data".into(), value: NASTY.into(), default: Some(NASTY.into()) },
            ListedSetting { name: "epochs".into(), value: "20".into(), default: None },
        ],
        facts: vec![("Machine", vec![("device".into(), NASTY.into())])],
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|class| format!("{NASTY} {class}")).collect()
}

#[test]
fn names_from_outside_are_escaped_wherever_they_occur() {
    for count in [2, 40] {
        let html = page(Ok(evaluation(names(count)))).render().unwrap();
        assert!(!html.contains("<script>alert") && !html.contains("&\"'"), "a name is not escaped");
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39; 1"), "a name is missing");
        assert_eq!(html.matches("<script").count(), 1, "there is another script");
        let attributes = ["href=", "http:", "https:", "@import", "src=\"h", "url("];
        let outside = attributes.iter().find(|it| html.replace("http://www.w3.org/2000/svg", "").contains(**it));
        assert_eq!(outside, None);
    }
}

#[test]
fn a_report_has_every_number() {
    let html = page(Ok(evaluation(names(3)))).render().unwrap();
    // 9 of 10 are right; the curves and the table have a validation loss in the second epoch.
    for words in ["90.00%", "1.0000", "3 of 30", "87.50%, loss 2.5000", "val loss", "0.5000", "75.00%"] {
        assert!(html.contains(words), "{words} is missing");
    }
    assert!(html.contains("title=\"&lt;script") && html.contains(": 9 (90.00%)\">9"), "the matrix has no counts");
    assert!(!html.contains("top-5"), "with three classes it is always 1");
    assert!(!html.contains("NaN"));
}

#[test]
fn a_missing_part_says_why() {
    let mut page = page(Err("the folder a&b is missing".into()));
    (page.epochs, page.train_batch) = (Err("no metrics".into()), Err("no batch".into()));
    page.filters = Err("no convolution".into());
    let html = page.render().unwrap();
    for why in ["the folder a&amp;b is missing", "no metrics", "no batch", "no convolution"] {
        assert!(html.contains(&format!("Left out: {why}.")), "{why} is missing");
    }
    // A run without an epoch, or one that diverged, has a report too.
    page.epochs = Ok(Vec::new());
    assert!(page.render().unwrap().contains("no epoch has been evaluated yet"));
    let diverged = cnn_cuda::report::EpochRecord { train_loss: f64::NAN, test_loss: f64::INFINITY, ..epoch(1) };
    page.epochs = Ok(vec![diverged]);
    assert!(page.render().unwrap().contains("NaN"), "the table shows it");
}

#[test]
fn a_confusion_matrix_of_any_size_is_a_readable_picture() {
    let sizes = [1, 2, 10, 30, 31, 100, 430, 431, 1000, 3000].map(|count| {
        let picture = confusion_picture(&evaluation((0..count).map(|it| it.to_string()).collect()).confusion);
        assert!(picture.png().unwrap().len() < 300_000, "{count} classes");
        (count, picture.width, picture.height)
    });
    for (count, width, height) in sizes {
        assert!(width <= 1000 && height <= 1000, "{count} classes: {width}×{height}");
        assert!(count < 10 || width >= 300, "{count} classes: {width}×{height}");
    }
    // Right is blue, wrong orange, none white: in the heat map's first row, cells 0, 1 and 2.
    let picture = confusion_picture(&evaluation((0..43).map(|it| it.to_string()).collect()).confusion);
    let side = 860 / 43;
    let (left, top) = (picture.width - 16 - 43 * side, picture.height - 16 - 43 * side);
    let [right, wrong, none] = [0, 1, 2].map(|cell| picture.pixels[top * picture.width + left + cell * side]);
    assert!(right[2] > right[0] + 50 && wrong[0] > wrong[2] + 50 && none == WHITE, "{right:?} {wrong:?} {none:?}");
}

#[test]
fn a_batch_is_drawn_with_its_labels() {
    let (shape, classes) = (Shape::new(32, 32, 3), ["ant".into(), "日本".into(), "a very long name".into()]);
    let images: Vec<u8> = (0..70 * shape.len()).map(|at| (at / shape.len()) as u8).collect();
    let labels: Vec<u32> = (0..70).map(|index| index % 3).collect();
    let picture = batch_picture(&images, shape, &labels, &classes, None);
    // Eight columns of three times 32 pixels, and eight rows, each with a line of text.
    assert_eq!((picture.width, picture.height), (8 * 104 + 8, 8 * (96 + 18 + 8) + 8));
    let row = |at: usize| &picture.pixels[(8 + at * 122) * picture.width..][..picture.width];
    assert_eq!((row(0)[8], row(0)[8 + 104], row(1)[8]), ([0; 3], [1; 3], [8; 3]), "images are in their order");
    let mixed = batch_picture(&images, shape, &labels, &classes, Some(Mix::mixup(0.75)));
    assert!(mixed != picture && mixed.height == picture.height, "mixed images have two labels");
    // Images of any size are shown, at least one.
    for shape in [Shape::new(1, 1, 1), Shape::new(300, 500, 3), Shape::new(5, 2000, 2)] {
        let picture = batch_picture(&vec![7; 3 * shape.len()], shape, &[0, 1, 2], &classes, None);
        assert!(picture.width >= shape.width && picture.height >= shape.height);
    }
}
