//! Micro-benchmarks of the operators with the shapes of `mnist-cnn` at batch size 64. Results are checked before timing.

use cnn_cuda::cpu::{Cpu, Program};
use cnn_cuda::ops::{
    Activation, Backend, Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Conv2dForward, Linear, LinearBackwardInput,
    LinearBackwardWeight, LinearForward, MemorySizes, Op, Region, Span, Step,
};
use cnn_cuda::rng::{Philox, Purpose};
use cnn_cuda::shape::{Shape, Window};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const BATCH: usize = 64;

/// The convolutions of `mnist-cnn`: input side, input and output channels.
const CONVOLUTIONS: [(usize, usize, usize); 4] = [(28, 1, 16), (26, 16, 32), (12, 32, 64), (10, 64, 128)];

/// The larger linear layers of `mnist-cnn`: input and output features.
const LINEARS: [(usize, usize); 2] = [(2048, 1024), (1024, 128)];

fn random(len: usize, index: u32) -> Vec<f32> {
    let mut stream = Philox::new(1, Purpose::Benchmark, index);
    (0..len).map(|_| stream.uniform(-1.0, 1.0)).collect()
}

/// A backend and the buffers of one operator. `output` holds the output, then the gradient with respect to it.
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

    fn program(&mut self, op: impl Into<Op>) -> Program {
        self.cpu.compile(vec![Step { label: "bench".into(), op: op.into() }]).expect("a program")
    }

    /// Checks the forward pass and both backward passes, then times each of them.
    fn time(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &str,
        [forward, backward_weight, backward_input]: [Op; 3],
    ) {
        let d = random(self.output.len, 2);
        let mut forward = self.program(forward);
        let mut backward = [backward_weight, backward_input].map(|op| self.program(op));
        self.cpu.run(&mut forward).expect("forward");
        let result = self.cpu.read(self.output).expect("read");
        self.cpu.write(self.output, &d).expect("write");
        backward.iter_mut().for_each(|program| self.cpu.run(program).expect("backward"));
        self.check(&result, &d);
        let [backward_weight, backward_input] = &mut backward;
        // The forward pass is last, because it overwrites the gradient that the backward passes read.
        let all = [("backward weight", backward_weight), ("backward input", backward_input), ("forward", &mut forward)];
        for (direction, program) in all {
            group.bench_function(BenchmarkId::new(direction, name), |b| b.iter(|| self.cpu.run(program)));
        }
    }

    /// Checks `⟨x·W, d⟩ = ⟨d_W, W⟩ = ⟨d_x, x⟩`, which holds for any bilinear operator. The tests compare the forward pass
    /// with f64, so this validates both gradients.
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
        group.throughput(Throughput::Elements(2 * (BATCH * output.pixels() * op.weight_len()) as u64));
        let ops = [
            Conv2dForward {
                op,
                activation,
                input,
                weight,
                bias: None,
                residual: None,
                output: y,
                pool: None,
                statistics: None,
            }
            .into(),
            Conv2dBackwardWeight { op, input, d_output: y, d_weight }.into(),
            Conv2dBackwardInput { op, d_output: y, weight, d_input, added: None, epilogue: None, norm: None }.into(),
        ];
        bench.time(&mut group, &format!("{in_channels}-{out_channels}"), ops);
    }
}

fn linears(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    for (in_features, out_features) in LINEARS {
        let op = Linear { in_features, out_features };
        let mut bench = Bench::new(BATCH * in_features, op.weight_len(), BATCH * out_features);
        let Bench { input, weight, output: y, d_input, d_weight, .. } = bench;
        let activation = Activation::Identity;
        group.throughput(Throughput::Elements(2 * (BATCH * op.weight_len()) as u64));
        let ops = [
            LinearForward { op, activation, input, weight, bias: None, output: y, relu_mask: None }.into(),
            LinearBackwardWeight { op, input, d_output: y, d_weight, d_bias: None }.into(),
            LinearBackwardInput { op, d_output: y, weight, d_input, epilogue: None }.into(),
        ];
        bench.time(&mut group, &format!("{in_features}-{out_features}"), ops);
    }
}

criterion_group!(benches, convolutions, linears);
criterion_main!(benches);
