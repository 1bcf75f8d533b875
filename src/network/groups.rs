//! Parameter groups: which parameters share a learning rate and weight decay. A group is contiguous in memory.

use anyhow::{Context, Result};

use super::{Network, Operator};
use crate::ops::{Group, Groups};

/// How the optimiser treats parameters differently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupRules {
    /// Whether weight decay applies to biases, and to the scale and shift of batch normalisations.
    pub decay_norm_bias: bool,
    /// Factor of the learning rate of the head: the weight and bias of the last linear layer.
    pub head_rate_scale: f32,
    /// Factor of the learning rate of biases, including the shift of batch normalisations.
    pub bias_rate_scale: f32,
    /// Whether the factors of the learning rate are the inverse ones of weight decay, so that the weights of all groups
    /// shrink equally fast.
    pub unscaled_decay: bool,
    pub muon: Option<MuonGroups>,
}

/// The groups of Muon, which updates the weights of hidden convolutions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MuonGroups {
    /// The factor of the learning rate of all other parameters.
    pub sgd_rate_scale: f32,
    /// Whether weight decay applies to the weights that Muon updates.
    pub decays: bool,
}

impl Default for GroupRules {
    /// One group.
    fn default() -> Self {
        Self { decay_norm_bias: true, head_rate_scale: 1.0, bias_rate_scale: 1.0, unscaled_decay: false, muon: None }
    }
}

impl Network {
    /// The same network with these groups, each of which becomes contiguous in memory. Frozen parameters stay first;
    /// within a group, the order does not change.
    ///
    /// # Errors
    /// The head has a factor, but the logits are not those of a linear layer.
    pub fn with_groups(mut self, rules: GroupRules) -> Result<Self> {
        if rules.head_rate_scale != 1.0 {
            self.head().with_context(|| {
                format!("{} has no linear layer that computes its logits, which would be its head", self.name)
            })?;
        }
        self.group_rules = rules;
        self.arrange();
        Ok(self)
    }

    /// For each parameter, the place of its group among all, in the order in which they occur.
    pub(super) fn group_places(&self) -> Vec<usize> {
        let mut distinct = vec![Group::plain(0)];
        let place = |group: Group| {
            distinct.iter().position(|known| *known == group).unwrap_or_else(|| {
                distinct.push(group);
                distinct.len() - 1
            })
        };
        self.group_of_each().into_iter().map(place).collect()
    }

    /// The name of the layer that [`GroupRules::head_rate_scale`] applies to; `None` without a linear layer.
    pub fn head(&self) -> Option<&str> {
        let logits = self.nodes.len() - 1;
        self.heads().contains(&logits).then(|| self.nodes[logits].name.as_str())
    }

    /// The groups of the flat parameters, in the order of memory.
    ///
    /// # Errors
    /// There are more groups than an update can have.
    pub fn groups(&self) -> Result<Groups> {
        let unfrozen = self.group_of_each();
        let mut order: Vec<usize> = (0..self.parameters.len()).collect();
        order.sort_by_key(|&index| self.parameters[index].offset);
        let mut groups: Vec<Group> = Vec::new();
        for index in order {
            let end = self.parameters[index].range().end;
            let group = if self.is_frozen(index) { Group::frozen(end) } else { Group { end, ..unfrozen[index] } };
            match groups.last_mut() {
                Some(last) if Group { end, ..*last } == group => last.end = end,
                _ => groups.push(group),
            }
        }
        Groups::new(&groups)
    }

    /// The parameters that Muon updates: weights of hidden convolutions that are not frozen, as matrices with a row per
    /// output channel. The order of columns, in which memory and files differ, does not affect the orthogonalisation.
    pub fn matrices(&self) -> Vec<usize> {
        let groups = self.group_of_each();
        (0..groups.len()).filter(|&index| groups[index].is_matrix && !self.is_frozen(index)).collect()
    }

    /// The group of each parameter, without its end, as if nothing were frozen.
    fn group_of_each(&self) -> Vec<Group> {
        let (rules, head) = (self.group_rules, self.head());
        let mut groups = vec![Group::plain(0); self.parameters.len()];
        for node in &self.nodes {
            let is_norm = matches!(node.operator, Operator::BatchNorm2d(_));
            let head_scale = if Some(node.name.as_str()) == head { rules.head_rate_scale } else { 1.0 };
            for (parameter, is_bias) in [(node.weight, false), (node.bias, true)] {
                let Some(index) = parameter else { continue };
                let bias_scale = if is_bias { rules.bias_rate_scale } else { 1.0 };
                // The first convolution is not hidden.
                let is_hidden = matches!(node.operator, Operator::Conv2d(_)) && !node.inputs.contains(&0);
                let is_matrix = rules.muon.is_some() && is_hidden && !is_bias;
                let sgd_scale = rules.muon.filter(|_| !is_matrix).map_or(1.0, |muon| muon.sgd_rate_scale);
                let is_exempt = !rules.decay_norm_bias && (is_norm || is_bias)
                    || is_matrix && rules.muon.is_some_and(|muon| !muon.decays);
                let decay_scale = match rules.unscaled_decay {
                    _ if is_exempt => 0.0,
                    true => 1.0 / (head_scale * bias_scale),
                    false => 1.0,
                };
                let rate_scale = head_scale * bias_scale * sgd_scale;
                groups[index] = Group { rate_scale, decay_scale, is_matrix, ..groups[index] };
            }
        }
        groups
    }
}
