//! Local response normalisation with even and odd windows, and windows wider than all channels.

use super::case::{Case, lrn};
use super::lab::random;
use super::{check_op, cpu};

/// Shapes that every backend is checked on. α is large enough that the normalisation matters.
pub fn cases() -> Vec<Case> {
    vec![
        lrn([6, 9], 5, [0.3, 0.75, 2.0]),
        lrn([5, 8], 4, [0.5, 0.75, 1.0]),
        lrn([4, 3], 5, [1.0, 0.5, 1.0]),
        lrn([3, 1], 3, [0.7, 1.2, 0.5]),
        lrn([2, 5], 1, [0.9, 0.75, 1.0]),
        lrn([2, 4], 11, [0.9, 0.6, 1.5]),
    ]
}

#[test]
fn lrn_forward_and_backward() {
    cases().into_iter().for_each(check_op);
}

#[test]
fn a_large_input_is_split_correctly() {
    let (factors, channels) = ([0.3, 0.75, 2.0], 48);
    let whole = lrn([900, channels], 5, factors);
    let (inputs, d_output) = (whole.random_inputs(), random(900 * channels, 7));
    let expected = whole.run(&mut cpu(), &inputs, &d_output);
    for part in 0..9 {
        let range = part * 100 * channels..(part + 1) * 100 * channels;
        let got = lrn([100, channels], 5, factors).run(
            &mut cpu(),
            &[inputs[0][range.clone()].to_vec()],
            &d_output[range.clone()],
        );
        assert_eq!(got.output, expected.output[range.clone()]);
        assert_eq!(got.gradients[0], expected.gradients[0][range]);
    }
}
