//! Parameters that training keeps fixed.

use anyhow::{Result, ensure};

use super::{Network, Node, NodeId, Operator};

/// What `--freeze` calls all layers but the heads.
pub const BACKBONE: &str = "backbone";

impl Network {
    /// The same network with fixed parameters: those of the layers and modules that `prefixes` names, separated by
    /// commas, or of all layers but the heads if it is [`BACKBONE`]. A prefix is a parameter's name, or the beginning of it
    /// before a dot. Fixed parameters come first in the flat parameter buffer.
    ///
    /// A batch normalisation whose parameters are fixed uses and keeps its running statistics in training.
    ///
    /// # Errors
    /// A prefix names nothing, or only one of the two parameters of a batch normalisation, or nothing is left to train.
    pub fn with_frozen(mut self, prefixes: &str) -> Result<Self> {
        self.frozen = vec![false; self.parameters.len()];
        for prefix in prefixes.split(',').map(|prefix| prefix.trim().trim_end_matches('.')) {
            let matched = if prefix == BACKBONE { self.backbone() } else { self.parameters_below(prefix) };
            ensure!(
                !matched.is_empty(),
                "{} has no layer or module {prefix:?}; there are {}, and {BACKBONE} for all but the last layer",
                self.name,
                self.modules()
            );
            matched.into_iter().for_each(|parameter| self.frozen[parameter] = true);
        }
        for node in self.nodes.iter().filter(|node| matches!(node.operator, Operator::BatchNorm2d(_))) {
            let fixed: Vec<bool> = node.weight.iter().chain(&node.bias).map(|&index| self.frozen[index]).collect();
            let is_half = fixed.contains(&true) && fixed.contains(&false);
            ensure!(!is_half, "the batch normalisation {0} can only be fixed as a whole: name {0}", node.name);
        }
        ensure!(self.frozen.contains(&false), "nothing is left to train in {}", self.name);
        self.arrange();
        Ok(self)
    }

    /// Lets training change all parameters again, apart from those that it never changes. The order of the flat
    /// buffer stays.
    pub fn unfreeze(&mut self) {
        self.frozen.clear();
    }

    /// Whether training leaves a parameter unchanged.
    pub fn is_frozen(&self, parameter: usize) -> bool {
        self.frozen.get(parameter) == Some(&true) || self.parameters[parameter].fixed
    }

    /// The number of frozen values, which are at the start of the flat parameter buffer.
    pub fn frozen_len(&self) -> usize {
        let parameters = self.parameters.iter().enumerate();
        parameters.filter(|(index, _)| self.is_frozen(*index)).map(|(_, parameter)| parameter.len()).sum()
    }

    /// Whether a node is a batch normalisation that uses and keeps its running statistics in training.
    pub fn is_frozen_norm(&self, node: &Node) -> bool {
        matches!(node.operator, Operator::BatchNorm2d(_)) && !self.trains(node)
    }

    /// Whether training changes a parameter of a node.
    pub fn trains(&self, node: &Node) -> bool {
        node.weight.iter().chain(&node.bias).any(|&parameter| !self.is_frozen(parameter))
    }

    /// The linear layers that compute the logits: that of the network, then those of auxiliary heads.
    pub fn heads(&self) -> Vec<NodeId> {
        let main = self.nodes.len() - 1;
        let logits = std::iter::once(main).chain(self.auxiliary.iter().map(|&(logits, _)| logits));
        logits.filter(|&logits| matches!(self.nodes[logits].operator, Operator::Linear(_))).collect()
    }

    /// The parameters of all layers but the heads.
    fn backbone(&self) -> Vec<usize> {
        let heads = self.heads();
        let of_head = |index: &usize| {
            heads.iter().any(|&head| self.nodes[head].weight == Some(*index) || self.nodes[head].bias == Some(*index))
        };
        (0..self.parameters.len()).filter(|index| !of_head(index)).collect()
    }

    fn parameters_below(&self, prefix: &str) -> Vec<usize> {
        let is_below =
            |name: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        (0..self.parameters.len()).filter(|&index| is_below(&self.parameters[index].name)).collect()
    }

    /// Places the parameters in the flat buffer: frozen ones first, then group by group, otherwise in order.
    pub(super) fn arrange(&mut self) {
        let places = self.group_places();
        let mut order: Vec<usize> = (0..self.parameters.len()).collect();
        // Those that are never trained stay first when the others are unfrozen.
        order.sort_by_key(|&index| (!self.parameters[index].fixed, !self.is_frozen(index), places[index]));
        let mut offset = 0;
        for index in order {
            self.parameters[index].offset = offset;
            offset += self.parameters[index].len();
        }
    }

    /// The names of the outermost modules, each with those in it, for messages.
    fn modules(&self) -> String {
        const SHOWN: usize = 6;
        let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
        for node in self.nodes.iter().filter(|node| node.weight.is_some()) {
            let mut parts = node.name.splitn(3, '.');
            let (outer, inner) = (parts.next().unwrap_or_default(), parts.next());
            let known = all.iter().position(|(name, _)| *name == outer);
            let at = known.unwrap_or_else(|| {
                all.push((outer, Vec::new()));
                all.len() - 1
            });
            if let Some(inner) = inner.filter(|inner| !all[at].1.contains(inner)) {
                all[at].1.push(inner);
            }
        }
        let shown = |(outer, inner): &(&str, Vec<&str>)| {
            let names = inner.iter().take(SHOWN).map(|inner| format!("{outer}.{inner}")).collect::<Vec<_>>().join(", ");
            match inner.len() {
                0 => (*outer).to_string(),
                1..=SHOWN => format!("{outer} ({names})"),
                _ => format!("{outer} ({names}, …)"),
            }
        };
        all.iter().map(shown).collect::<Vec<_>>().join(", ")
    }
}
