//! Who decides between equivalent launches: the trial of a step, what the tuner chose, or rules where there is no device.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::Tuner;
use crate::cuda::gemm::{Gemm, LtEpilogue};
use crate::cuda::lower::{Choose, Site};
use crate::cuda::program::Address;
use crate::cuda::run::Runner;
use crate::ops::Algorithm;

/// Whether cuBLASLt computes a product of these places: of their addresses only the alignment counts.
fn offers(runner: &Runner, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
    let aligned = |address: Address| Ok::<u64, std::convert::Infallible>(address.parts().map_or(0, |(_, at)| at | 256));
    let (Ok(gemm), Ok(epilogue)) = (gemm.resolved(&aligned), epilogue.resolved(&aligned));
    runner.blas.lt_offers(&gemm, &epilogue)
}

/// Chooses one algorithm, which must be a candidate, or the first; and notes what it is asked.
pub(super) struct Trial<'a> {
    pub runner: &'a Runner,
    pub algorithm: Option<Algorithm>,
    pub asked: Option<(String, Vec<Algorithm>)>,
}

impl Choose for Trial<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        self.asked = Some((site.to_string(), candidates.to_vec()));
        self.algorithm.unwrap_or(candidates[0])
    }

    fn offers(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        offers(self.runner, gemm, epilogue)
    }
}

/// Chooses as the tuner has, and notes what was asked for.
pub(in crate::cuda) struct Chosen<'a> {
    pub tuner: &'a mut Tuner,
    pub runner: &'a Runner,
}

impl Choose for Chosen<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        let name = site.to_string();
        let algorithm = match self.tuner.asked {
            Some(asked) => asked_or_instead(asked, candidates),
            None => {
                let chosen = self.tuner.chosen.get(&name).copied().filter(|it| candidates.contains(it));
                chosen.unwrap_or(candidates[0])
            }
        };
        self.tuner.chosen.insert(name, algorithm);
        algorithm
    }

    fn offers(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        matches!(self.tuner.asked, None | Some(Algorithm::CublasLt)) && offers(self.runner, gemm, epilogue)
    }
}

/// Chooses without a device: what is asked for or recorded, else the fewest launches.
pub(in crate::cuda) struct WithoutDevice<'a> {
    pub asked: Option<Algorithm>,
    pub recorded: &'a BTreeMap<String, Algorithm>,
}

impl Choose for WithoutDevice<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        let recorded = self.recorded.get(&site.to_string()).copied().filter(|it| candidates.contains(it));
        recorded.unwrap_or_else(|| match self.asked {
            Some(asked) => asked_or_instead(asked, candidates),
            None => in_one_launch(candidates).unwrap_or(candidates[0]),
        })
    }

    fn offers(&mut self, _gemm: &Gemm<Address>, _epilogue: &LtEpilogue<Address>) -> bool {
        self.asked == Some(Algorithm::CublasLt) || !self.recorded.is_empty()
    }
}

/// The algorithm asked for, or what takes its place where an operator does not have it: cuBLAS, but of convolutions with
/// cuBLASLt for linear layers, one launch.
fn asked_or_instead(asked: Algorithm, candidates: &[Algorithm]) -> Algorithm {
    match (asked, in_one_launch(candidates)) {
        _ if candidates.contains(&asked) => asked,
        (Algorithm::CublasLt, Some(algorithm)) => algorithm,
        _ => candidates[0],
    }
}

fn in_one_launch(candidates: &[Algorithm]) -> Option<Algorithm> {
    [Algorithm::Direct, Algorithm::Implicit].into_iter().find(|it| candidates.contains(it))
}

/// The algorithm of the least time; the first of equals.
///
/// # Errors
/// Where there is none: nothing may be chosen that was not a candidate.
pub(super) fn fastest(site: &str, times: &[(Algorithm, f64)]) -> Result<(Algorithm, f64)> {
    let least = times.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    least.with_context(|| format!("{site} has no algorithm"))
}

#[cfg(test)]
mod tests {
    use super::fastest;
    use crate::ops::Algorithm::{Direct, Implicit};

    #[test]
    fn the_first_of_the_fastest_is_chosen_and_none_of_none() {
        assert_eq!(fastest("site", &[(Implicit, 2.0), (Direct, 1.0)]).expect("one"), (Direct, 1.0));
        assert_eq!(fastest("site", &[(Implicit, 1.0), (Direct, 1.0)]).expect("one"), (Implicit, 1.0));
        assert!(fastest("site", &[]).is_err());
    }
}
