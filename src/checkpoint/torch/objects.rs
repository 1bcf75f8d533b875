//! The objects that a pickle of `torch.save` may build: tensors, the storages that they are views of, and plain
//! containers.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::Dtype;

use super::archive::Archive;
use crate::checkpoint::tensor::Tensor;

/// More arguments of a call are not looked at.
const MAX_ARGUMENTS: usize = 8;

/// Tensors of weights have at most four dimensions.
const MAX_DIMENSIONS: usize = 64;

/// An object, by its index if it is one of [`Objects`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A floating-point number, or an integer of more than 64 bits, neither of which is used.
    Number,
    Str(&'a str),
    /// Not used either.
    Bytes,
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

/// What a pickle may name. There are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    /// The type of a storage, by the type of its elements.
    Storage(Dtype),
}

impl Global {
    /// # Errors
    /// The global is not one of those that tensors need.
    pub fn find(module: &str, name: &str) -> Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::BF16),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Self::Storage(Dtype::I16),
            ("torch", "CharStorage") => Self::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Self::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Self::Storage(Dtype::BOOL),
            _ => {
                let shown: String = format!("{module}.{name}").chars().take(100).collect();
                bail!(
                    "it refers to {shown}, but only tensors in plain containers are read, and no code is run; in \
                     PyTorch, load the file and save the weights alone: torch.save(model.state_dict(), FILE)"
                )
            }
        })
    }
}

/// The values of a storage.
#[derive(Clone, Copy, Debug)]
struct Storage<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

/// All objects of a pickle.
#[derive(Default)]
pub(super) struct Objects<'a> {
    /// The elements of tuples and lists.
    sequences: Vec<Vec<Value<'a>>>,
    /// The entries of dictionaries, in the order in which they were made.
    dicts: Vec<Vec<[Value<'a>; 2]>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<Tensor<'a>>,
    /// The storages by their keys.
    keys: HashMap<&'a str, usize>,
}

impl<'a> Objects<'a> {
    pub fn new_sequence(&mut self, values: Vec<Value<'a>>) -> usize {
        self.sequences.push(values);
        self.sequences.len() - 1
    }

    pub fn new_dict(&mut self) -> Value<'a> {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    pub fn append(&mut self, list: Value, values: &[Value<'a>]) -> Result<()> {
        let Value::List(list) = list else { bail!("it is damaged: it appends to something that is not a list") };
        self.sequences[list].extend_from_slice(values);
        Ok(())
    }

    /// Inserts keys and values, which alternate.
    pub fn insert(&mut self, dict: Value, values: &[Value<'a>]) -> Result<()> {
        let Value::Dict(dict) = dict else { bail!("it is damaged: it sets an item of something that is not a dict") };
        let (pairs, rest) = values.as_chunks::<2>();
        ensure!(rest.is_empty(), "it is damaged: a key has no value");
        self.dicts[dict].extend_from_slice(pairs);
        Ok(())
    }

    /// The entries of a dictionary; `None` for other values.
    pub fn entries(&self, value: Value) -> Option<&[[Value<'a>; 2]]> {
        if let Value::Dict(dict) = value { Some(&self.dicts[dict]) } else { None }
    }

    pub fn tensor(&self, value: Value) -> Option<&Tensor<'a>> {
        if let Value::Tensor(tensor) = value { Some(&self.tensors[tensor]) } else { None }
    }

    /// The elements of a tuple or list; `None` for other values.
    fn elements(&self, value: Value) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(index) | Value::List(index) => Some(&self.sequences[index]),
            _ => None,
        }
    }

    /// The storage with a persistent id: `("storage", type, key, location, number of elements)`.
    pub fn storage(&mut self, id: Value<'a>, archive: &Archive<'a>) -> Result<Value<'a>> {
        let elements = self.elements(id).unwrap_or_default();
        let &[
            Value::Str("storage"),
            Value::Global(Global::Storage(dtype)),
            Value::Str(key),
            Value::Str(_),
            Value::Int(count),
        ] = elements
        else {
            bail!("it has a persistent id that is not a storage's");
        };
        if let Some(&known) = self.keys.get(key) {
            ensure!(self.storages[known].dtype == dtype, "it is damaged: storage {key} has two types");
            return Ok(Value::Storage(known));
        }
        let bytes = archive.member(&format!("data/{key}"))?;
        let expected = usize::try_from(count).ok().and_then(|count| count.checked_mul(dtype.bitsize() / 8));
        ensure!(expected == Some(bytes.len()), "it is damaged: storage {key} has {} bytes", bytes.len());
        self.storages.push(Storage { dtype, bytes });
        self.keys.insert(key, self.storages.len() - 1);
        Ok(Value::Storage(self.storages.len() - 1))
    }

    /// The result of a call. Only the globals above can be called.
    pub fn reduce(&mut self, callable: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>> {
        let Value::Global(global) = callable else { bail!("it calls something that is not a global") };
        let arguments = match arguments {
            // No call has more of them. A pickle may use a long tuple many times.
            Value::Tuple(index) => self.sequences[index].iter().take(MAX_ARGUMENTS).copied().collect::<Vec<_>>(),
            _ => bail!("it is damaged: the arguments of a call are not a tuple"),
        };
        match (global, &arguments[..]) {
            (Global::OrderedDict, []) => Ok(self.new_dict()),
            (Global::Size, &[sizes @ Value::Tuple(_)]) => Ok(sizes),
            // The type that a subclass has, and whether there is a gradient, do not matter.
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                self.rebuild_tensor(storage, offset, shape, strides)
            }
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => Ok(tensor),
            _ => bail!("it calls {global:?} with arguments that it cannot have"),
        }
    }

    fn rebuild_tensor(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
    ) -> Result<Value<'a>> {
        let (Value::Storage(storage), Value::Int(offset)) = (storage, offset) else {
            bail!("it is damaged: a tensor without storage");
        };
        let Storage { dtype, bytes } = self.storages[storage];
        let sizes = |value| -> Option<Vec<usize>> {
            let size = |value: &Value| if let Value::Int(size) = *value { usize::try_from(size).ok() } else { None };
            self.elements(value).filter(|sizes| sizes.len() <= MAX_DIMENSIONS)?.iter().map(size).collect()
        };
        let (shape, strides) = sizes(shape).zip(sizes(strides)).context("it is damaged: a tensor's shape")?;
        ensure!(shape.len() == strides.len(), "it is damaged: a tensor of shape {shape:?} with strides {strides:?}");
        let offset = usize::try_from(offset).context("it is damaged: a tensor's offset")?;
        let tensor = Tensor::strided(dtype, shape, bytes, offset, strides);
        self.tensors.push(tensor.context("it is damaged: a tensor is not within its storage")?);
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    /// Checks the state that an object gets after it was made. That of a dictionary is `_metadata`, which has the
    /// versions of modules and is not used.
    pub fn check_state(&self, object: Value, state: Value) -> Result<()> {
        let is_plain = self.entries(object).is_some() && self.entries(state).is_some();
        ensure!(is_plain, "it sets the state of an object that is not a plain container");
        Ok(())
    }
}
