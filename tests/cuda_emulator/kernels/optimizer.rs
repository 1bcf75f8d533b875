//! Updates and the loss scale.

use cudarc::driver::{CudaSlice, LaunchConfig};
use half::f16;

use super::super::device::{Device, Field, blocks, launch};
use super::{in_both_orders, whole};

in_both_orders!(
    follows_pytorchs_sgd,
    follows_pytorchs_adam,
    skips_an_overflowing_step,
    grows_and_halves_the_loss_scale,
    clips_and_averages_all_but_frozen_parameters,
);

/// `blocks` blocks of the update, which has a thread for every four parameters.
fn updates(blocks: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (512, 1, 1), shared_mem_bytes: 0 }
}

/// The end, the factor of the learning rate and the weight decay of a group.
type Group = (u64, f32, f32);

/// The numbers of the kernels' `UpdateParams`, from `begin` on.
struct Numbers {
    begin: u64,
    count: u64,
    betas: [f64; 2],
    groups: Vec<Group>,
    momentum: f32,
    epsilon: f32,
    clip_norm: f32,
    decay: f32,
    rest: f32,
    frozen: u32,
    nesterov: bool,
    decoupled: bool,
    warms_up: bool,
}

impl Numbers {
    /// Of SGD on `count` parameters in one group.
    fn new(count: usize, weight_decay: f32) -> Self {
        let groups = vec![(u64::MAX, 1.0, weight_decay)];
        let (begin, count, betas, frozen, zero) = (0, count as u64, [0.0; 2], 0, 0.0);
        let (momentum, epsilon, clip_norm, decay, rest) = (zero, zero, zero, zero, zero);
        let [nesterov, decoupled, warms_up] = [false; 3];
        Self {
            begin,
            count,
            betas,
            groups,
            momentum,
            epsilon,
            clip_norm,
            decay,
            rest,
            frozen,
            nesterov,
            decoupled,
            warms_up,
        }
    }
}

impl Field for Numbers {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.begin, self.count].map(u64::to_le_bytes).concat();
        bytes.extend(self.betas.map(f64::to_le_bytes).concat());
        for at in 0..8 {
            let (end, rate_scale, weight_decay) = self.groups.get(at).copied().unwrap_or((u64::MAX, 1.0, 0.0));
            bytes.extend(end.to_le_bytes());
            bytes.extend([rate_scale, weight_decay].map(f32::to_le_bytes).concat());
        }
        let Self { momentum, epsilon, clip_norm, decay, rest, .. } = *self;
        bytes.extend([momentum, epsilon, clip_norm, decay, rest].map(f32::to_le_bytes).concat());
        let matrices = 0; // only of Muon
        let [nesterov, decoupled, warms_up] = [self.nesterov, self.decoupled, self.warms_up].map(u32::from);
        bytes.extend([self.frozen, matrices, nesterov, decoupled, warms_up].map(u32::to_le_bytes).concat());
        bytes
    }
}

/// One step of `torch.optim.SGD` with learning rate 0.1 and weight decay 0.01, as PyTorch documents it.
fn reference(weights: &mut [f32], buffer: &mut [f32], gradients: &[f32], momentum: f32, nesterov: bool) {
    for ((weight, velocity), gradient) in weights.iter_mut().zip(buffer).zip(gradients) {
        let gradient = gradient + 0.01 * *weight;
        *velocity = momentum * *velocity + gradient;
        let step = if nesterov { gradient + momentum * *velocity } else { *velocity };
        *weight -= 0.1 * step;
    }
}

