//! Pooling on the CPU, one sample at a time, channels innermost.

use anyhow::Result;
use rayon::prelude::*;

use super::runtime::scratch;
use super::{Cpu, Loop, Real, RunAs};
use crate::ops::{
    AdaptiveAvgPool2d, AdaptiveAvgPool2dBackward, AdaptiveAvgPool2dForward, AvgPool2dBackward, AvgPool2dForward,
    BiasActivationBackward, Layer, MaxPool2d, MaxPool2dBackward, MaxPool2dForward, RunOn,
};
use crate::shape::{Shape, Window, adaptive_window};

impl RunAs for MaxPool2dForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, shape, set) = (&self.op, self.op.output()?, cpu.instructions);
        let views = cpu.memory.views::<R, 2, 0>([self.input, self.output], [], self.argmax)?;
        let ([x, y], argmax) = (views.values, self.argmax.map(|_| views.indices));
        let samples = x.par_chunks(op.input.len()).zip(y.par_chunks_mut(shape.len()));
        match argmax {
            Some(argmax) => samples
                .zip(argmax.par_chunks_mut(shape.len()))
                .for_each(|((x, y), argmax)| set.run(MaxPool { op, shape, x, y, argmax })),
            None => samples.for_each(|(x, y)| set.run(MaxPool { op, shape, x, y, argmax: &mut [] })),
        }
        Ok(())
    }
}

impl RunAs for MaxPool2dBackward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { op, d_output, argmax, d_input, epilogue } = self;
        let (shape, channels, set) = (op.output()?, op.input.channels, cpu.instructions);
        if let Some(epilogue) = epilogue {
            // Before the gradients are scattered, because the pooled output is smaller.
            BiasActivationBackward::of_epilogue(channels, d_output, epilogue).run_on(cpu)?;
        }
        let views = cpu.memory.views::<R, 2, 0>([d_output, d_input], [], Some(argmax))?;
        let ([d_y, d_x], argmax) = (views.values, views.indices);
        let samples = d_y.par_chunks(shape.len()).zip(argmax.par_chunks(shape.len()));
        d_x.par_chunks_mut(op.input.len()).zip(samples).for_each(|(d_x, (d_y, argmax))| {
            scratch::with_output(set, d_x, |d_x| {
                d_x.fill(0.0);
                for (d_y, argmax) in d_y.chunks_exact(channels).zip(argmax.chunks_exact(channels)) {
                    for (channel, (d_y, &winner)) in d_y.iter().zip(argmax).enumerate() {
                        d_x[winner as usize * channels + channel] += d_y.get();
                    }
                }
            });
        });
        Ok(())
    }
}

impl RunAs for AvgPool2dForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, shape, channels) = (&self.op, self.op.output()?, self.op.input.channels);
        let set = cpu.instructions;
        let [x, y] = cpu.memory.values::<R, _>([self.input, self.output])?;
        x.par_chunks(op.input.len()).zip(y.par_chunks_mut(shape.len())).for_each(|(x, y)| {
            scratch::with_output(set, y, |y| {
                for (pixel, y) in y.chunks_exact_mut(channels).enumerate() {
                    y.fill(0.0);
                    for_each_pixel(op.input, op.window, shape, pixel, |at| {
                        y.iter_mut().zip(&x[at * channels..]).for_each(|(y, x)| *y += x.get());
                    });
                    let area = op.divisor(pixel / shape.width, pixel % shape.width);
                    y.iter_mut().for_each(|y| *y /= area);
                }
            });
        });
        Ok(())
    }
}

impl RunAs for AvgPool2dBackward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, shape, channels) = (&self.op, self.op.output()?, self.op.input.channels);
        let set = cpu.instructions;
        let [d_y, d_x] = cpu.memory.values::<R, _>([self.d_output, self.d_input])?;
        d_y.par_chunks(shape.len()).zip(d_x.par_chunks_mut(op.input.len())).for_each(|(d_y, d_x)| {
            scratch::with_output(set, d_x, |d_x| {
                d_x.fill(0.0);
                for (pixel, d_y) in d_y.chunks_exact(channels).enumerate() {
                    let area = op.divisor(pixel / shape.width, pixel % shape.width);
                    for_each_pixel(op.input, op.window, shape, pixel, |at| {
                        d_x[at * channels..].iter_mut().zip(d_y).for_each(|(d_x, d_y)| *d_x += d_y.get() / area);
                    });
                }
            });
        });
        Ok(())
    }
}

