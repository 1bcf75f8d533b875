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
fn lt_supports(runner: &Runner, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
    let aligned = |address: Address| Ok::<u64, std::convert::Infallible>(address.parts().map_or(0, |(_, at)| at | 256));
    let (Ok(gemm), Ok(epilogue)) = (gemm.resolved(&aligned), epilogue.resolved(&aligned));
    runner.blas.lt_supports(&gemm, &epilogue)
}

/// Chooses one algorithm, which must be a candidate, or the first; and notes what it is requested.
pub(super) struct Trial<'a> {
    pub runner: &'a Runner,
    pub algorithm: Option<Algorithm>,
    pub query: Option<(String, Vec<Algorithm>)>,
}

impl Choose for Trial<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        self.query = Some((site.to_string(), candidates.to_vec()));
        self.algorithm.unwrap_or(candidates[0])
    }

    fn lt_supports(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        lt_supports(self.runner, gemm, epilogue)
    }
}

/// Chooses as the tuner has, and notes what was requested for.
pub(in crate::cuda) struct TunerChoice<'a> {
    pub tuner: &'a mut Tuner,
    pub runner: &'a Runner,
}

impl Choose for TunerChoice<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        let name = site.to_string();
        let algorithm = match self.tuner.requested {
            Some(requested) => requested_or_fallback(requested, candidates),
            None => {
                let chosen = self.tuner.chosen.get(&name).copied().filter(|it| candidates.contains(it));
                chosen.unwrap_or(candidates[0])
            }
        };
        self.tuner.chosen.insert(name, algorithm);
        algorithm
    }

    fn lt_supports(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        matches!(self.tuner.requested, None | Some(Algorithm::CublasLt)) && lt_supports(self.runner, gemm, epilogue)
    }
}

/// Chooses without a device: what is requested for or recorded, else the fewest launches.
pub(in crate::cuda) struct DevicelessChoice<'a> {
    pub requested: Option<Algorithm>,
    pub recorded: &'a BTreeMap<String, Algorithm>,
}

impl Choose for DevicelessChoice<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        let recorded = self.recorded.get(&site.to_string()).copied().filter(|it| candidates.contains(it));
        recorded.unwrap_or_else(|| match self.requested {
            Some(requested) => requested_or_fallback(requested, candidates),
            None => single_launch(candidates).unwrap_or(candidates[0]),
        })
    }

    fn lt_supports(&mut self, _gemm: &Gemm<Address>, _epilogue: &LtEpilogue<Address>) -> bool {
        self.requested == Some(Algorithm::CublasLt) || !self.recorded.is_empty()
    }
}

/// The algorithm requested for, or what takes its place where an operator does not have it: cuBLAS, but of convolutions with
/// cuBLASLt for linear layers, one launch.
fn requested_or_fallback(requested: Algorithm, candidates: &[Algorithm]) -> Algorithm {
    match (requested, single_launch(candidates)) {
        _ if candidates.contains(&requested) => requested,
        (Algorithm::CublasLt, Some(algorithm)) => algorithm,
        _ => candidates[0],
    }
}

fn single_launch(candidates: &[Algorithm]) -> Option<Algorithm> {
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
