//! The builder's poolings.

use anyhow::{Result, ensure};

use super::{Builder, NodeId, Operator};
use crate::ops::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use crate::shape::Window;

impl Builder {
    pub fn max_pool2d(&mut self, input: NodeId, window: Window) -> Result<NodeId> {
        self.max_pool(MaxPool2d { input: self.shape(input), window, ceil_mode: false }, input)
    }

    /// Max pooling whose last window may reach beyond the input (PyTorch's `ceil_mode=True`).
    pub fn max_pool2d_ceil(&mut self, input: NodeId, window: Window) -> Result<NodeId> {
        self.max_pool(MaxPool2d { input: self.shape(input), window, ceil_mode: true }, input)
    }

    fn max_pool(&mut self, pool: MaxPool2d, input: NodeId) -> Result<NodeId> {
        let shape = pool.output()?;
        Ok(self.node("maxpool", Operator::MaxPool2d(pool), vec![input], shape, None, None))
    }

    pub fn avg_pool2d(&mut self, input: NodeId, window: Window) -> Result<NodeId> {
        let pool = AvgPool2d { input: self.shape(input), window, ceil_mode: false };
        let shape = pool.output()?;
        Ok(self.node("avgpool", Operator::AvgPool2d(pool), vec![input], shape, None, None))
    }

    /// Average pooling to `height × width`, whatever the input's; nothing where that is the input's already.
    pub fn adaptive_avg_pool2d(&mut self, input: NodeId, height: usize, width: usize) -> Result<NodeId> {
        let pool = AdaptiveAvgPool2d { input: self.shape(input), height, width };
        ensure!(height > 0 && width > 0, "adaptive pooling needs an output of at least one pixel");
        if pool.output() == pool.input {
            return Ok(input);
        }
        Ok(self.node("avgpool", Operator::AdaptiveAvgPool2d(pool), vec![input], pool.output(), None, None))
    }

    /// The mean of every channel.
    pub fn global_avg_pool2d(&mut self, input: NodeId) -> Result<NodeId> {
        self.adaptive_avg_pool2d(input, 1, 1)
    }
}
