//! The flags of commands that take a network without data: what differs from how its table has it.

use anyhow::Result;
use clap::Args;

use super::variation::ActivationArgs;
use super::{build_network, flags};
use crate::models::Model;
use crate::network::Network;

/// In place of what a network was made for.
#[derive(Args, Clone, Default)]
pub struct NetworkArgs {
    #[command(flatten)]
    activation: ActivationArgs,
    /// Probability of every dropout of the network, 0 for none [default: the network's own]
    #[arg(long, value_name = "P", value_parser = flags::part, allow_negative_numbers = true)]
    dropout: Option<f32>,
    /// Outputs of the network [default: its usual ones]
    #[arg(long, value_name = "N", value_parser = flags::classes, allow_negative_numbers = true)]
    classes: Option<usize>,
    /// 1 for gray, 3 for colours [default: the network's usual input]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3), allow_negative_numbers = true)]
    channels: Option<u8>,
    /// Side, or HEIGHTxWIDTH, of the network's input, likewise
    #[arg(long, value_name = "N", value_parser = flags::image_size)]
    image_size: Option<(usize, usize)>,
}

impl NetworkArgs {
    /// The network of that model, as the flags have it.
    pub fn build(&self, model: &Model) -> Result<Network> {
        let mut input = model.input;
        (input.height, input.width) = self.image_size.unwrap_or((input.height, input.width));
        input.channels = self.channels.map_or(input.channels, usize::from);
        let network = build_network(model, input, self.classes.unwrap_or(model.classes))?;
        let network = self.activation.apply(network, None);
        Ok(match self.dropout {
            Some(probability) => network.with_dropout(probability),
            None => network,
        })
    }

    /// One of its flags that is given.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            ("--activation", self.activation.activation.is_some()),
            ("--dropout", self.dropout.is_some()),
            ("--classes", self.classes.is_some()),
            ("--channels", self.channels.is_some()),
            ("--image-size", self.image_size.is_some()),
        ];
        all.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }
}
