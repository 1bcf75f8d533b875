//! Averages the logits of views on the CPU.

use anyhow::{Result, ensure};

use super::Cpu;
use crate::ops::{AddView, RunOn};

impl RunOn<Cpu> for AddView {
    fn run_on(&self, cpu: &mut Cpu) -> Result<()> {
        let &Self { weight, logits, before, average } = self;
        ensure!(before.is_none_or(|before| before == average), "views are added in place");
        let [logits, sums] = cpu.memory.floats([logits, average])?;
        for (sum, logit) in sums.iter_mut().zip(&*logits) {
            *sum = if before.is_some() { weight.mul_add(*logit, *sum) } else { weight * logit };
        }
        Ok(())
    }
}