fn follows_pytorchs_sgd(device: Device) {
    for (momentum, nesterov, len) in [(0.0f32, false, 5000), (0.9, false, 999), (0.9, true, 5003), (0.9, true, 3)] {
        let mut weights: Vec<f32> = whole(len, 1).iter().map(|w| w / 10.0).collect();
        let mut buffer = vec![0.0; weights.len()];
        let gradients = whole(weights.len(), 2);
        let scaled: Vec<f32> = gradients.iter().map(|g| g * 512.0).collect();
        let (on_device, velocity) = (device.upload(&weights), device.upload(&buffer));
        let (gradient, copy) = (device.upload(&scaled), device.poisoned::<f16>(weights.len()));
        let (scale, none) = (device.upload(&[512.0f32]), 0u64);
        // The position is past the last rate, which stays in effect.
        let rate = device.upload(&rates(3, &[7.0, 0.1]));
        let (good, skipped, overflow) = (device.upload(&[0u32]), device.upload(&[0u64]), device.upload(&[0i32]));
        let (block_counters, done) = (device.upload(&[0u32]), device.upload(&[7u64]));
        let numbers = Numbers { momentum, nesterov, ..Numbers::new(weights.len(), 0.01) };
        for _ in 0..3 {
            reference(&mut weights, &mut buffer, &gradients, momentum, nesterov);
            let (w, c, r, l) = (&on_device, &copy, &rate, &scale);
            let (g, s, o, a) = (&good, &skipped, &overflow, &block_counters);
            let (q, u, name) = (&none, &done, "sgd_f16");
            let v: &dyn Field = if momentum == 0.0 { q } else { &velocity };
            launch!(device, name, updates(3), &gradient, q, w, c, v, q, q, r, l, g, s, o, u, a, &numbers).unwrap();
        }
        assert_eq!(device.download(&done), [10]);
        let got = device.download(&on_device);
        for (got, wanted) in got.iter().zip(&weights) {
            // A fused multiply-add rounds once; the reference rounds twice.
            assert!((got - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()), "{got} {wanted}");
        }
        assert_eq!(device.download(&copy), got.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>());
        assert_eq!((device.download(&good)[0], device.download(&block_counters)[0]), (3, 0));
    }
}

/// The index of the next rate, the index of the last rate, and the rates, in the kernel's layout.
fn rates(next: u64, rates: &[f32]) -> Vec<u64> {
    let pairs = rates.chunks(2).map(|pair| {
        let bits = |at: usize| u64::from(pair.get(at).copied().unwrap_or_default().to_bits());
        bits(0) | bits(1) << 32
    });
    [next, rates.len() as u64 - 1].into_iter().chain(pairs).collect()
}

/// One SGD step on `weights` with the loss scale, counters and overflow flag of `state`.
fn step(device: &Device, weights: &CudaSlice<f32>, gradient: &CudaSlice<f32>, state: &State) {
    let (rate, none, block_counters) = (device.upload(&rates(0, &[0.1])), 0u64, device.upload(&[0u32]));
    let (numbers, done) = (Numbers::new(weights.len(), 0.0), device.upload(&[0u64]));
    let State { scale, good, skipped, overflow } = state;
    let (w, r, n, a, u) = (weights, &rate, &none, &block_counters, &done);
    let (s, g, k, o) = (scale, good, skipped, overflow);
    launch!(device, "check_overflow_f32", blocks(2), gradient, overflow, &0u64, &(weights.len() as u64)).unwrap();
    let skips = device.download(overflow) == [1];
    let name = "sgd_f32";
    launch!(device, name, updates(2), gradient, n, w, n, n, n, n, r, s, g, k, o, u, a, &numbers).unwrap();
    assert_eq!(device.download(&done), [u64::from(!skips)]);
}

struct State {
    scale: CudaSlice<f32>,
    good: CudaSlice<u32>,
    skipped: CudaSlice<u64>,
    overflow: CudaSlice<i32>,
}

fn state(device: &Device, scale: f32, good: u32) -> State {
    let (scale, good) = (device.upload(&[scale]), device.upload(&[good]));
    State { scale, good, skipped: device.upload(&[0u64]), overflow: device.upload(&[0i32]) }
}

