//! Implementations of [`Choose`]: a trial of one candidate, the tuner's choices, and fixed rules without a device.

use anyhow::{Context, Result};

use super::Tuner;
use crate::cuda::convolution::Problem;
use crate::cuda::gemm::{Gemm, LtEpilogue};
use crate::cuda::lower::{Choose, Site};
use crate::cuda::program::Address;
use crate::cuda::run::Runner;
use crate::ops::{Algorithm, Candidate};

/// Whether cuBLASLt supports a product with symbolic addresses, of which only the alignment matters.
fn lt_supports(runner: &Runner, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
    let aligned = |address: Address| Ok::<u64, std::convert::Infallible>(address.parts().map_or(0, |(_, at)| at | 256));
    let (Ok(gemm), Ok(epilogue)) = (gemm.resolved(&aligned), epilogue.resolved(&aligned));
    runner.blas.lt_supports(&gemm, &epilogue)
}

/// Chooses `candidate`, which must apply, or else the first candidate, and records the site and its candidates.
pub(super) struct Trial<'a> {
    pub runner: &'a Runner,
    pub candidate: Option<Candidate>,
    /// Site and candidates of the choice, if there was one.
    pub query: Option<(String, Vec<Candidate>)>,
}

impl Choose for Trial<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Candidate]) -> Candidate {
        self.query = Some((site.to_string(), candidates.to_vec()));
        self.candidate.unwrap_or(candidates[0])
    }

    fn lt_supports(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        lt_supports(self.runner, gemm, epilogue)
    }

    /// The trial finds out whether it works.
    fn cudnn_applies(&mut self, _problem: &Problem) -> bool {
        self.runner.cudnn.version().is_some()
    }
}

/// Applies the tuner's choices, and records the choice of every site in the tuner.
pub(in crate::cuda) struct TunerChoice<'a> {
    pub tuner: &'a mut Tuner,
    pub runner: &'a Runner,
}

impl Choose for TunerChoice<'_> {
    fn choose(&mut self, site: &Site, candidates: &[Candidate]) -> Candidate {
        let name = site.to_string();
        let candidate = match self.tuner.requested {
            Some(requested) => requested_or_fallback(requested, candidates),
            None => {
                let chosen = self.tuner.chosen.get(&name).copied().filter(|it| candidates.contains(it));
                let candidate = chosen.unwrap_or(candidates[0]);
                self.tuner.warn_if_not_recorded(&name, candidate, candidates);
                candidate
            }
        };
        self.tuner.chosen.insert(name, candidate);
        candidate
    }

    fn lt_supports(&mut self, gemm: &Gemm<Address>, epilogue: &LtEpilogue<Address>) -> bool {
        let requested = self.tuner.requested.map(|candidate| candidate.algorithm);
        matches!(requested, None | Some(Algorithm::CublasLt)) && lt_supports(self.runner, gemm, epilogue)
    }

    /// If the fastest is chosen, the tuner has tried it.
    fn cudnn_applies(&mut self, problem: &Problem) -> bool {
        match self.tuner.requested.map(|candidate| candidate.algorithm) {
            None => self.runner.cudnn.version().is_some(),
            Some(algorithm) => algorithm == Algorithm::Cudnn && self.runner.cudnn.supports(problem),
        }
    }
}

/// Chooses without a device: the requested candidate, else one that takes a single launch.
pub(in crate::cuda) struct DevicelessChoice {
    pub requested: Option<Candidate>,
}

impl Choose for DevicelessChoice {
    fn choose(&mut self, _site: &Site, candidates: &[Candidate]) -> Candidate {
        match self.requested {
            Some(requested) => requested_or_fallback(requested, candidates),
            None => single_launch(candidates).unwrap_or(candidates[0]),
        }
    }

    fn lt_supports(&mut self, _gemm: &Gemm<Address>, _epilogue: &LtEpilogue<Address>) -> bool {
        self.requested.is_some_and(|requested| requested.algorithm == Algorithm::CublasLt)
    }

    fn cudnn_applies(&mut self, _problem: &Problem) -> bool {
        self.requested.is_some_and(|requested| requested.algorithm == Algorithm::Cudnn)
    }
}

/// The candidate that a file names. Files of earlier versions name an algorithm without its tile.
pub(super) fn recorded_candidate(name: &str, candidates: &[Candidate]) -> Option<Candidate> {
    let exact = candidates.iter().copied().find(|candidate| candidate.to_string() == name);
    exact.or_else(|| first_of(Algorithm::from_name(name)?, candidates))
}

/// The requested candidate, or the first of its algorithm, or a fallback if there is none: cuBLAS, except that a
/// request for cuBLASLt, which does not compute convolutions, falls back to an algorithm with a single launch.
fn requested_or_fallback(requested: Candidate, candidates: &[Candidate]) -> Candidate {
    if candidates.contains(&requested) {
        return requested;
    }
    let fallback = || single_launch(candidates).filter(|_| requested.algorithm == Algorithm::CublasLt);
    first_of(requested.algorithm, candidates).or_else(fallback).unwrap_or(candidates[0])
}

/// The first candidate that takes a single launch.
fn single_launch(candidates: &[Candidate]) -> Option<Candidate> {
    [Algorithm::Direct, Algorithm::Implicit].into_iter().find_map(|algorithm| first_of(algorithm, candidates))
}

/// The first candidate of an algorithm.
fn first_of(algorithm: Algorithm, candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().find(|candidate| candidate.algorithm == algorithm)
}

/// The fastest candidate and its time; the first if several are equally fast.
///
/// # Errors
/// If `times` is empty.
pub(super) fn fastest(site: &str, times: &[(Candidate, f64)]) -> Result<(Candidate, f64)> {
    let least = times.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    least.with_context(|| format!("{site}: no algorithm is available"))
}

#[cfg(test)]
mod tests {
    use super::{fastest, recorded_candidate, requested_or_fallback};
    use crate::ops::Algorithm::{CublasLt, Direct, Gemm, Implicit};
    use crate::ops::Candidate;

    const TALL: Candidate = Candidate { algorithm: Implicit, tile: Some("128x32") };
    const WIDE: Candidate = Candidate { algorithm: Implicit, tile: Some("32x128") };

    #[test]
    fn fastest_is_the_first_of_equals_and_an_error_if_there_are_none() {
        assert_eq!(fastest("site", &[(TALL, 2.0), (WIDE, 1.0)]).expect("one"), (WIDE, 1.0));
        assert_eq!(fastest("site", &[(TALL, 1.0), (WIDE, 1.0)]).expect("one"), (TALL, 1.0));
        assert!(fastest("site", &[]).is_err());
    }

    #[test]
    fn an_algorithm_without_a_tile_means_its_first_candidate() {
        let candidates = [Gemm.into(), TALL, WIDE];
        let requested = |candidate| requested_or_fallback(candidate, &candidates);
        assert_eq!((requested(Implicit.into()), requested(WIDE)), (TALL, WIDE));
        assert_eq!(requested(Candidate { algorithm: Implicit, tile: Some("256x16") }), TALL);
        assert_eq!((requested(Direct.into()), requested(CublasLt.into())), (Gemm.into(), TALL));
        let recorded = |name| recorded_candidate(name, &candidates);
        assert_eq!((recorded("implicit"), recorded("implicit 32x128")), (Some(TALL), Some(WIDE)));
        assert_eq!((recorded("im2col"), recorded("direct")), (Some(Gemm.into()), None));
        assert_eq!((recorded("implicit 256x16"), recorded("implicit ")), (None, None));
    }
}
