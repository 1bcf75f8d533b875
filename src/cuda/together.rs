//! Choices of algorithms that depend on one another: by cuBLASLt a linear layer's forward product leaves signs for the way back,
//! and in fp16 an input gradient leaves a bias gradient to the weight gradient. What one of them saves may cost another more.

use anyhow::Result;

use super::Cuda;
use super::algorithm::{Site, fastest};
use crate::ops::Algorithm;

/// An input gradient that leaves a bias gradient to the layer's weight gradient, and the forward product whose signs it uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub input: Site,
    pub forward: Site,
}

impl Cuda {
    /// Microseconds that cuBLASLt would take more for an operator than what was chosen, where that is known and the choice
    /// was free.
    pub(super) fn toll_of_lt(&self, site: &Site) -> Option<f64> {
        let chosen = self.choices.chosen.get(site).copied().filter(|_| self.is_free(site))?;
        Some(self.known_time(site, Algorithm::CublasLt)? - self.known_time(site, chosen)?)
    }

    /// Whether an operator's choice was made together with the one on the way back that depends on it.
    pub(super) fn is_settled(&self, site: &Site) -> bool {
        self.choices.settled.contains(site)
    }

    /// Makes that choice: `by_lt` is what the way back has chosen.
    pub(super) fn settle(&mut self, site: Site, by_lt: bool) {
        self.choices.settled.insert(site);
        if by_lt {
            self.choices.chosen.insert(site, Algorithm::CublasLt);
        }
    }

    /// Makes the choice of a weight gradient, `with` the bias gradient that was left to it, together with the input gradient's:
    /// where the sum costs more here than leaving it saved there, the fastest of the others takes the input gradient. `plain`
    /// is the weight gradient alone, which `run` computes.
    pub(super) fn settle_sum(
        &mut self,
        left: Left,
        with: Site,
        plain: Site,
        run: &impl Fn(&mut Self, Algorithm) -> Result<()>,
    ) -> Result<()> {
        if !self.is_free(&left.input) || !self.is_free(&with) || !self.choices.settled.insert(with) {
            return Ok(());
        }
        let alone = self.choose(plain, 0.0, run)?;
        let sum = self.choices.chosen.get(&with).and_then(|&algorithm| self.known_time(&with, algorithm));
        let costs = sum.zip(self.known_time(&plain, alone)).map(|(sum, alone)| sum - alone);
        let input = self.by_lt_and_otherwise(&left.input);
        let saves = input.zip(self.by_lt_and_otherwise(&left.forward)).map(|((by_lt, (_, other)), forward)| {
            let toll = forward.0 - forward.1.1;
            other - by_lt - toll.max(0.0)
        });
        let (Some(costs), Some(saves), Some((_, (instead, _)))) = (costs, saves, input) else { return Ok(()) };
        if costs <= saves {
            self.choices.chosen.remove(&plain);
            return Ok(());
        }
        let forward = fastest(&self.choices.known.times(&self.site_name(&left.forward)), 0.0);
        self.choices.chosen.remove(&with);
        self.choices.chosen.extend([(left.input, instead), (left.forward, forward)]);
        // What takes its place may run for the first time in a recording.
        if [instead, forward, alone].contains(&Algorithm::Im2col) { self.blas.prepare() } else { Ok(()) }
    }

    /// Whether nothing but the times decides.
    fn is_free(&self, site: &Site) -> bool {
        self.choices.asked.is_none() && !self.choices.recorded.contains_key(&self.site_name(site))
    }

    fn known_time(&self, site: &Site, wanted: Algorithm) -> Option<f64> {
        let times = self.choices.known.times(&self.site_name(site));
        times.into_iter().find_map(|(algorithm, time)| (algorithm == wanted).then_some(time))
    }

    /// The time by cuBLASLt, and the fastest of the others with its time.
    fn by_lt_and_otherwise(&self, site: &Site) -> Option<(f64, (Algorithm, f64))> {
        let mut times = self.choices.known.times(&self.site_name(site));
        times.retain(|(algorithm, _)| *algorithm != Algorithm::CublasLt);
        let other = fastest(&times, 0.0);
        Some((self.known_time(site, Algorithm::CublasLt)?, (other, self.known_time(site, other)?)))
    }
}
