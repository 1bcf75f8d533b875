//! Rejects files with tensors that do not belong to the network.

use super::statistics::is_statistic;
use super::tensor::Tensors;
use crate::network::{Network, Parameter};
use anyhow::{Result, bail};

/// Fails if the file has tensors that are neither parameters, under one of the prefixes, nor running statistics.
pub(super) fn refuse_extra(network: &Network, prefixes: &[&str], tensors: &Tensors) -> Result<()> {
    let extra = extra_tensors(network, prefixes, tensors);
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

/// The tensors that are neither parameters, under one of the prefixes, nor running statistics.
pub(super) fn extra_tensors<'a>(network: &Network, prefixes: &[&str], tensors: &'a Tensors) -> Vec<&'a str> {
    let known = |name: &str| {
        let is = |parameter: &Parameter| {
            prefixes.iter().any(|prefix| name.strip_prefix(prefix) == Some(parameter.name.as_str()))
        };
        network.parameters.iter().any(is) || is_statistic(network, name)
    };
    tensors.names().into_iter().filter(|name| !known(name)).collect()
}
