//! `googlenet`, as in torchvision: Szegedy et al., "Going Deeper with Convolutions" (2014), with batch normalisation,
//! and with 3×3 convolutions instead of the paper's 5×5.

use anyhow::Result;

use super::{IMAGENET, Model};
use crate::network::{Builder, Conv2dOptions, Initial, Network, NodeId, NormOptions};
use crate::shape::{Shape, Window};

pub const MODEL: Model = Model {
    name: "googlenet",
    about: "nine inception modules with batch normalisation, two auxiliary classifiers; 69.8% on ImageNet",
    input: IMAGENET,
    classes: 1000,
    build: |input, classes| narrowed("googlenet", input, classes, 1),
};

/// An inception module: its name, the output channels of its branches in torchvision's order (1×1; 1×1 and 3×3; 1×1 and
/// 3×3; pooling and 1×1), and what follows it.
type Inception = (&'static str, [usize; 6], After);

#[derive(Clone, Copy)]
enum After {
    Nothing,
    /// A max pooling with this kernel size, in ceil mode.
    Pool(usize),
    /// An auxiliary head, in addition to the next module.
    Auxiliary,
}

const MODULES: [Inception; 9] = [
    ("inception3a", [64, 96, 128, 16, 32, 32], After::Nothing),
    ("inception3b", [128, 128, 192, 32, 96, 64], After::Pool(3)),
    ("inception4a", [192, 96, 208, 16, 48, 64], After::Auxiliary),
    ("inception4b", [160, 112, 224, 24, 64, 64], After::Nothing),
    ("inception4c", [128, 128, 256, 24, 64, 64], After::Nothing),
    ("inception4d", [112, 144, 288, 32, 64, 64], After::Auxiliary),
    ("inception4e", [256, 160, 320, 32, 128, 128], After::Pool(2)),
    ("inception5a", [256, 160, 320, 32, 128, 128], After::Nothing),
    ("inception5b", [384, 192, 384, 48, 128, 128], After::Nothing),
];

/// The weight of each auxiliary head's loss.
const AUXILIARY_WEIGHT: f32 = 0.3;

/// GoogLeNet's structure with all channels and hidden features divided by `narrowing`.
pub fn narrowed(name: &str, input: Shape, classes: usize, narrowing: usize) -> Result<Network> {
    let mut net = Layers { net: Builder::new(name, input), narrowing };
    let mut x = net.conv("conv1", 0, 64, [7, 2, 3])?;
    x = net.pool(x, 3)?;
    x = net.conv("conv2", x, 64, [1, 1, 0])?;
    x = net.conv("conv3", x, 192, [3, 1, 1])?;
    x = net.pool(x, 3)?;
    let mut heads = Vec::new();
    for (name, channels, after) in MODULES {
        x = net.inception(name, x, channels)?;
        match after {
            After::Nothing => {}
            After::Pool(kernel) => x = net.pool(x, kernel)?,
            After::Auxiliary => heads.push(x),
        }
    }
    for (index, head) in heads.into_iter().enumerate() {
        net.auxiliary(&format!("aux{}", index + 1), head, classes)?;
    }
    x = net.net.global_avg_pool2d(x)?;
    x = net.net.flatten(x);
    x = net.net.dropout(x, 0.2)?;
    net.linear("fc", x, classes)?;
    net.net.finish()
}

/// The building blocks of torchvision's network. Initial weights are normal with standard deviation 0.01, which
/// torchvision truncates at 200 standard deviations; everything else has PyTorch's default.
struct Layers {
    net: Builder,
    narrowing: usize,
}

impl Layers {
    /// `BasicConv2d`: convolution, batch normalisation, ReLU.
    fn conv(
        &mut self,
        name: &str,
        x: NodeId,
        channels: usize,
        [kernel, stride, padding]: [usize; 3],
    ) -> Result<NodeId> {
        let out_channels = channels / self.narrowing;
        let options = Conv2dOptions { out_channels, kernel, stride, padding, bias: false, ..Default::default() };
        let x = self.net.conv2d(&format!("{name}.conv"), x, options)?;
        self.net.set_initial(x, Initial::Normal { deviation: 0.01 }, Initial::Constant(0.0));
        let x = self.net.batch_norm2d_with(
            &format!("{name}.bn"),
            x,
            NormOptions { epsilon: 1e-3, ..Default::default() },
        )?;
        self.net.relu(x)
    }

    /// Max pooling with stride 2 in ceil mode.
    fn pool(&mut self, x: NodeId, kernel: usize) -> Result<NodeId> {
        self.net.max_pool2d_ceil(x, Window { kernel, stride: 2, padding: 0 })
    }

    fn inception(&mut self, name: &str, x: NodeId, channels: [usize; 6]) -> Result<NodeId> {
        let [one, three_reduced, three, five_reduced, five, pooled] = channels;
        let first = self.conv(&format!("{name}.branch1"), x, one, [1, 1, 0])?;
        let reduced = self.conv(&format!("{name}.branch2.0"), x, three_reduced, [1, 1, 0])?;
        let second = self.conv(&format!("{name}.branch2.1"), reduced, three, [3, 1, 1])?;
        let reduced = self.conv(&format!("{name}.branch3.0"), x, five_reduced, [1, 1, 0])?;
        let third = self.conv(&format!("{name}.branch3.1"), reduced, five, [3, 1, 1])?;
        let around = self.net.max_pool2d_ceil(x, Window { kernel: 3, stride: 1, padding: 1 })?;
        let fourth = self.conv(&format!("{name}.branch4.1"), around, pooled, [1, 1, 0])?;
        self.net.concat(&[first, second, third, fourth])
    }

    fn auxiliary(&mut self, name: &str, x: NodeId, classes: usize) -> Result<()> {
        let mut x = self.net.adaptive_avg_pool2d(x, 4, 4)?;
        x = self.conv(&format!("{name}.conv"), x, 128, [1, 1, 0])?;
        x = self.net.flatten(x);
        x = self.linear(&format!("{name}.fc1"), x, 1024 / self.narrowing)?;
        x = self.net.relu(x)?;
        x = self.net.dropout(x, 0.7)?;
        x = self.linear(&format!("{name}.fc2"), x, classes)?;
        self.net.auxiliary(x, AUXILIARY_WEIGHT);
        Ok(())
    }

    fn linear(&mut self, name: &str, x: NodeId, features: usize) -> Result<NodeId> {
        let fan_in = self.net.shape(x).len();
        let node = self.net.linear(name, x, features)?;
        self.net.set_initial(node, Initial::Normal { deviation: 0.01 }, Initial::Uniform { fan_in });
        Ok(node)
    }
}
