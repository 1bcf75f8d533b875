//! PyTorch's CPU random generator and default initialisation, bit for bit, so that tests need no weight files.
//!
//! The generator is MT19937 (Matsumoto and Nishimura, 1998); the rest follows `at::uniform_real_distribution`,
//! `torch.nn.init.kaiming_uniform_` and the `reset_parameters` of `nn.Conv2d` and `nn.Linear`.

use serde_json::Value;
use sha2::{Digest, Sha256};

const STATE_SIZE: usize = 624;
const SHIFT_SIZE: usize = 397;

/// The generator that `torch.manual_seed` seeds and that fills tensors on the CPU.
pub struct TorchGenerator {
    state: [u32; STATE_SIZE],
    used: usize,
}

impl TorchGenerator {
    /// `torch.manual_seed(seed)`, which keeps only the seed's low 32 bits.
    pub fn manual_seed(seed: u64) -> Self {
        let mut state = [seed as u32; STATE_SIZE];
        for i in 1..STATE_SIZE {
            let previous = state[i - 1];
            state[i] = (previous ^ (previous >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, used: STATE_SIZE }
    }

    /// `torch.empty(count).uniform_(low, high)` in float32: one draw per element, in order, for any count.
    ///
    /// PyTorch's vectorised CPU code fuses the multiplication with the addition (one rounding). Its fallback for CPUs
    /// without AVX2 does not, so its last bits differ.
    pub fn uniform(&mut self, low: f64, high: f64, count: usize) -> Vec<f32> {
        let (low, high) = (low as f32, high as f32);
        let unit = || (self.next_u32() & 0x00FF_FFFF) as f32 * (1.0 / (1 << 24) as f32);
        std::iter::repeat_with(unit).take(count).map(|unit| unit.mul_add(high - low, low)).collect()
    }

    fn next_u32(&mut self) -> u32 {
        if self.used == STATE_SIZE {
            self.advance();
        }
        let mut word = self.state[self.used];
        self.used += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C_5680;
        word ^= (word << 15) & 0xEFC6_0000;
        word ^ (word >> 18)
    }

    fn advance(&mut self) {
        for i in 0..STATE_SIZE {
            let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE_SIZE] & 0x7FFF_FFFF);
            let twist = (mixed >> 1) ^ ((mixed & 1) * 0x9908_B0DF);
            self.state[i] = self.state[(i + SHIFT_SIZE) % STATE_SIZE] ^ twist;
        }
        self.used = 0;
    }
}

/// Weight and bias of a new `nn.Conv2d` (`fan_in` is `in_channels * kernel * kernel`) or `nn.Linear`
/// (`in_features`), in PyTorch's layout. Initialise a model's layers in the order in which PyTorch creates them.
pub fn default_init(
    generator: &mut TorchGenerator,
    fan_in: usize,
    weight_count: usize,
    bias_count: usize,
) -> (Vec<f32>, Vec<f32>) {
    // Both bounds are 1/√fan_in, but PyTorch computes the weight's bound from a gain, which rounds differently.
    let negative_slope = 5.0_f64.sqrt();
    let gain = (2.0 / (1.0 + negative_slope * negative_slope)).sqrt();
    let weight_bound = 3.0_f64.sqrt() * (gain / (fan_in as f64).sqrt());
    let bias_bound = 1.0 / (fan_in as f64).sqrt();
    let weight = generator.uniform(-weight_bound, weight_bound, weight_count);
    (weight, generator.uniform(-bias_bound, bias_bound, bias_count))
}

/// The C++ standard specifies the 10,000th number that `std::mt19937` returns with the default seed.
#[test]
fn generator_is_mt19937() {
    let mut generator = TorchGenerator::manual_seed(5489);
    let last = (0..10_000).map(|_| generator.next_u32()).last();
    assert_eq!(last, Some(4_123_659_995));
}

/// Checks every bit of the initial weights of `mnist-cnn`.
#[test]
fn default_init_matches_pytorch() {
    let reference: Value = serde_json::from_str(include_str!("../reference/trajectory_mnist.json")).unwrap();
    let mut generator = TorchGenerator::manual_seed(reference["seed"].as_u64().unwrap());
    let initial = reference["initial_weights"].as_object().unwrap();
    // The model's order; the map's order is alphabetical.
    for layer in ["layer1.0", "layer2.0", "layer3.0", "layer4.0", "fc.0", "fc.2", "fc.4"] {
        let (weight_name, bias_name) = (format!("{layer}.weight"), format!("{layer}.bias"));
        let shape = |name: &str| -> Vec<usize> { serde_json::from_value(initial[name]["shape"].clone()).unwrap() };
        let weight_shape = shape(&weight_name);
        let fan_in = weight_shape[1..].iter().product();
        let (weight, bias) =
            default_init(&mut generator, fan_in, weight_shape.iter().product(), shape(&bias_name).iter().product());
        assert_checksum(&weight_name, &weight, &initial[&weight_name]);
        assert_checksum(&bias_name, &bias, &initial[&bias_name]);
    }
}

fn assert_checksum(name: &str, values: &[f32], expected: &Value) {
    // Read as float32, because serde_json's float64 may be one unit off in the last place.
    let first: Vec<f32> = serde_json::from_value(expected["first"].clone()).unwrap();
    assert_eq!(values[..first.len()], first, "the first values of {name}");
    // The two sums add in different orders, which makes little difference to float32 values summed in float64.
    let sum: f64 = values.iter().copied().map(f64::from).sum();
    let expected_sum = expected["sum"].as_f64().unwrap();
    assert!((sum - expected_sum).abs() < 1e-9, "the sum of {name} is {sum}, not {expected_sum}");
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(Some(sha256.as_str()), expected["sha256"].as_str(), "the bits of {name}");
}
