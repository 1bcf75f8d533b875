//! Batch normalisation on the CPU: statistics of fixed pieces of rows, combined in a fixed order.

use anyhow::Result;
use rayon::prelude::*;

use super::norm_loops::{Pieces, gradient_sums, input_gradient, normalise, piece_moments};
use super::runtime::memory::Memory;
use super::{Cpu, Instructions, Real, RunAs};
use crate::ops::{
    BatchNorm2d, BatchNorm2dBackwardInput, BatchNorm2dBackwardSums, BatchNorm2dForward, BatchNorm2dStatistics,
};

/// Buffers kept between steps to avoid allocations.
#[derive(Default)]
pub(super) struct State {
    /// Two values per piece and channel.
    partials: Vec<f32>,
    /// Per-channel factors, repeated to the width of the loops.
    factors: Vec<f32>,
}

impl RunAs for BatchNorm2dStatistics {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let Self { ref op, input, running, saved } = *self;
        let pieces = Pieces::new(op.training_rows(input.len / op.input.len())?, op.input.channels);
        let views = cpu.memory.views::<R, 1, 2>([input], [running, saved], None)?;
        let ([x], [running, saved]) = (views.values, views.floats);
        let partials = pieces.partials(&mut cpu.norm.partials);
        moments(cpu.instructions, &pieces, x, partials);
        update_statistics(op, &pieces, partials, running, saved);
        Ok(())
    }
}

impl RunAs for BatchNorm2dForward {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (channels, set) = (self.op.input.channels, cpu.instructions);
        let pieces = Pieces::new(self.input.len / channels, channels);
        let [statistics, weight, bias] = cpu.memory.floats([self.statistics, self.weight, self.bias])?;
        let (mean, spread) = statistics.split_at(channels);
        let inverse = |channel: usize| {
            if self.training { spread[channel] } else { 1.0 / (spread[channel] + self.op.epsilon).sqrt() }
        };
        let factors = pieces.repeat(&mut cpu.norm.factors, |c| [mean[c], weight[c] * inverse(c), bias[c]]);
        let (x, residual, y) = forward_views::<R>(&mut cpu.memory, self)?;
        y.par_chunks_mut(pieces.len).enumerate().for_each(|(index, y)| {
            let part = pieces.part(index);
            let (x, residual) = (x.map(|x| &x[part.clone()]), residual.map(|residual| &residual[part]));
            normalise(set, self.activation, x, residual, y, factors);
        });
        Ok(())
    }
}

impl RunAs for BatchNorm2dBackwardSums {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (shape, set) = (self.op.input, cpu.instructions);
        let channels = shape.channels;
        let pieces = Pieces::new(self.op.training_rows(self.input.len / shape.len())?, channels);
        let values = [self.input, self.output.unwrap_or(self.input.first(0)), self.d_output];
        let floats = [self.saved, self.weight, self.bias, self.d_weight, self.d_bias];
        let views = cpu.memory.views::<R, 3, 5>(values, floats, None)?;
        let ([x, y, d_y], [saved, weight, bias, d_weight, d_bias]) = (views.values, views.floats);
        let (x, y) = (&*x, self.output.map(|_| &*y));
        let (mean, inverse) = saved.split_at(channels);
        let factors = pieces.repeat(&mut cpu.norm.factors, |c| [mean[c], weight[c] * inverse[c], bias[c]]);
        let partials = pieces.partials(&mut cpu.norm.partials);
        let work = d_y.par_chunks_mut(pieces.len).zip(partials.par_chunks_mut(2 * channels)).enumerate();
        work.for_each(|(index, (d_y, sums))| {
            let part = pieces.part(index);
            let (x, y) = (&x[part.clone()], y.map(|y| &y[part]));
            gradient_sums(set, self.activation, &pieces, factors, (x, y), d_y, sums);
        });
        for (channel, (d_weight, d_bias)) in d_weight.iter_mut().zip(d_bias.iter_mut()).enumerate() {
            let sum = |kind: usize| -> f64 {
                partials.chunks_exact(2 * channels).map(|sums| f64::from(sums[kind * channels + channel])).sum()
            };
            (*d_bias, *d_weight) = (sum(0) as f32, (sum(1) * f64::from(inverse[channel])) as f32);
        }
        Ok(())
    }
}

