//! The operands of operators: what an operator reads and writes, and the minimum work that it does.

use std::marker::PhantomData;

use anyhow::Result;

use crate::shape::{Shape, Window};

/// How an operator accesses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// Read and written in place.
    Update,
}

/// An operator's buffers, description and minimum cost. `B` names a buffer: a [`Span`](super::Span), or a value's index
/// in a plan.
pub trait Operands<B: Copy> {
    /// All buffers, in field order.
    fn buffers(&self) -> Vec<(Access, B)>;

    /// The buffers that are read, including those updated in place.
    fn reads(&self) -> Vec<B> {
        self.buffers().into_iter().filter_map(|(access, buffer)| (access != Access::Write).then_some(buffer)).collect()
    }

    /// The buffers that are written, including those updated in place.
    fn writes(&self) -> Vec<B> {
        self.buffers().into_iter().filter_map(|(access, buffer)| (access != Access::Read).then_some(buffer)).collect()
    }

    /// What is computed, including fused operations.
    fn describe(&self) -> String;

    /// Floating-point operations; a multiply-add counts as two. `len` returns the number of elements of a buffer.
    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize;

    /// Elements read and written, counting every access to an operand once.
    fn elements(&self, len: &dyn Fn(B) -> usize) -> usize {
        self.reads().into_iter().chain(self.writes()).map(len).sum()
    }
}

/// A field that holds the name of a buffer: `B`, `Option<B>` or `PhantomData<B>`.
pub trait BufferField<B> {
    type As<C>;

    fn map_buffer<C>(self, name: impl FnOnce(B) -> C) -> Self::As<C>;
}

impl<B> BufferField<B> for B {
    type As<C> = C;

    fn map_buffer<C>(self, name: impl FnOnce(B) -> C) -> C {
        name(self)
    }
}

impl<B> BufferField<B> for Option<B> {
    type As<C> = Option<C>;

    fn map_buffer<C>(self, name: impl FnOnce(B) -> C) -> Option<C> {
        self.map(name)
    }
}

impl<B> BufferField<B> for PhantomData<B> {
    type As<C> = PhantomData<C>;

    fn map_buffer<C>(self, _name: impl FnOnce(B) -> C) -> PhantomData<C> {
        PhantomData
    }
}

/// Declares the struct of an operator, generic over the name of a buffer, and its `map` method. Each field is marked
/// with its role: a plain `value`; a buffer (`B` or `Option<B>`) that the operator `reads`, `writes` or `updates`,
/// which means both; or an optional `part`, a struct declared with the same macro. A buffer marked `updates … where
/// field` is only read if that optional field is `None`.
///
/// The methods of [`Operands`] follow the struct, without their types; a part has none.
macro_rules! operator {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$doc:meta])* $role:ident $field:ident: $type:ty $(where $condition:ident)?,)*
        }
        $(
            describe($self:ident) $describe:block
            flops($this:ident, $len:ident) $flops:block
            $(elements($it:ident, $length:ident) $elements:block)?
        )?
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name<B = $crate::ops::Span> {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl<B: Copy> $name<B> {
            /// The same operator with its buffers renamed.
            pub fn map<C>(self, name: &mut impl FnMut($crate::ops::Access, B) -> C) -> $name<C> {
                use $crate::ops::{Access, operands::BufferField};
                $name {
                    $($field: $crate::ops::operands::field!($role self.$field, name $(, self.$condition)?),)*
                }
            }
        }

        $(impl<B: Copy> $crate::ops::Operands<B> for $name<B> {
            fn buffers(&self) -> Vec<($crate::ops::Access, B)> {
                let mut all = Vec::new();
                self.map(&mut |access, buffer| all.push((access, buffer)));
                all
            }

            fn describe(&$self) -> String $describe

            fn flops(&$this, $len: &dyn Fn(B) -> usize) -> usize $flops

            $(fn elements(&$it, $length: &dyn Fn(B) -> usize) -> usize $elements)?
        })?
    };
}

/// One field of an [`operator`], with its buffers renamed.
macro_rules! field {
    (value $field:expr, $name:ident) => {
        $field
    };
    (part $field:expr, $name:ident) => {
        $field.map(|part| part.map($name))
    };
    (reads $field:expr, $name:ident) => {
        BufferField::<B>::map_buffer($field, |buffer| $name(Access::Read, buffer))
    };
    (writes $field:expr, $name:ident) => {
        BufferField::<B>::map_buffer($field, |buffer| $name(Access::Write, buffer))
    };
    (updates $field:expr, $name:ident) => {
        BufferField::<B>::map_buffer($field, |buffer| $name(Access::Update, buffer))
    };
    (updates $field:expr, $name:ident, $condition:expr) => {
        match $condition {
            Some(_) => $crate::ops::operands::field!(updates $field, $name),
            None => $crate::ops::operands::field!(reads $field, $name),
        }
    };
}
pub(super) use {field, operator};

/// A parameter-free layer with one input, as a network sees it: its shape rule and description.
pub trait Layer {
    /// The prefix of its nodes' names, which a number follows.
    fn name(&self) -> &'static str;

    /// The output shape.
    ///
    /// # Errors
    /// If the layer cannot be applied to its input.
    fn output(&self) -> Result<Shape>;

    /// The input window of an output, if its kernel size or stride is not 1.
    fn window(&self) -> Option<Window> {
        None
    }

    /// A description for display, such as `average pool 2×2`.
    fn describe(&self) -> String;
}
