//! Averages the logits of views on the CPU.

use anyhow::{Result, ensure};

use super::{Cpu, Real, RunAs};
use crate::ops::AddView;

impl RunAs for AddView {
    fn run_as<R: Real>(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { weight, logits, before, average } = self;
        ensure!(before.is_none_or(|before| before == average), "views are added in place");
        let [logits, sums] = cpu.memory.values::<R, _>([logits, average])?;
        for (sum, logit) in sums.iter_mut().zip(&*logits) {
            let (logit, before) = (logit.get(), before.map(|_| sum.get()));
            *sum = R::new(before.map_or(weight * logit, |sum| weight.mul_add(logit, sum)));
        }
        Ok(())
    }
}
