//! What a report says of an evaluation: counts, the worst mistakes and their pictures.

use cnn_cuda::cpu::Cpu;
use cnn_cuda::data::{Split, digits};
use cnn_cuda::models::find;
use cnn_cuda::ops::{Normalise, TestViews};
use cnn_cuda::report::evaluate_for_report;
use cnn_cuda::report::picture::Picture;
use cnn_cuda::train::Evaluator;

#[test]
fn the_worst_mistakes_are_those_with_the_highest_loss() {
    let set = digits::generate();
    let (shape, classes) = (set.shape, set.classes.clone());
    let model = find("lenet5").unwrap();
    let network = (model.build)(shape, classes.len()).unwrap();
    let weights = network.initial_weights(5);
    let count = 300;
    let images = set.test.images[..count * shape.len()].to_vec();
    let labels = set.test.labels[..count].to_vec();
    let test = Split { images: images.clone(), labels: labels.clone(), ..Split::default() };
    let normalise = Normalise { shape, mean: set.mean, std: set.std };
    let views = TestViews::None;
    let backend = Cpu::new(Some(2)).unwrap();
    let mut evaluator = Evaluator::new(backend, &network, &weights, test, &normalise, 64, views).unwrap();
    // The same by definition, in f64.
    let (mut wrong, mut in_top) = (Vec::new(), 0);
    evaluator
        .run(|index, logits| {
            let truth = labels[index] as usize;
            let exps: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
            let loss = (exps.iter().sum::<f64>() / exps[truth]).ln();
            let predicted = (0..10).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            in_top += usize::from(exps.iter().filter(|&&exp| exp > exps[truth]).count() < 5);
            if predicted != truth {
                wrong.push((loss, index, truth, predicted, exps[predicted] / exps.iter().sum::<f64>()));
            }
        })
        .unwrap();
    wrong.sort_by(|a, b| b.0.total_cmp(&a.0));
    let evaluation = evaluate_for_report(&mut evaluator, &labels, &classes, &normalise).unwrap();
    assert_eq!(evaluation.metrics.samples, count as u64);
    assert_eq!(evaluation.confusion.accuracy(), Some(evaluation.metrics.accuracy()));
    assert_eq!(count - wrong.len(), evaluation.metrics.correct as usize);
    assert_eq!(evaluation.top5_accuracy, Some(in_top as f64 / count as f64));
    assert_eq!(evaluation.worst.len(), 25);
    assert!(wrong.len() > 100, "{}", wrong.len());
    for (mistake, &(loss, index, truth, predicted, probability)) in evaluation.worst.iter().zip(&wrong) {
        assert_eq!((mistake.index, mistake.truth, mistake.predicted), (index, truth, predicted));
        assert!((mistake.loss - loss).abs() < 1e-9 * loss.max(1.0), "{} and {loss}", mistake.loss);
        assert!((mistake.probability - probability).abs() < 1e-9 && mistake.true_probability <= mistake.probability);
        let image = &images[index * shape.len()..][..shape.len()];
        assert_eq!(mistake.picture, Picture::from_pixels(image, shape), "image {index}");
    }
}
