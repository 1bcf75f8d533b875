//! Running statistics in safetensors files: PyTorch's `running_mean`, `running_var` and `num_batches_tracked`.

use anyhow::{Result, bail};
use safetensors::tensor::{Dtype, SafeTensors};

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
    tensors: &SafeTensors,
    include: impl Fn(usize) -> bool,
) -> Result<Statistics> {
    let mut statistics = network.initial_statistics();
    for (index, one) in network.statistics.iter().enumerate().filter(|(index, _)| include(*index)) {
        let values = &mut statistics.values[one.range()];
        for (what, values) in [MEAN, VARIANCE].into_iter().zip(values.chunks_exact_mut(one.channels)) {
            let name = format!("{}.{what}", one.name);
            values.copy_from_slice(&finite_values(&name, &view_of(network, tensors, &name, &[one.channels])?)?);
            if let Some(channel) = values.iter().position(|&value| what == VARIANCE && value < 0.0) {
                bail!("tensor {name} holds {} at index {channel}; a variance cannot be negative", values[channel]);
            }
        }
        let name = format!("{}.{TRACKED}", one.name);
        if tensors.tensor(&name).is_ok() {
            let view = view_of(network, tensors, &name, &[])?;
            match (view.dtype(), view.data().first_chunk()) {
                (Dtype::I64, Some(&bytes)) => statistics.batches_tracked[index] = i64::from_le_bytes(bytes),
                (other, _) => bail!("tensor {name} is of type {other:?}; a 64-bit integer is expected"),
            }
        }
    }
    Ok(statistics)
}

/// Whether a tensor of that name holds running statistics.
pub(super) fn is_statistic(network: &Network, name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(layer, what)| {
        [MEAN, VARIANCE, TRACKED].contains(&what) && network.statistics.iter().any(|one| one.name == layer)
    })
}
