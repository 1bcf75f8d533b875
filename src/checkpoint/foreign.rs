//! Rejects files with tensors that do not belong to the network.

use anyhow::{Result, bail};
use safetensors::tensor::SafeTensors;

use super::statistics::is_statistic;
use crate::network::{Network, Parameter};

/// Fails if the file has tensors that are neither parameters, under one of the prefixes, nor running statistics.
pub(super) fn refuse_extra(network: &Network, prefixes: &[&str], tensors: &SafeTensors) -> Result<()> {
    let known = |name: &str| {
        let is = |parameter: &Parameter| {
            prefixes.iter().any(|prefix| name.strip_prefix(prefix) == Some(parameter.name.as_str()))
        };
        network.parameters.iter().any(is) || is_statistic(network, name)
    };
    let mut extra: Vec<_> = tensors.names().into_iter().filter(|name| !known(name)).collect();
    extra.sort_unstable();
    match extra[..] {
        [] => Ok(()),
        [first, ..] => bail!(
            "tensor {first} does not belong to {} ({} such tensors); does the file belong to another network? \
             See --model",
            network.name,
            extra.len()
        ),
    }
}
