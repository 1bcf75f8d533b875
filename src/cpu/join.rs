//! Joins on the CPU: sums, strided copies and shortcuts.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK, Real, RunAs};
use crate::ops::{Add, CopyBuffer, CopyChannels, Layer, Subsample, SubsampleBackward, SubsampleForward};

impl RunAs for Add {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { a, b, output } = self;
        if a == output {
            let [term, sum] = cpu.memory.values::<R, _>([b, output])?;
            sum.par_chunks_mut(ELEMENTWISE_CHUNK).zip(term.par_chunks(ELEMENTWISE_CHUNK)).for_each(|(sum, term)| {
                sum.iter_mut().zip(term).for_each(|(sum, term)| *sum = R::new(sum.get() + term.get()));
            });
            return Ok(());
        }
        if a == b {
            let [a, y] = cpu.memory.values::<R, _>([a, output])?;
            y.par_iter_mut().with_min_len(ELEMENTWISE_CHUNK).zip(&*a).for_each(|(y, a)| *y = R::new(a.get() + a.get()));
            return Ok(());
        }
        let [a, b, y] = cpu.memory.values::<R, _>([a, b, output])?;
        let terms = a.par_chunks(ELEMENTWISE_CHUNK).zip(b.par_chunks(ELEMENTWISE_CHUNK));
        y.par_chunks_mut(ELEMENTWISE_CHUNK).zip(terms).for_each(|(y, (a, b))| {
            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = R::new(a.get() + b.get()));
        });
        Ok(())
    }
}

impl RunAs for CopyBuffer {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let [source, target] = cpu.memory.values::<R, _>([self.input, self.output])?;
        target.copy_from_slice(source);
        Ok(())
    }
}

impl RunAs for CopyChannels {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, [source, target]) = (&self.op, cpu.memory.values::<R, _>([self.input, self.output])?);
        let sources = source.par_chunks_exact(op.source_channels).with_min_len(1024);
        target.par_chunks_exact_mut(op.target_channels).with_min_len(1024).zip(sources).for_each(|(target, source)| {
            target[op.target_offset..][..op.channels].copy_from_slice(&source[op.source_offset..][..op.channels]);
        });
        Ok(())
    }
}

impl RunAs for SubsampleForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, shape, first) = (&self.op, self.op.output()?, self.op.first_channel());
        let [x, y] = cpu.memory.values::<R, _>([self.input, self.output])?;
        y.par_chunks_mut(shape.len()).zip(x.par_chunks(op.input.len())).for_each(|(y, x)| {
            y.fill(R::ZERO);
            for_sampled_pixels(op, |at, out| {
                let pixel = &mut y[out * shape.channels + first..][..op.input.channels];
                pixel.copy_from_slice(&x[at * op.input.channels..][..op.input.channels]);
            });
        });
        Ok(())
    }
}

impl RunAs for SubsampleBackward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, shape, first) = (&self.op, self.op.output()?, self.op.first_channel());
        let [d_y, d_x] = cpu.memory.values::<R, _>([self.d_output, self.d_input])?;
        d_x.par_chunks_mut(op.input.len()).zip(d_y.par_chunks(shape.len())).for_each(|(d_x, d_y)| {
            d_x.fill(R::ZERO);
            for_sampled_pixels(op, |at, out| {
                let pixel = &mut d_x[at * op.input.channels..][..op.input.channels];
                pixel.copy_from_slice(&d_y[out * shape.channels + first..][..op.input.channels]);
            });
        });
        Ok(())
    }
}

/// Calls `pair(input pixel, output pixel)` for every sampled pixel.
fn for_sampled_pixels(op: &Subsample, mut pair: impl FnMut(usize, usize)) {
    let rows = (0..op.input.height).step_by(op.stride);
    let at = rows.flat_map(|y| (0..op.input.width).step_by(op.stride).map(move |x| y * op.input.width + x));
    at.enumerate().for_each(|(out, at)| pair(at, out));
}
