//! `--class-weights balanced`.

use cnn_cuda::settings::ClassWeights;

#[test]
fn balanced_weights_are_those_of_scikit_learn() {
    let classes = ["cat", "dog", "eel"].map(String::from);
    // compute_class_weight("balanced", classes=[0, 1, 2], y=[0, 2, 0, 1, 0, 2])
    let weights = ClassWeights::Balanced.resolve(&classes, &[0, 2, 0, 1, 0, 2]).expect("weights");
    assert_eq!(weights, [6.0 / 9.0, 2.0, 1.0]);
    let error = ClassWeights::Balanced.resolve(&classes, &[0, 2, 0, 0]).expect_err("a class without images");
    assert!(format!("{error:#}").contains("the class \"dog\" has no training images"), "{error:#}");
}
