//! Implementations of [`Choose`]: a trial of one candidate, the tuner's choices, and fixed rules without a device.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::Tuner;
use crate::cuda::gemm::{Gemm, LtEpilogue};
use crate::cuda::lower::{Choose, Site};
use crate::cuda::program::Address;
use crate::cuda::run::Runner;
use crate::ops::Algorithm;

/// Whether cuBLASLt supports a product with symbolic addresses, of which only the alignment matters.
fn lt_supports(runner: &Runner, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
    let aligned = |address: Address| Ok::<u64, std::convert::Infallible>(address.parts().map_or(0, |(_, at)| at | 256));
    let (Ok(gemm), Ok(epilogue)) = (gemm.resolved(&aligned), epilogue.resolved(&aligned));
    runner.blas.lt_supports(&gemm, &epilogue)
}

/// Chooses `algorithm`, which must be a candidate, or else the first candidate, and records the site and its
/// candidates.
pub(super) struct Trial<'a> {
    pub runner: &'a Runner,
    pub algorithm: Option<Algorithm>,
    /// Site and candidates of the choice, if there was one.
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

/// Applies the tuner's choices, and records the choice of every site in the tuner.
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

/// Chooses without a device: the requested algorithm, else the recorded one, else one that takes a single launch.
pub(in crate::cuda) struct DevicelessChoice<'a> {
    pub requested: Option<Algorithm>,
    pub recorded: &'a BTreeMap<String, Algorithm>,
}

impl Choose for DevicelessChoice<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Algorithm]) -> Algorithm {
        if let Some(requested) = self.requested {
            return requested_or_fallback(requested, candidates);
        }
        let recorded = self.recorded.get(&site.to_string()).copied().filter(|it| candidates.contains(it));
        recorded.or_else(|| single_launch(candidates)).unwrap_or(candidates[0])
    }

    fn lt_supports(&mut self, _gemm: &Gemm<Address>, _epilogue: &LtEpilogue<Address>) -> bool {
        self.requested.map_or(!self.recorded.is_empty(), |requested| requested == Algorithm::CublasLt)
    }
}

/// The requested algorithm, or a fallback if it is not a candidate: cuBLAS, except that a request for cuBLASLt, which
/// does not compute convolutions, falls back to an algorithm with a single launch.
fn requested_or_fallback(requested: Algorithm, candidates: &[Algorithm]) -> Algorithm {
    match (requested, single_launch(candidates)) {
        _ if candidates.contains(&requested) => requested,
        (Algorithm::CublasLt, Some(algorithm)) => algorithm,
        _ => candidates[0],
    }
}

/// The first candidate that takes a single launch.
fn single_launch(candidates: &[Algorithm]) -> Option<Algorithm> {
    [Algorithm::Direct, Algorithm::Implicit].into_iter().find(|it| candidates.contains(it))
}

/// The fastest algorithm and its time; the first if several are equally fast.
///
/// # Errors
/// If `times` is empty.
pub(super) fn fastest(site: &str, times: &[(Algorithm, f64)]) -> Result<(Algorithm, f64)> {
    let least = times.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    least.with_context(|| format!("{site}: no algorithm is available"))
}

#[cfg(test)]
mod tests {
    use super::fastest;
    use crate::ops::Algorithm::{Direct, Implicit};

    #[test]
    fn fastest_is_the_first_of_equals_and_an_error_if_there_are_none() {
        assert_eq!(fastest("site", &[(Implicit, 2.0), (Direct, 1.0)]).expect("one"), (Direct, 1.0));
        assert_eq!(fastest("site", &[(Implicit, 1.0), (Direct, 1.0)]).expect("one"), (Implicit, 1.0));
        assert!(fastest("site", &[]).is_err());
    }
}
