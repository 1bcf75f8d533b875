//! Safetensors files as named fp32 tensors. Reading checks for damaged files and those of other programs or networks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};

use super::container::encode;
use super::prefix::prefix_before;
use super::recognise::{Format, recognise};
use super::tensor::{Tensor, Tensors};
use crate::files::write_atomically;
use crate::network::{Network, Parameter};

/// A tensor to write, in PyTorch's layout.
pub(super) struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Values,
}

/// The values of a tensor to write.
pub(super) enum Values {
    Floats(Vec<f32>),
    Integer(i64),
}

impl Values {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Floats(_) => Dtype::F32,
            Self::Integer(_) => Dtype::I64,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Floats(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Integer(value) => value.to_le_bytes().to_vec(),
        }
    }
}

/// Splits a flat buffer, such as the network's parameters or momentum, into tensors named `prefix` + parameter name.
pub(super) fn named_tensors(network: &Network, prefix: &str, flat: &[f32]) -> Vec<NamedTensor> {
    let tensor = |parameter: &Parameter| {
        let mut values = vec![0.0; parameter.len()];
        parameter.layout.file_from_memory(&flat[parameter.range()], &mut values);
        NamedTensor {
            name: format!("{prefix}{}", parameter.name),
            shape: parameter.layout.file_shape(),
            values: Values::Floats(values),
        }
    };
    network.parameters.iter().map(tensor).collect()
}

/// Writes tensors and metadata entries, atomically. The same content gives the same file.
pub(super) fn write_tensors(path: &Path, tensors: &[NamedTensor], entries: &[(&str, &str)]) -> Result<()> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|tensor| tensor.values.bytes()).collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(tensor.values.dtype(), tensor.shape.clone(), bytes)
            .map_err(|error| anyhow!("{}: {error}", tensor.name))?;
        views.push((tensor.name.as_str(), view));
    }
    let file = encode(views, entries)?;
    write_atomically(path, |writer| Ok(writer.write_all(&file)?))
}

/// Reads a whole file, unless it is larger than any file of this network can be: four times its parameters (weights,
/// two moments and average) and its running statistics in f64, and a header. A file that does not hold weights is named.
pub(super) fn read_file(path: &Path, network: &Network) -> Result<(Vec<u8>, Format)> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is not a file; a .safetensors file is expected", path.display());
    let format = recognise(path)?;
    let most = 8 * (4 * network.parameter_count() + network.statistics_len()) as u64 + (1 << 20);
    ensure!(
        metadata.len() <= most,
        "{} has {} bytes, far more than the weights of {} can have; does it belong to another network? See --model",
        path.display(),
        metadata.len(),
        network.name
    );
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((bytes, format))
}

/// Fills a flat buffer in memory layout from the tensors named `prefix` + parameter name.
pub(super) fn flat_from_tensors(network: &Network, prefix: &str, tensors: &Tensors) -> Result<Vec<f32>> {
    flat_from_some(network, prefix, tensors, |_| true)
}

/// Like [`flat_from_tensors`], but only for parameters for which `include` is true of their index; the others are 0.
pub(super) fn flat_from_some(
    network: &Network,
    prefix: &str,
    tensors: &Tensors,
    include: impl Fn(usize) -> bool,
) -> Result<Vec<f32>> {
    // All shapes are checked before the buffer is allocated.
    let mut views = Vec::with_capacity(network.parameters.len());
    for (_, parameter) in network.parameters.iter().enumerate().filter(|(index, _)| include(*index)) {
        let name = format!("{prefix}{}", parameter.name);
        let view = view_of(network, tensors, &name, &parameter.layout.file_shape())?;
        views.push((parameter, name, view));
    }
    let mut flat = vec![0.0; network.parameter_count()];
    for (parameter, name, view) in views {
        let values = finite_values(&name, view)?;
        parameter.layout.memory_from_file(&values, &mut flat[parameter.range()]);
    }
    Ok(flat)
}

/// The tensor with the given name and shape.
pub(super) fn view_of<'a, 'b>(
    network: &Network,
    tensors: &'b Tensors<'a>,
    name: &str,
    shape: &[usize],
) -> Result<&'b Tensor<'a>> {
    let tensor = tensors.get(name).ok_or_else(|| missing(network, name, tensors))?;
    let (found, model) = (&tensor.shape, &network.name);
    ensure!(
        found == shape,
        "tensor {name} has shape {found:?}, but {model} needs {shape:?} for these images and classes (see --classes)"
    );
    Ok(tensor)
}

fn missing(network: &Network, name: &str, tensors: &Tensors) -> anyhow::Error {
    let names = tensors.names();
    let shown = names.iter().take(4).copied().collect::<Vec<_>>().join(", ");
    let dots = if names.len() > 4 { ", …" } else { "" };
    wrapped(name, tensors).unwrap_or_else(|| {
        anyhow!(
            "tensor {name} of {} is missing; the file has {} tensors ({shown}{dots}). Does it belong to another network? \
             See --model",
            network.name,
            names.len()
        )
    })
}

/// The error of a file that lacks the tensor `name` because all names have a prefix.
pub(super) fn wrapped(name: &str, tensors: &Tensors) -> Option<anyhow::Error> {
    let prefix = prefix_before(name, &tensors.names())?.to_string();
    Some(anyhow!(
        "the names of its tensors begin with `{prefix}`, as those of a wrapped module do; save it without: \
         {{name.removeprefix('{prefix}'): tensor for name, tensor in state_dict.items()}}"
    ))
}

/// A tensor's values as fp32, all of which must be finite.
pub(super) fn finite_values(name: &str, tensor: &Tensor) -> Result<Vec<f32>> {
    let values = values_of(name, tensor)?;
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        bail!("tensor {name} holds {} at index {index}; such weights cannot be used", values[index]);
    }
    Ok(values)
}

/// A tensor's values as fp32, from any of the floating-point types that PyTorch saves.
fn values_of(name: &str, tensor: &Tensor) -> Result<Vec<f32>> {
    let bytes = tensor.bytes();
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    Ok(match tensor.dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => pairs().map(|pair| half::f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|pair| half::bf16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::F64 => bytes
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        other => bail!("tensor {name} is of type {other:?}; floating-point weights are expected"),
    })
}