fn skips_an_overflowing_step(device: Device) {
    for (bad, at) in [(f32::INFINITY, 613), (f32::NEG_INFINITY, 0), (f32::NAN, 702)] {
        let mut gradients = whole(703, 3);
        gradients[at] = bad;
        let (gradient, weights) = (device.upload(&gradients), device.upload(&[1.0f32; 703]));
        let flag = device.upload(&[0i32]);
        launch!(device, "check_overflow_f32", blocks(2), &gradient, &flag, &0u64, &703u64).unwrap();
        assert_eq!(device.download(&flag), [1]);
        let state = state(&device, 8.0, 5);
        step(&device, &weights, &gradient, &state);
        assert_eq!(device.download(&weights), [1.0; 703]);
        assert_eq!((device.download(&state.scale)[0], device.download(&state.overflow)[0]), (4.0, 0));
        // The norm is computed with the same check.
        let (flag, norm, none) = (device.upload(&[0i32]), device.poisoned::<f32>(1), 0u64);
        let (partial, block_counters) = (device.poisoned::<f32>(2), device.upload(&[0u32]));
        let (f, p, n, a) = (&flag, &partial, &norm, &block_counters);
        launch!(device, "gradient_norm_f32", blocks(2), &gradient, &none, p, n, f, a, &0u64, &703u64).unwrap();
        assert_eq!((device.download(f)[0], device.download(n)[0].is_finite()), (1, false));
        // These gradients are finite, although their sum is not.
        let finite = device.upload(&[f32::MAX; 703]);
        let flag = device.upload(&[0i32]);
        launch!(device, "check_overflow_f32", blocks(2), &finite, &flag, &0u64, &703u64).unwrap();
        launch!(device, "gradient_norm_f32", blocks(2), &finite, &none, p, n, &flag, a, &0u64, &703u64).unwrap();
        assert_eq!(device.download(&flag), [0]);
    }
}

fn grows_and_halves_the_loss_scale(device: Device) {
    let weights = device.upload(&[0.0f32; 700]);
    let (fine, bad) = (device.upload(&[0.0f32; 700]), device.upload(&[f32::NAN; 700]));
    let state_at_3 = state(&device, 3.0, 1998);
    let mut seen = Vec::new();
    for overflow in [false, false, true, true, true] {
        step(&device, &weights, if overflow { &bad } else { &fine }, &state_at_3);
        let State { scale, good, skipped, overflow } = &state_at_3;
        assert_eq!(device.download(overflow), [0]);
        seen.push((device.download(scale)[0], device.download(good)[0], device.download(skipped)[0]));
    }
    assert_eq!(seen, [(3.0, 1999, 0), (6.0, 0, 0), (3.0, 0, 1), (1.5, 0, 2), (1.0, 0, 3)]);
    let largest = state(&device, 65536.0 * 256.0, 1999);
    step(&device, &weights, &fine, &largest);
    assert_eq!(device.download(&largest.scale), [65536.0 * 256.0]);
}

/// The frozen prefix ends between vectors, within a vector, or in the incomplete last vector.
fn clips_and_averages_all_but_frozen_parameters(device: Device) {
    for (len, frozen) in [(1003usize, 0usize), (1003, 150), (1000, 8), (7, 5), (7, 6), (3, 1)] {
        let (gradients, start) = (whole(len, 2), whole(len, 1));
        let scaled: Vec<f32> = gradients.iter().map(|g| g * 16.0).collect();
        let (weights, average) = (device.upload(&start), device.upload(&vec![2.0f32; len]));
        let (gradient, scale, rate) =
            (device.upload(&scaled), device.upload(&[16.0f32]), device.upload(&rates(0, &[0.5])));
        let (partial, norm) = (device.poisoned::<f32>(3), device.poisoned::<f32>(1));
        let (block_counters, none, count) = (device.upload(&[0u32]), 0u64, len as u64);
        let (g, s, p, n, a) = (&gradient, &scale, &partial, &norm, &block_counters);
        let flag = device.upload(&[0i32]);
        launch!(device, "gradient_norm_f32", blocks(3), g, s, p, n, &flag, a, &(frozen as u64), &count).unwrap();
        assert_eq!(device.download(&flag), [0]);
        let expected = gradients[frozen..].iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let got = device.download(&norm)[0];
        assert!((f64::from(got) - expected).abs() <= 1e-6 * expected, "{got} instead of {expected}");
        let (good, skipped, overflow) = (device.upload(&[0u32]), device.upload(&[0u64]), device.upload(&[0i32]));
        let (w, v, r, k, o, q) = (&weights, &average, &rate, &skipped, &overflow, &none);
        let (l, u) = (&good, device.upload(&[0u64]));
        let numbers = Numbers {
            begin: frozen as u64,
            groups: vec![(frozen as u64, 1.0, 0.0), (u64::MAX, 1.0, 0.0)],
            frozen: 1,
            clip_norm: 2.0,
            decay: 0.75,
            rest: 0.25,
            ..Numbers::new(len, 0.0)
        };
        let name = "sgd_f32";
        launch!(device, name, updates(2), g, n, w, q, q, q, v, r, s, l, k, o, &u, a, &numbers).unwrap();
        let (moved, averaged) = (device.download(&weights), device.download(&average));
        let factor = (2.0 / (got + 1e-6)).min(1.0);
        for i in 0..len {
            let weight = if i < frozen { start[i] } else { start[i] - 0.5 * factor * gradients[i] };
            let mean = if i < frozen { 2.0 } else { 1.5 + 0.25 * weight };
            assert!((moved[i] - weight).abs() < 1e-5 && (averaged[i] - mean).abs() < 1e-5, "{i} of {len}, {frozen}");
        }
        assert_eq!(device.download(&block_counters), [0]);
        let copy = device.poisoned::<f16>(len);
        launch!(device, "swap_average_f16", blocks(2), &weights, &copy, &average, &count).unwrap();
        assert_eq!((device.download(&weights), device.download(&average)), (averaged.clone(), moved));
        assert_eq!(device.download(&copy), averaged.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>());
    }
}

