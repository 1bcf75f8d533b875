//! Averages the logits of views.

use anyhow::Result;

use super::Lowering;
use super::params::params;
use crate::ops::{AddView, RunOn};

impl RunOn<Lowering<'_>> for AddView {
    fn run_on(&self, lowering: &mut Lowering) -> Result<()> {
        let Self { weight, logits, before, average } = *self;
        let params = params!(
            lowering.target, 40 bytes, [logits, before, average], count: u64 = average.len, weight: f32,
        );
        lowering.launch_over("add_view", average.len.div_ceil(lowering.vector()), params)
    }
}
