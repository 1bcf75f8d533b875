//! What every operator can say of itself: what it reads and writes, and what it does at the least.

use std::marker::PhantomData;

use anyhow::Result;

use crate::shape::{Shape, Window};

/// What an operator does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// In place: read and written.
    Update,
}

/// What an operator does, and what that costs at the least. `B` names a buffer: a [`Span`](super::Span), or in a plan a
/// value's number.
pub trait Operands<B: Copy> {
    /// All buffers, in the order of the fields.
    fn buffers(&self) -> Vec<(Access, B)>;

    fn reads(&self) -> Vec<B> {
        self.buffers().into_iter().filter_map(|(access, buffer)| (access != Access::Write).then_some(buffer)).collect()
    }

    /// In place is both read and written.
    fn writes(&self) -> Vec<B> {
        self.buffers().into_iter().filter_map(|(access, buffer)| (access != Access::Read).then_some(buffer)).collect()
    }

    /// What is computed, with all that is fused into it.
    fn describe(&self) -> String;

    /// Floating-point operations; a multiply-add is two. `len` tells the elements of a buffer.
    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize;

    /// Elements read and written: of every operand, once.
    fn elements(&self, len: &dyn Fn(B) -> usize) -> usize {
        self.reads().into_iter().chain(self.writes()).map(len).sum()
    }
}

/// A field that names a buffer, or may name one.
pub trait Named<B> {
    type As<C>;

    fn named<C>(self, name: impl FnOnce(B) -> C) -> Self::As<C>;
}

impl<B> Named<B> for B {
    type As<C> = C;

    fn named<C>(self, name: impl FnOnce(B) -> C) -> C {
        name(self)
    }
}

impl<B> Named<B> for Option<B> {
    type As<C> = Option<C>;

    fn named<C>(self, name: impl FnOnce(B) -> C) -> Option<C> {
        self.map(name)
    }
}

impl<B> Named<B> for PhantomData<B> {
    type As<C> = PhantomData<C>;

    fn named<C>(self, _name: impl FnOnce(B) -> C) -> PhantomData<C> {
        PhantomData
    }
}

/// Declares the struct of an operator, generic over what names a buffer, and gives it `map`. Before every field stands
/// what it is: a plain `value`; a buffer that the operator `reads`, `writes` or `updates` (which is both), `B` or
/// `Option<B>`; or an optional `part` of the operator, a struct of the same kind. A buffer that it `updates … where field`
/// is only read where that optional field is none.
///
/// Behind an operator's struct stand the methods of its [`Operands`], without their types; a part has none.
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
            /// The same with the buffers named differently.
            pub fn map<C>(self, name: &mut impl FnMut($crate::ops::Access, B) -> C) -> $name<C> {
                use $crate::ops::{Access, operands::Named};
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

/// One field of an [`operator`], with its buffers named differently.
macro_rules! field {
    (value $field:expr, $name:ident) => {
        $field
    };
    (part $field:expr, $name:ident) => {
        $field.map(|part| part.map($name))
    };
    (reads $field:expr, $name:ident) => {
        Named::<B>::named($field, |buffer| $name(Access::Read, buffer))
    };
    (writes $field:expr, $name:ident) => {
        Named::<B>::named($field, |buffer| $name(Access::Write, buffer))
    };
    (updates $field:expr, $name:ident) => {
        Named::<B>::named($field, |buffer| $name(Access::Update, buffer))
    };
    (updates $field:expr, $name:ident, $condition:expr) => {
        match $condition {
            Some(_) => $crate::ops::operands::field!(updates $field, $name),
            None => $crate::ops::operands::field!(reads $field, $name),
        }
    };
}
pub(super) use {field, operator};

/// An operator with one input and no parameters as a network sees it: its shape rule and its words.
pub trait Layer {
    /// What its nodes are called, with a number behind it.
    fn name(&self) -> &'static str;

    /// # Errors
    /// Where it cannot be computed over its input.
    fn output(&self) -> Result<Shape>;

    /// The window that an output sees, where that is more than a pixel or steps are larger.
    fn window(&self) -> Option<Window> {
        None
    }

    /// For people, such as `average pool 2×2`.
    fn describe(&self) -> String;
}
