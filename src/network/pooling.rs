//! The builder's pooling methods.

use anyhow::Result;

use super::{Builder, NodeId, Operator};
use crate::ops::{AdaptiveAvgPool2d, AnyLayer, AvgPool2d, MaxPool2d};
use crate::shape::Window;

impl Builder {
    pub fn max_pool2d(&mut self, input: NodeId, window: Window) -> Result<NodeId> {
        self.max_pool(MaxPool2d { input: self.shape(input), window, ceil_mode: false }, input)
    }

    /// Max pooling with PyTorch's `ceil_mode=True`: the last window may extend beyond the input.
    pub fn max_pool2d_ceil(&mut self, input: NodeId, window: Window) -> Result<NodeId> {
        self.max_pool(MaxPool2d { input: self.shape(input), window, ceil_mode: true }, input)
    }

    fn max_pool(&mut self, pool: MaxPool2d, input: NodeId) -> Result<NodeId> {
        let shape = pool.output()?;
        Ok(self.node("maxpool", Operator::MaxPool2d(pool), vec![input], shape, None, None))
    }

    pub fn avg_pool2d(&mut self, input: NodeId, window: Window) -> Result<NodeId> {
        self.layer(input, AnyLayer::AvgPool2d(AvgPool2d { input: self.shape(input), window, ceil_mode: false }))
    }

    /// Average pooling to `height × width`. Adds no node if the input already has that size.
    pub fn adaptive_avg_pool2d(&mut self, input: NodeId, height: usize, width: usize) -> Result<NodeId> {
        let shape = self.shape(input);
        if (height, width) == (shape.height, shape.width) {
            return Ok(input);
        }
        self.layer(input, AnyLayer::AdaptiveAvgPool2d(AdaptiveAvgPool2d { input: shape, height, width }))
    }

    /// The mean of each channel.
    pub fn global_avg_pool2d(&mut self, input: NodeId) -> Result<NodeId> {
        self.adaptive_avg_pool2d(input, 1, 1)
    }
}
