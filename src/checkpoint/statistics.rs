//! Running statistics in safetensors files: PyTorch's `running_mean`, `running_var` and `num_batches_tracked`.

use anyhow::{Context, Result, bail};
use safetensors::tensor::Dtype;

use super::tensor::{Tensor, Tensors};
use super::tensors::{NamedTensor, Values, finite_values, view_of};
use crate::network::{Network, Statistics};

const MEAN: &str = "running_mean";
const VARIANCE: &str = "running_var";
const TRACKED: &str = "num_batches_tracked";

/// All running statistics as tensors.
pub(super) fn statistics_tensors(network: &Network, statistics: &Statistics) -> Vec<NamedTensor> {
    let tensors_of = |(index, tracked): (usize, &i64)| {
        let one = &network.statistics[index];
        let (mean, variance) = statistics.values[one.range()].split_at(one.channels);
        let tensor = |what: &str, shape: Vec<usize>, values: Values| {
            let name = format!("{}.{what}", one.name);
            NamedTensor { name, shape, values }
        };
        [
            tensor(MEAN, vec![one.channels], Values::Floats(mean.to_vec())),
            tensor(VARIANCE, vec![one.channels], Values::Floats(variance.to_vec())),
            tensor(TRACKED, Vec::new(), Values::Integer(*tracked)),
        ]
    };
    statistics.batches_tracked.iter().enumerate().flat_map(tensors_of).collect()
}

/// Reads the running statistics for which `include` is true of their index; the others get their initial values. A
/// missing `num_batches_tracked` is 0, as in PyTorch.
pub(super) fn statistics_from_tensors(
    network: &Network,
    tensors: &Tensors,
    include: impl Fn(usize) -> bool,
) -> Result<Statistics> {
    let mut statistics = network.initial_statistics();
    for (index, one) in network.statistics.iter().enumerate().filter(|(index, _)| include(*index)) {
        let values = &mut statistics.values[one.range()];
        for (what, values) in [MEAN, VARIANCE].into_iter().zip(values.chunks_exact_mut(one.channels)) {
            let name = format!("{}.{what}", one.name);
            values.copy_from_slice(&finite_values(&name, view_of(network, tensors, &name, &[one.channels])?)?);
            if let Some(channel) = values.iter().position(|&value| what == VARIANCE && value < 0.0) {
                bail!("tensor {name} holds {} at index {channel}; a variance cannot be negative", values[channel]);
            }
        }
        let name = format!("{}.{TRACKED}", one.name);
        if tensors.get(&name).is_some() {
            statistics.batches_tracked[index] = counter(&name, view_of(network, tensors, &name, &[])?)?;
        }
    }
    Ok(statistics)
}

/// The names and shapes of the running statistics for which `include` is true of their index, without counters, which may
/// be missing.
pub(super) fn statistics_shapes(network: &Network, include: impl Fn(usize) -> bool) -> Vec<(String, Vec<usize>)> {
    let norms = network.statistics.iter().enumerate().filter(|(index, _)| include(*index));
    norms
        .flat_map(|(_, one)| [MEAN, VARIANCE].map(|what| (format!("{}.{what}", one.name), vec![one.channels])))
        .collect()
}

/// A counter of any number type. Exporters convert all tensors of a file to the same type.
fn counter(name: &str, tensor: &Tensor) -> Result<i64> {
    let data = tensor.bytes();
    let integer = match tensor.dtype {
        Dtype::I64 => data.first_chunk().map(|&bytes| i64::from_le_bytes(bytes)),
        Dtype::U64 => data.first_chunk().and_then(|&bytes| u64::from_le_bytes(bytes).try_into().ok()),
        Dtype::I32 => data.first_chunk().map(|&bytes| i32::from_le_bytes(bytes).into()),
        Dtype::U32 => data.first_chunk().map(|&bytes| u32::from_le_bytes(bytes).into()),
        Dtype::I16 => data.first_chunk().map(|&bytes| i16::from_le_bytes(bytes).into()),
        Dtype::U16 => data.first_chunk().map(|&bytes| u16::from_le_bytes(bytes).into()),
        Dtype::I8 => data.first_chunk().map(|&bytes| i8::from_le_bytes(bytes).into()),
        Dtype::U8 => data.first_chunk().map(|&bytes| u8::from_le_bytes(bytes).into()),
        Dtype::F64 => data.first_chunk().map(|&bytes| f64::from_le_bytes(bytes)).and_then(whole),
        _ => finite_values(name, tensor)?.first().map(|&value| f64::from(value)).and_then(whole),
    };
    integer.with_context(|| format!("tensor {name} is not a whole number that fits 64 bits"))
}

/// A floating-point number as an integer, if it is one.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 2_f64.powi(63)).then_some(number as i64)
}

/// Whether a tensor of that name holds running statistics.
pub(super) fn is_statistic(network: &Network, name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(layer, what)| {
        [MEAN, VARIANCE, TRACKED].contains(&what) && network.statistics.iter().any(|one| one.name == layer)
    })
}