impl RunAs for AdaptiveAvgPool2dForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, shape, channels) = (&self.op, self.op.output()?, self.op.input.channels);
        let set = cpu.instructions;
        let [x, y] = cpu.memory.values::<R, _>([self.input, self.output])?;
        x.par_chunks(op.input.len()).zip(y.par_chunks_mut(shape.len())).for_each(|(x, y)| {
            scratch::with_output(set, y, |y| {
                for (pixel, y) in y.chunks_exact_mut(channels).enumerate() {
                    y.fill(0.0);
                    let area = for_each_adaptive(op, pixel, |at| {
                        y.iter_mut().zip(&x[at * channels..]).for_each(|(y, x)| *y += x.get());
                    });
                    y.iter_mut().for_each(|y| *y /= area);
                }
            });
        });
        Ok(())
    }
}

impl RunAs for AdaptiveAvgPool2dBackward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, shape, channels) = (&self.op, self.op.output()?, self.op.input.channels);
        let set = cpu.instructions;
        let [d_y, d_x] = cpu.memory.values::<R, _>([self.d_output, self.d_input])?;
        d_y.par_chunks(shape.len()).zip(d_x.par_chunks_mut(op.input.len())).for_each(|(d_y, d_x)| {
            scratch::with_output(set, d_x, |d_x| {
                d_x.fill(0.0);
                for (pixel, d_y) in d_y.chunks_exact(channels).enumerate() {
                    let area = for_each_adaptive(op, pixel, |_| {});
                    for_each_adaptive(op, pixel, |at| {
                        d_x[at * channels..].iter_mut().zip(d_y).for_each(|(d_x, d_y)| *d_x += d_y.get() / area);
                    });
                }
            });
        });
        Ok(())
    }
}

/// Like [`for_each_pixel`], for adaptive pooling; returns the number of pixels.
#[inline(always)]
fn for_each_adaptive(op: &AdaptiveAvgPool2d, pixel: usize, mut visit: impl FnMut(usize)) -> f32 {
    let rows = adaptive_window(pixel / op.width, op.input.height, op.height);
    let cols = adaptive_window(pixel % op.width, op.input.width, op.width);
    for y in rows.clone() {
        for x in cols.clone() {
            visit(y * op.input.width + x);
        }
    }
    (rows.len() * cols.len()) as f32
}

/// Max pooling of one sample; `argmax` may be empty.
struct MaxPool<'a, R> {
    op: &'a MaxPool2d,
    shape: Shape,
    x: &'a [R],
    y: &'a mut [R],
    argmax: &'a mut [u32],
}

impl<R: Real> Loop for MaxPool<'_, R> {
    #[inline(always)]
    fn run(self) {
        let Self { op, shape, x, y, argmax } = self;
        let channels = op.input.channels;
        for (pixel, y) in y.chunks_exact_mut(channels).enumerate() {
            let argmax = argmax.get_mut(pixel * channels..(pixel + 1) * channels);
            let mut unused = [];
            let argmax = argmax.unwrap_or(&mut unused);
            let mut first = true;
            for_each_pixel(op.input, op.window, shape, pixel, |at| {
                let x = &x[at * channels..][..channels];
                if std::mem::take(&mut first) {
                    y.copy_from_slice(x);
                    argmax.fill(at as u32);
                    return;
                }
                // Strictly greater keeps the first of equal maxima; NaN is propagated.
                for ((x, y), argmax) in x.iter().zip(&*y).zip(&mut *argmax) {
                    *argmax = if x.get() > y.get() || x.get().is_nan() { at as u32 } else { *argmax };
                }
                for (x, y) in x.iter().zip(&mut *y) {
                    *y = if x.get() > y.get() || x.get().is_nan() { *x } else { *y };
                }
            });
        }
    }
}

/// Calls `visit(y · width + x)` in scan order for each input pixel in the window of output pixel `pixel`.
#[inline(always)]
fn for_each_pixel(input: Shape, window: Window, output: Shape, pixel: usize, mut visit: impl FnMut(usize)) {
    let (oy, ox) = (pixel / output.width, pixel % output.width);
    let range = |o: usize, size: usize| {
        let begin = o * window.stride;
        begin.saturating_sub(window.padding)..(begin + window.kernel).saturating_sub(window.padding).min(size)
    };
    for y in range(oy, input.height) {
        for x in range(ox, input.width) {
            visit(y * input.width + x);
        }
    }
}
