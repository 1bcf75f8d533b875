//! Joins on the CPU: sums and strided copies.

use anyhow::Result;
use rayon::prelude::*;

use super::{Cpu, ELEMENTWISE_CHUNK};
use crate::ops::{ChannelCopy, JoinOps, Span, Subsample};

impl JoinOps for Cpu {
    fn add_forward(&mut self, len: usize, a: Span, b: Span, output: Span) -> Result<()> {
        if a == b {
            let [a, y] = self.memory.floats([a.first(len), output.first(len)])?;
            y.par_iter_mut().with_min_len(ELEMENTWISE_CHUNK).zip(&*a).for_each(|(y, a)| *y = a + a);
            return Ok(());
        }
        let [a, b, y] = self.memory.floats([a.first(len), b.first(len), output.first(len)])?;
        let terms = a.par_chunks(ELEMENTWISE_CHUNK).zip(b.par_chunks(ELEMENTWISE_CHUNK));
        y.par_chunks_mut(ELEMENTWISE_CHUNK).zip(terms).for_each(|(y, (a, b))| {
            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a + b);
        });
        Ok(())
    }

    fn accumulate(&mut self, len: usize, term: Span, sum: Span) -> Result<()> {
        let [term, sum] = self.memory.floats([term.first(len), sum.first(len)])?;
        sum.par_chunks_mut(ELEMENTWISE_CHUNK).zip(term.par_chunks(ELEMENTWISE_CHUNK)).for_each(|(sum, term)| {
            sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
        });
        Ok(())
    }

    fn copy(&mut self, len: usize, source: Span, target: Span) -> Result<()> {
        let [source, target] = self.memory.floats([source.first(len), target.first(len)])?;
        target.copy_from_slice(source);
        Ok(())
    }

    fn copy_channels(&mut self, op: &ChannelCopy, batch: usize, source: Span, target: Span) -> Result<()> {
        let pixels = batch * op.pixels;
        let spans = [source.first(pixels * op.source_channels), target.first(pixels * op.target_channels)];
        let [source, target] = self.memory.floats(spans)?;
        let sources = source.par_chunks_exact(op.source_channels).with_min_len(1024);
        target.par_chunks_exact_mut(op.target_channels).with_min_len(1024).zip(sources).for_each(|(target, source)| {
            target[op.target_offset..][..op.channels].copy_from_slice(&source[op.source_offset..][..op.channels]);
        });
        Ok(())
    }

    fn subsample_forward(&mut self, op: &Subsample, batch: usize, input: Span, output: Span) -> Result<()> {
        let (shape, first) = (op.output(), op.first_channel());
        let spans = [input.first(batch * op.input.len()), output.first(batch * shape.len())];
        let [x, y] = self.memory.floats(spans)?;
        y.par_chunks_mut(shape.len()).zip(x.par_chunks(op.input.len())).for_each(|(y, x)| {
            y.fill(0.0);
            for_kept_pixels(op, |at, kept| {
                let pixel = &mut y[kept * shape.channels + first..][..op.input.channels];
                pixel.copy_from_slice(&x[at * op.input.channels..][..op.input.channels]);
            });
        });
        Ok(())
    }

    fn subsample_backward(&mut self, op: &Subsample, batch: usize, d_output: Span, d_input: Span) -> Result<()> {
        let (shape, first) = (op.output(), op.first_channel());
        let spans = [d_output.first(batch * shape.len()), d_input.first(batch * op.input.len())];
        let [d_y, d_x] = self.memory.floats(spans)?;
        d_x.par_chunks_mut(op.input.len()).zip(d_y.par_chunks(shape.len())).for_each(|(d_x, d_y)| {
            d_x.fill(0.0);
            for_kept_pixels(op, |at, kept| {
                let pixel = &mut d_x[at * op.input.channels..][..op.input.channels];
                pixel.copy_from_slice(&d_y[kept * shape.channels + first..][..op.input.channels]);
            });
        });
        Ok(())
    }
}

/// Calls `pair(input pixel, output pixel)` for every pixel of a sample that is kept.
fn for_kept_pixels(op: &Subsample, mut pair: impl FnMut(usize, usize)) {
    let rows = (0..op.input.height).step_by(op.stride);
    let at = rows.flat_map(|y| (0..op.input.width).step_by(op.stride).map(move |x| y * op.input.width + x));
    at.enumerate().for_each(|(kept, at)| pair(at, kept));
}
