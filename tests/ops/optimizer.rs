//! SGD against PyTorch's definition, written out in f64.

use cnn_cuda::ops::{Backend, LossScale, Region, Sgd, Span};

use super::lab::{Lab, random};
use super::{FP32, compare, cpu};

/// Three steps of every flavour; shared with the other backends.
pub fn check_sgd<B: Backend>(lab: &mut Lab<B>) {
    let flavours = [
        Sgd::default(),
        Sgd { weight_decay: 0.25, ..Sgd::default() },
        Sgd { momentum: 0.875, ..Sgd::default() },
        Sgd { momentum: 0.875, nesterov: true, weight_decay: 0.125 },
    ];
    const LEN: usize = 1003;
    for op in flavours {
        let span = |region| Span::new(region, 0, LEN);
        let (weights, rate) = (random(LEN, 0), 0.25);
        lab.backend.write(span(Region::Parameters), &weights).expect("write");
        lab.backend.write(span(Region::Momentum), &[0.0; LEN]).expect("write");
        lab.backend.set_learning_rates(&[rate]).expect("rate");
        if lab.backend.loss_scale().expect("scale").is_some() {
            let scale = LossScale { scale: 1.0, good_steps: 0, skipped_steps: 0 };
            lab.backend.set_loss_scale(scale).expect("scale");
        }
        let mut w: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
        let mut buffer = vec![0.0; LEN];
        for step in 0..3 {
            let gradients = random(LEN, 1 + step);
            lab.backend.write(span(Region::Gradients), &gradients).expect("write");
            lab.backend.sgd_step(&op).expect("step");
            for ((w, b), &gradient) in w.iter_mut().zip(&mut buffer).zip(&gradients) {
                let momentum = f64::from(op.momentum);
                let g = f64::from(gradient) + f64::from(op.weight_decay) * *w;
                *b = momentum * *b + g;
                let direction = match (op.momentum == 0.0, op.nesterov) {
                    (true, _) => g,
                    (false, true) => g + momentum * *b,
                    (false, false) => *b,
                };
                *w -= f64::from(rate) * direction;
            }
        }
        compare(&format!("{op:?}"), &lab.get(span(Region::Parameters)), &w, FP32);
    }
}

#[test]
fn sgd_is_pytorchs() {
    check_sgd(&mut cpu());
}
