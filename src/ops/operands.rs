//! What every operator can say of itself: what it reads and writes, and what it does at the least.

use anyhow::Result;

use super::span::Span;
use crate::shape::{Shape, Window};

/// The buffers of an operator. `B` names a buffer: a [`Span`], or in a plan a value's number.
pub trait Buffers<B: Copy> {
    fn reads(&self) -> Vec<B>;

    /// In place is both read and written.
    fn writes(&self) -> Vec<B>;
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

/// Gives an operator's struct `map` and [`Buffers`]. Its fields are plain values, buffers, optional buffers, and optional parts
/// that have buffers themselves; `reads` and `writes` list buffers, then optional ones.
macro_rules! operands {
    ($name:ident {
        values: $($value:ident),*; buffers: $($buffer:ident),*; optional: $($optional:ident),*; parts: $($part:ident),*;
        reads: $($read:ident),* + $($may_read:ident),*; writes: $($write:ident),* + $($may_write:ident),*
    }) => {
        $crate::ops::operands::mapped!($name {
            values: $($value),*; buffers: $($buffer),*; optional: $($optional),*; parts: $($part),*
        });

        impl<B: Copy> $crate::ops::operands::Buffers<B> for $name<B> {
            fn reads(&self) -> Vec<B> {
                let optional: Vec<Option<B>> = vec![$(self.$may_read),*];
                #[allow(unused_mut)]
                let mut all: Vec<B> = [$(self.$read),*].into_iter().chain(optional.into_iter().flatten()).collect();
                $(all.extend(self.$part.iter().flat_map(|part| part.reads()));)*
                all
            }

            fn writes(&self) -> Vec<B> {
                let optional: Vec<Option<B>> = vec![$(self.$may_write),*];
                #[allow(unused_mut)]
                let mut all: Vec<B> = [$(self.$write),*].into_iter().chain(optional.into_iter().flatten()).collect();
                $(all.extend(self.$part.iter().flat_map(|part| part.writes()));)*
                all
            }
        }
    };
}

/// Gives a struct `map`: the same with its buffers named differently.
macro_rules! mapped {
    ($name:ident {
        values: $($value:ident),*; buffers: $($buffer:ident),*; optional: $($optional:ident),*; parts: $($part:ident),*
    }) => {
        impl<B> $name<B> {
            /// The same with the buffers named differently.
            pub fn map<C>(self, f: &mut impl FnMut(B) -> C) -> $name<C> {
                $name {
                    $($value: self.$value,)*
                    $($buffer: f(self.$buffer),)*
                    $($optional: self.$optional.map(&mut *f),)*
                    $($part: self.$part.map(|part| part.map(f)),)*
                }
            }
        }
    };
}
pub(super) use {mapped, operands};

/// An operator without parameters of the network, from one buffer to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forward<O, B = Span> {
    pub op: O,
    pub input: B,
    pub output: B,
}

/// Its gradient, which needs nothing else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backward<O, B = Span> {
    pub op: O,
    pub d_output: B,
    pub d_input: B,
}

/// What is to be said of such an operator.
pub trait Unary {
    fn describe(&self) -> String;

    /// Floating-point operations in one direction, for so many elements before and behind it.
    fn flops(&self, inputs: usize, outputs: usize) -> usize;

    /// Elements that it reads and writes.
    fn elements(&self, inputs: usize, outputs: usize) -> usize {
        inputs + outputs
    }
}

/// An operator with one input and no parameters as a network sees it: its shape rule, its words, and its two directions.
pub trait Layer: Copy {
    type Forward<B>;
    type Backward<B>;

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

    fn forward<B>(self, input: B, output: B) -> Self::Forward<B>;

    fn backward<B>(self, values: LayerValues<B>) -> Self::Backward<B>;
}

/// What a gradient may use.
#[derive(Clone, Copy, Debug)]
pub struct LayerValues<B> {
    pub input: B,
    pub output: B,
    pub d_output: B,
    pub d_input: B,
}

impl<O, B> Forward<O, B> {
    pub fn map<C>(self, f: &mut impl FnMut(B) -> C) -> Forward<O, C> {
        Forward { op: self.op, input: f(self.input), output: f(self.output) }
    }
}

impl<O, B> Backward<O, B> {
    pub fn map<C>(self, f: &mut impl FnMut(B) -> C) -> Backward<O, C> {
        Backward { op: self.op, d_output: f(self.d_output), d_input: f(self.d_input) }
    }
}

impl<O, B: Copy> Buffers<B> for Forward<O, B> {
    fn reads(&self) -> Vec<B> {
        vec![self.input]
    }

    fn writes(&self) -> Vec<B> {
        vec![self.output]
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

impl<O, B: Copy> Buffers<B> for Backward<O, B> {
    fn reads(&self) -> Vec<B> {
        vec![self.d_output]
    }

    fn writes(&self) -> Vec<B> {
        vec![self.d_input]
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
