//! Micro-benchmarks of the operators at the shapes of `mnist-cnn`, batch 64. Each is checked before it is timed.

use std::hint::black_box;

use cnn_cuda::cpu::Cpu;
use cnn_cuda::ops::{
    Activation, Backend, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, ConvOps, Linear,
    LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearOps, MemorySizes, Region, Span,
};
use cnn_cuda::rng::{Purpose, Stream};
use cnn_cuda::shape::{Shape, Window};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const BATCH: usize = 64;

/// The convolutions of `mnist-cnn`: input side, input and output channels.
const CONVOLUTIONS: [(usize, usize, usize); 4] = [(28, 1, 16), (26, 16, 32), (12, 32, 64), (10, 64, 128)];

/// Its larger linear layers.
const LINEARS: [(usize, usize); 2] = [(2048, 1024), (1024, 128)];

fn random(len: usize, index: u32) -> Vec<f32> {
    let mut stream = Stream::new(1, Purpose::Benchmark, index);
    (0..len).map(|_| stream.uniform(-1.0, 1.0)).collect()
}

/// A backend with an input, a weight, an output and their gradients.
struct Bench {
    cpu: Cpu,
    input: Span,
    weight: Span,
    output: Span,
    d_input: Span,
    d_weight: Span,
}

impl Bench {
    fn new(input: usize, weight: usize, output: usize) -> Self {
        let mut cpu = Cpu::new(None).expect("threads");
        let arena = 2 * input + output;
        let sizes =
            MemorySizes { arena, parameters: weight, gradients: weight, max_batch: BATCH, ..MemorySizes::default() };
        cpu.allocate(&sizes).expect("memory");
        let bench = Self {
            cpu,
            input: Span::new(Region::Arena, 0, input),
            d_input: Span::new(Region::Arena, input, input),
            output: Span::new(Region::Arena, 2 * input, output),
            weight: Span::new(Region::Parameters, 0, weight),
            d_weight: Span::new(Region::Gradients, 0, weight),
        };
        let mut bench = bench;
        for (index, span) in [bench.input, bench.weight, bench.output].into_iter().enumerate() {
            bench.cpu.write(span, &random(span.len, index as u32)).expect("write");
        }
        bench
    }

    /// `⟨x·W, d⟩ = ⟨d_W, W⟩ = ⟨d_x, x⟩` holds for any bilinear operator: all three are tied to each other, and the
    /// forward pass is tied to f64 by the tests.
    fn check(&mut self, y: &[f32], d: &[f32]) {
        let mut dot = |a: &[f32], span: Span| -> f64 {
            let b = self.cpu.read(span).expect("read");
            a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let (d_weight, d_input) =
            (dot(&random(self.weight.len, 1), self.d_weight), dot(&random(self.input.len, 0), self.d_input));
        let forward: f64 = y.iter().zip(d).map(|(&y, &d)| f64::from(y) * f64::from(d)).sum();
        let scale = (y.len() as f64).sqrt() * 10.0;
        assert!((d_weight - forward).abs() < 1e-2 * scale, "the weight gradient is wrong: {d_weight} {forward}");
        assert!((d_input - forward).abs() < 1e-2 * scale, "the input gradient is wrong: {d_input} {forward}");
    }
}

fn convolutions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conv2d");
    for (side, in_channels, out_channels) in CONVOLUTIONS {
        let window = Window { kernel: 3, stride: 1, padding: 0 };
        let op = Conv2d::new(Shape::new(side, side, in_channels), out_channels, window);
        let output = op.output().expect("it fits");
        let mut bench = Bench::new(BATCH * op.input.len(), op.weight_len(), BATCH * output.len());
        let Bench { input, weight, output: y, d_input, d_weight, .. } = bench;
        let activation = Activation::Identity;
        let forward = Conv2dForward { input, weight, bias: None, activation, output: y, pool: None };
        let backward_weight = Conv2dBackwardWeight { input, d_output: y, d_weight };
        let backward_input = Conv2dBackwardInput { d_output: y, weight, d_input, epilogue: None };
        let d = random(y.len, 2);
        bench.cpu.conv2d_forward(&op, BATCH, forward).expect("forward");
        let result = bench.cpu.read(y).expect("read");
        bench.cpu.write(y, &d).expect("write");
        bench.cpu.conv2d_backward_weight(&op, BATCH, backward_weight).expect("backward");
        bench.cpu.conv2d_backward_input(&op, BATCH, backward_input).expect("backward");
        bench.check(&result, &d);
        group.throughput(Throughput::Elements(2 * (BATCH * output.pixels() * op.weight_len()) as u64));
        let name = format!("{in_channels}-{out_channels}");
        group.bench_function(BenchmarkId::new("backward weight", &name), |b| {
            b.iter(|| bench.cpu.conv2d_backward_weight(&op, BATCH, black_box(backward_weight)));
        });
        group.bench_function(BenchmarkId::new("backward input", &name), |b| {
            b.iter(|| bench.cpu.conv2d_backward_input(&op, BATCH, black_box(backward_input)));
        });
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| bench.cpu.conv2d_forward(&op, BATCH, black_box(forward)));
        });
    }
}

fn linears(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    for (in_features, out_features) in LINEARS {
        let op = Linear { in_features, out_features };
        let mut bench = Bench::new(BATCH * in_features, op.weight_len(), BATCH * out_features);
        let Bench { input, weight, output: y, d_input, d_weight, .. } = bench;
        let forward =
            LinearForward { input, weight, bias: None, activation: Activation::Identity, output: y, signs: None };
        let backward_weight = LinearBackwardWeight { input, d_output: y, d_weight, d_bias: None };
        let backward_input = LinearBackwardInput { d_output: y, weight, d_input, epilogue: None };
        let d = random(y.len, 2);
        bench.cpu.linear_forward(&op, BATCH, forward).expect("forward");
        let result = bench.cpu.read(y).expect("read");
        bench.cpu.write(y, &d).expect("write");
        bench.cpu.linear_backward_weight(&op, BATCH, backward_weight).expect("backward");
        bench.cpu.linear_backward_input(&op, BATCH, backward_input).expect("backward");
        bench.check(&result, &d);
        group.throughput(Throughput::Elements(2 * (BATCH * op.weight_len()) as u64));
        let name = format!("{in_features}-{out_features}");
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| bench.cpu.linear_forward(&op, BATCH, black_box(forward)));
        });
        group.bench_function(BenchmarkId::new("backward weight", &name), |b| {
            b.iter(|| bench.cpu.linear_backward_weight(&op, BATCH, black_box(backward_weight)));
        });
        group.bench_function(BenchmarkId::new("backward input", &name), |b| {
            b.iter(|| bench.cpu.linear_backward_input(&op, BATCH, black_box(backward_input)));
        });
    }
}

criterion_group!(benches, convolutions, linears);
criterion_main!(benches);
