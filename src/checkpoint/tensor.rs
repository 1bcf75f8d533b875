//! The named tensors of a file, of safetensors or of torch.save, as the rest of this folder reads them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A tensor in the bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor<'a> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// From its first element on.
    storage: &'a [u8],
    /// Elements from one index to the next, by dimension; `None` if it is contiguous.
    strides: Option<Vec<usize>>,
}

impl<'a> Tensor<'a> {
    /// A view of `storage` from its element `offset` on. `None` if it is not within the storage.
    pub fn strided(
        dtype: Dtype,
        shape: Vec<usize>,
        storage: &'a [u8],
        offset: usize,
        strides: Vec<usize>,
    ) -> Option<Self> {
        let size = dtype.bitsize() / 8;
        let begin = offset.checked_mul(size)?;
        let count = shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side))?;
        let last = shape.iter().zip(&strides).try_fold(0_usize, |last, (&side, &stride)| {
            last.checked_add(side.saturating_sub(1).checked_mul(stride)?)
        })?;
        let end = if count == 0 { begin } else { begin.checked_add(last.checked_add(1)?.checked_mul(size)?)? };
        let storage = storage.get(begin..end)?;
        let mut expected = 1_usize;
        let is_contiguous = shape.iter().zip(&strides).rev().all(|(&side, &stride)| {
            let fits = side <= 1 || stride == expected;
            expected = side.saturating_mul(expected);
            fits
        });
        let strides = (!is_contiguous).then_some(strides);
        Some(Self { dtype, shape, storage, strides })
    }

    /// A contiguous tensor of four dimensions as a matrix of its first one; others as they are.
    pub fn into_matrix(self) -> Self {
        match (&self.shape[..], &self.strides) {
            (&[rows, a, b, c], None) => Self { shape: vec![rows, a.saturating_mul(b).saturating_mul(c)], ..self },
            _ => self,
        }
    }

    /// Its elements in row-major order, little-endian. Those of a view are copied, so check its shape first.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        let Some(strides) = &self.strides else { return Cow::Borrowed(self.storage) };
        let size = self.dtype.bitsize() / 8;
        let count: usize = self.shape.iter().product();
        let mut bytes = Vec::with_capacity(count * size);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..count {
            let at: usize = index.iter().zip(strides).map(|(index, stride)| index * stride).sum();
            bytes.extend_from_slice(&self.storage[at * size..(at + 1) * size]);
            for (index, &side) in index.iter_mut().zip(&self.shape).rev() {
                *index += 1;
                if *index < side {
                    break;
                }
                *index = 0;
            }
        }
        Cow::Owned(bytes)
    }
}

/// The tensors of a file by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Tensors<'a>(BTreeMap<Cow<'a, str>, Tensor<'a>>);

impl<'a> Tensors<'a> {
    pub fn new(tensors: impl IntoIterator<Item = (&'a str, Tensor<'a>)>) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| (Cow::Borrowed(name), tensor)).collect())
    }

    /// The tensors of a safetensors file.
    pub fn of(file: &SafeTensors<'a>) -> Self {
        let tensor = |view: TensorView<'a>| Tensor {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            storage: view.data(),
            strides: None,
        };
        Self(file.tensors().into_iter().map(|(name, view)| (Cow::Owned(name), tensor(view))).collect())
    }

    pub fn get(&self, name: &str) -> Option<&Tensor<'a>> {
        self.0.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(AsRef::as_ref).collect()
    }

    /// The same tensors, each with another name and form.
    pub fn renamed(self, change: impl Fn(Cow<'a, str>, Tensor<'a>) -> (Cow<'a, str>, Tensor<'a>)) -> Self {
        Self(self.0.into_iter().map(|(name, tensor)| change(name, tensor)).collect())
    }

    /// The same tensors without the first `length` bytes of every name.
    pub fn without_prefix(self, length: usize) -> Self {
        let stripped = |name: Cow<'a, str>| match name {
            Cow::Borrowed(name) => Cow::Borrowed(&name[length..]),
            Cow::Owned(name) => Cow::Owned(name[length..].to_string()),
        };
        Self(self.0.into_iter().map(|(name, tensor)| (stripped(name), tensor)).collect())
    }
}
