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

/// The buffers of an operator. `B` names a buffer: a [`Span`](super::Span), or in a plan a value's number.
pub trait Buffers<B: Copy> {
    /// All of them, in the order of the fields.
    fn buffers(&self) -> Vec<(Access, B)>;

    fn reads(&self) -> Vec<B> {
        self.buffers().into_iter().filter(|(access, _)| *access != Access::Write).map(|(_, buffer)| buffer).collect()
    }

    /// In place is both read and written.
    fn writes(&self) -> Vec<B> {
        self.buffers().into_iter().filter(|(access, _)| *access != Access::Read).map(|(_, buffer)| buffer).collect()
    }
}

/// What an operator does, and what that costs at the least.
pub trait Operands<B: Copy>: Buffers<B> {
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

/// Declares the struct of an operator, generic over what names a buffer, and gives it `map` and [`Buffers`]. Before every
/// field stands what it is: a plain `value`; a buffer that the operator `reads`, `writes` or `updates` (which is both),
/// `B` or `Option<B>`; or an optional `part`, a struct of the same kind. A buffer that `updates … where field` is only
/// read where that optional field is none.
///
/// Behind the struct of a whole operator stand the methods of its [`Operands`], without their types.
macro_rules! operator {
    (
        $(#[$about:meta])*
        pub struct $name:ident $(<$generic:ident>)? {
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
        pub struct $name<$($generic,)? B = $crate::ops::Span> {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl<$($generic: Copy,)? B: Copy> $name<$($generic,)? B> {
            /// The same with the buffers named differently.
            pub fn map<C>(self, name: &mut impl FnMut($crate::ops::Access, B) -> C) -> $name<$($generic,)? C> {
                $name {
                    $($field: $crate::ops::operands::field!($role self.$field, name $(, self.$condition)?),)*
                }
            }
        }

        impl<$($generic: Copy,)? B: Copy> $crate::ops::Buffers<B> for $name<$($generic,)? B> {
            fn buffers(&self) -> Vec<($crate::ops::Access, B)> {
                let mut all = Vec::new();
                self.map(&mut |access, buffer| all.push((access, buffer)));
                all
            }
        }

        $(impl<B: Copy> $crate::ops::Operands<B> for $name<B> {
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
        $crate::ops::operands::Named::<B>::named($field, |buffer| $name($crate::ops::Access::Read, buffer))
    };
    (writes $field:expr, $name:ident) => {
        $crate::ops::operands::Named::<B>::named($field, |buffer| $name($crate::ops::Access::Write, buffer))
    };
    (updates $field:expr, $name:ident) => {
        $crate::ops::operands::Named::<B>::named($field, |buffer| $name($crate::ops::Access::Update, buffer))
    };
    (updates $field:expr, $name:ident, $condition:expr) => {
        match $condition {
            Some(_) => $crate::ops::operands::field!(updates $field, $name),
            None => $crate::ops::operands::field!(reads $field, $name),
        }
    };
}
pub(super) use {field, operator};

operator! {
    /// An operator without parameters of the network, from one buffer to another.
    pub struct Forward<O> {
        value op: O,
        reads input: B,
        writes output: B,
    }
}

operator! {
    /// Its gradient, which needs nothing else.
    pub struct Backward<O> {
        value op: O,
        reads d_output: B,
        writes d_input: B,
    }
}

/// What is to be said of such an operator.
pub trait Unary: Copy {
    fn describe(&self) -> String;

    /// Floating-point operations in one direction, for so many elements before and behind it; none where it only copies.
    fn flops(&self, _inputs: usize, _outputs: usize) -> usize {
        0
    }

    /// Elements that it reads and writes.
    fn elements(&self, inputs: usize, outputs: usize) -> usize {
        inputs + outputs
    }
}

impl<O: Unary, B: Copy> Operands<B> for Forward<O, B> {
    fn describe(&self) -> String {
        self.op.describe()
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        self.op.flops(len(self.input), len(self.output))
    }

    fn elements(&self, len: &dyn Fn(B) -> usize) -> usize {
        self.op.elements(len(self.input), len(self.output))
    }
}

impl<O: Unary, B: Copy> Operands<B> for Backward<O, B> {
    fn describe(&self) -> String {
        format!("gradient of {}", self.op.describe())
    }

    fn flops(&self, len: &dyn Fn(B) -> usize) -> usize {
        self.op.flops(len(self.d_input), len(self.d_output))
    }

    fn elements(&self, len: &dyn Fn(B) -> usize) -> usize {
        self.op.elements(len(self.d_input), len(self.d_output))
    }
}

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
    fn describe_layer(&self) -> String;
}