impl RunAs for BatchNorm2dBackwardInput {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let (op, nothing) = (self.op, self.weight.first(0));
        let (shape, sums) = (op.input, self.d_weight.zip(self.d_bias));
        let rows = match sums {
            Some(_) => op.training_rows(self.input.len / shape.len())?,
            None => self.input.len / shape.channels,
        };
        let pieces = Pieces::new(rows, shape.channels);
        let (d_weight, d_bias) = sums.unwrap_or((nothing, nothing));
        let [statistics, weight, bias, d_weight, d_bias] =
            cpu.memory.floats([self.statistics, self.weight, self.bias, d_weight, d_bias])?;
        let (mean, spread) = statistics.split_at(pieces.channels);
        let share = 1.0 / pieces.rows as f32;
        let factors = pieces.repeat(&mut cpu.norm.factors, |c| {
            if sums.is_none() {
                return [mean[c], weight[c] * (1.0 / (spread[c] + op.epsilon).sqrt()), bias[c], 0.0, 0.0];
            }
            let (inverse, scale) = (spread[c], weight[c] * spread[c]);
            let x_scale = -scale * inverse * d_weight[c] * share;
            [mean[c], scale, bias[c], x_scale, -scale * d_bias[c] * share]
        });
        let (set, activation) = (cpu.instructions, self.activation);
        let (x, d_y, d_x) = backward_views::<R>(&mut cpu.memory, self)?;
        d_x.par_chunks_mut(pieces.len).enumerate().for_each(|(index, d_x)| {
            let part = pieces.part(index);
            let (x, d_y) = (&x[part.clone()], d_y.map(|d_y| &d_y[part]));
            input_gradient(set, activation, x, d_y, d_x, factors);
        });
        Ok(())
    }
}

type ForwardViews<'a, R> = (Option<&'a [R]>, Option<&'a [R]>, &'a mut [R]);

/// Input (`None` if it is the output), residual and output.
fn forward_views<'a, R: Real>(memory: &'a mut Memory, spans: &BatchNorm2dForward) -> Result<ForwardViews<'a, R>> {
    let (nothing, in_place) = (spans.output.first(0), spans.input == spans.output);
    let input = if in_place { nothing } else { spans.input };
    let [x, residual, y] = memory.values::<R, _>([input, spans.residual.unwrap_or(nothing), spans.output])?;
    let optional = |values: &'a mut [R], present: bool| present.then_some(&*values);
    Ok((optional(x, !in_place), optional(residual, spans.residual.is_some()), y))
}

type BackwardViews<'a, R> = (&'a [R], Option<&'a [R]>, &'a mut [R]);

/// Input, output gradient (`None` if it is the buffer of the input gradient), and input gradient.
fn backward_views<'a, R: Real>(
    memory: &'a mut Memory,
    spans: &BatchNorm2dBackwardInput,
) -> Result<BackwardViews<'a, R>> {
    let in_place = spans.d_output == spans.d_input;
    let d_output = if in_place { spans.d_input.first(0) } else { spans.d_output };
    let [x, d_y, d_x] = memory.values::<R, _>([spans.input, d_output, spans.d_input])?;
    Ok((x, (!in_place).then_some(d_y), d_x))
}

/// For each piece and channel, the mean and the sum of squared deviations from it.
fn moments<R: Real>(set: Instructions, pieces: &Pieces, x: &[R], partials: &mut [f32]) {
    let work = x.par_chunks(pieces.len).zip(partials.par_chunks_mut(2 * pieces.channels));
    work.for_each(|(x, partials)| piece_moments(set, pieces, x, partials));
}

/// Combines the moments of the pieces, in order, into the batch's mean and inverse standard deviation (Chan, Golub and
/// LeVeque), and updates the running statistics.
fn update_statistics(op: &BatchNorm2d, pieces: &Pieces, partials: &[f32], running: &mut [f32], saved: &mut [f32]) {
    let channels = pieces.channels;
    let (running_mean, running_variance) = running.split_at_mut(channels);
    let (saved_mean, saved_inverse) = saved.split_at_mut(channels);
    for channel in 0..channels {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for (index, piece) in partials.chunks_exact(2 * channels).enumerate() {
            let rows = (pieces.part(index).len() / channels) as f64;
            let distance = f64::from(piece[channel]) - mean;
            let sum = count + rows;
            mean += distance * rows / sum;
            squares += f64::from(piece[channels + channel]) + distance * distance * count * rows / sum;
            count = sum;
        }
        saved_mean[channel] = mean as f32;
        saved_inverse[channel] = (1.0 / (squares / count + f64::from(op.epsilon)).sqrt()) as f32;
        let update_running = |running: &mut f32, batch: f64| {
            *running = (1.0 - op.momentum) * *running + op.momentum * batch as f32;
        };
        update_running(&mut running_mean[channel], mean);
        update_running(&mut running_variance[channel], squares / (count - 1.0));
    }
}
