//! Unfreezing: from a given epoch on, training changes all parameters.

use anyhow::{Result, ensure};

use super::programs::Programs;
use super::{Hyperparameters, Trainer};
use crate::network::Network;
use crate::ops::Backend;
use crate::plan::{Mode, Plan};

/// The network without frozen parameters, and how to train it, until it replaces the frozen one. The order of the flat
/// buffers is the same, so everything else stays.
pub(super) struct Unfrozen<B: Backend> {
    pub network: Network,
    pub plan: Plan,
    programs: Programs<B>,
}

impl<B: Backend> Unfrozen<B> {
    /// `None` if the run never unfreezes its network.
    pub fn new(network: &Network, hyper: &Hyperparameters, max_batch: usize) -> Result<Option<Self>> {
        if hyper.unfreeze_at.is_none() {
            return Ok(None);
        }
        let mut network = network.clone();
        network.unfreeze();
        let plan = Plan::new(&network, Mode::Training, max_batch)?.with_mixing(hyper.mixing.is_on());
        Ok(Some(Self { network, plan, programs: Programs::default() }))
    }
}

impl<B: Backend> Trainer<B> {
    /// Compiles the training steps of the frozen and of the unfrozen network for all batch sizes that occur.
    pub(super) fn compile_training(&mut self) -> Result<()> {
        let sequences = self.training_sequences();
        let unfrozen = self.unfrozen.as_mut().map(|it| (&it.plan, &mut it.programs));
        for (plan, programs) in [Some((&self.plan, &mut self.programs)), unfrozen].into_iter().flatten() {
            for &(sequence, batch) in &sequences {
                programs.get(&mut self.backend, plan, sequence, batch)?;
            }
        }
        Ok(())
    }

    /// Unfreezes the network if the current epoch is the one from which on nothing is frozen. Returns whether it did.
    pub(super) fn unfreeze_if_due(&mut self) -> bool {
        let is_due = self.is_unfrozen_epoch(self.position.epoch);
        let Some(Unfrozen { network, plan, programs }) = self.unfrozen.take_if(|_| is_due) else { return false };
        for index in frozen_statistics(&self.network) {
            // From now on, it counts the steps.
            self.tracked_before[index] = self.tracked_before[index].wrapping_sub(self.batches_done() as i64);
        }
        (self.network, self.plan) = (network, plan);
        self.programs.replace_training(programs);
        true
    }

    /// Fails if the network was unfrozen, but not at this epoch, counted from 0.
    pub(super) fn check_frozen_at(&self, epoch: u32) -> Result<()> {
        let is_late = self.hyper.unfreeze_at.is_some() && self.unfrozen.is_none() && !self.is_unfrozen_epoch(epoch);
        ensure!(!is_late, "the state is of an earlier epoch, in which a part of the network was frozen");
        Ok(())
    }

    /// Whether nothing is frozen in an epoch, counted from 0.
    fn is_unfrozen_epoch(&self, epoch: u32) -> bool {
        self.hyper.unfreeze_at.is_some_and(|first| epoch + 1 >= first)
    }

    /// For each batch normalisation, whether a step counts as one of its `num_batches_tracked`.
    pub(super) fn tracking(&self) -> Vec<bool> {
        let mut tracking = vec![true; self.network.statistics.len()];
        frozen_statistics(&self.network).into_iter().for_each(|index| tracking[index] = false);
        tracking
    }
}

/// The running statistics that training keeps.
fn frozen_statistics(network: &Network) -> Vec<usize> {
    network.nodes.iter().filter(|node| network.is_frozen_norm(node)).filter_map(|node| node.statistics).collect()
}