/// Steps of `torch.optim.Adam` and `AdamW` on gradients with a loss scale, in three groups of which one is frozen.
fn follows_pytorchs_adam(device: Device) {
    for (len, decoupled) in [(1003usize, false), (1003, true), (5, true), (2, false)] {
        let groups: Vec<Group> = vec![(2, 0.5, 0.0), (4, 1.0, 0.0), (u64::MAX, 1.0, 0.125)];
        let mut expected: Vec<f64> = whole(len, 1).iter().map(|&w| f64::from(w) / 8.0).collect();
        let gradients = whole(len, 2);
        let start: Vec<f32> = expected.iter().map(|&w| w as f32).collect();
        let scaled: Vec<f32> = gradients.iter().map(|g| g * 512.0).collect();
        let (weights, gradient) = (device.upload(&start), device.upload(&scaled));
        let [first, second] = [0, 1].map(|_| device.upload(&vec![0.0f32; len]));
        let (scale, none, rate) = (device.upload(&[512.0f32]), 0u64, device.upload(&rates(0, &[0.0625])));
        let (good, skipped, overflow) = (device.upload(&[0u32]), device.upload(&[0u64]), device.upload(&[0i32]));
        let (done, block_counters) = (device.upload(&[0u64]), device.upload(&[0u32]));
        let numbers = Numbers {
            betas: [0.75, 0.875],
            groups,
            epsilon: 0.0625,
            frozen: 0b010,
            decoupled,
            ..Numbers::new(len, 0.0)
        };
        let mut moments = vec![[0.0f64; 2]; len];
        for step in 1..=3 {
            let (w, m, v, q, r, l) = (&weights, &first, &second, &none, &rate, &scale);
            let (g, s, o, u, a) = (&good, &skipped, &overflow, &done, &block_counters);
            launch!(device, "adam_f32", updates(2), &gradient, q, w, q, m, v, q, r, l, g, s, o, u, a, &numbers)
                .unwrap();
            for (at, (weight, [m, v])) in expected.iter_mut().zip(&mut moments).enumerate() {
                let (rate, decay) = if at < 2 { (0.03125, 0.0) } else { (0.0625, 0.125) };
                if (2..4).contains(&at) {
                    continue;
                }
                let g = f64::from(gradients[at]) + if decoupled { 0.0 } else { decay * *weight };
                *m = 0.75 * *m + 0.25 * g;
                *v = 0.875 * *v + 0.125 * g * g;
                *weight *= if decoupled { 1.0 - rate * decay } else { 1.0 };
                let root = v.sqrt() / (1.0 - 0.875f64.powi(step)).sqrt();
                *weight -= rate / (1.0 - 0.75f64.powi(step)) * *m / (root + 0.0625);
            }
        }
        for (at, (&got, &wanted)) in device.download(&weights).iter().zip(&expected).enumerate() {
            // A few roundings of f32 in each step.
            assert!((f64::from(got) - wanted).abs() <= 2e-6 * (1.0 + wanted.abs()), "{at} of {len}: {got} {wanted}");
        }
        assert_eq!((device.download(&done), device.download(&block_counters)), (vec![3], vec![0]));
    }
}
