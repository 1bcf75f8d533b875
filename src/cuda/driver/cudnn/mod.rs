//! Convolutions by cuDNN, if it is installed: its backend API, with deterministic engines only.

mod library;
mod plan;

pub(super) use library::Failure;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::CudaStream;
use tracing::{debug, warn};

use super::{Turn, error, libraries};
use crate::cuda::convolution::{Convolution, Problem};
use crate::ops::Precision;
use library::{Handle, Library};
use plan::Plan;

/// cuDNN on one stream. It is searched for, initialised, and asked for a plan when first needed, because each of these is
/// slow. None may happen in a capture.
pub(in crate::cuda) struct Cudnn {
    plans: RefCell<HashMap<Problem, Option<Rc<Plan>>>>,
    handle: OnceCell<Handle>,
    installed: OnceCell<Option<Arc<Library>>>,
    stream: Arc<CudaStream>,
    precision: Precision,
    /// Taken by `drop` and held until plans and handle are destroyed, so it must be the last field.
    _turn: Option<Turn>,
}

// SAFETY: handle and descriptors are used by one thread at a time, as `&mut` of the backend guarantees.
unsafe impl Send for Cudnn {}

impl Cudnn {
    pub fn new(stream: &Arc<CudaStream>, precision: Precision) -> Self {
        let (plans, handle, installed) = (RefCell::default(), OnceCell::new(), OnceCell::new());
        Self { plans, handle, installed, stream: stream.clone(), precision, _turn: None }
    }

    fn found(&self) -> Option<&Arc<Library>> {
        let find = || {
            let opened = libraries::candidates("cudnn", "CNN_CUDA_CUDNN", &["", ".9"]).into_iter().find_map(|path| {
                let opened = Library::open(&path);
                opened.inspect_err(|error| debug!("{} is not used: {error}", path.display())).ok()
            });
            opened.map(Arc::new)
        };
        self.installed.get_or_init(find).as_ref()
    }

    /// The version, as 10000·major + 100·minor + patch; `None` if cuDNN is not installed.
    pub fn version(&self) -> Option<usize> {
        self.found().map(|library| library.version)
    }

    /// Ensures that cuDNN is installed.
    pub fn require(&self) -> Result<()> {
        self.installed().map(|_| ())
    }

    fn installed(&self) -> Result<&Arc<Library>> {
        self.found().context(
            "cuDNN was not found (libcudnn.so.9); install the Python wheel nvidia-cudnn-cu13 or -cu12, add its folder \
             to LD_LIBRARY_PATH, or set CNN_CUDA_CUDNN to its path; or choose another --conv-algo",
        )
    }

    /// Whether cuDNN has an engine for a problem.
    pub fn supports(&self, problem: &Problem) -> bool {
        let found = self.plan(problem).inspect_err(|error| warn!("{error:#}, so another algorithm is used"));
        found.is_ok_and(|plan| plan.is_some())
    }

    /// Computes a convolution on the stream.
    ///
    /// # Errors
    /// [`error::Unsupported`] if cuDNN has no engine for it; or if cuDNN fails.
    pub fn run(&self, convolution: &Convolution) -> Result<()> {
        let plan = self.plan(&convolution.problem)?;
        let plan = plan.ok_or(error::Unsupported("cuDNN has no deterministic engine for this convolution"))?;
        plan.run(self.handle()?, convolution).map_err(error::cudnn).context("a convolution by cuDNN")
    }

    /// The plan for a problem, made when first asked for; `None` if no engine can be used.
    fn plan(&self, problem: &Problem) -> Result<Option<Rc<Plan>>> {
        if let Some(plan) = self.plans.borrow().get(problem) {
            return Ok(plan.clone());
        }
        let handle = self.handle()?;
        let _turn = Turn::take();
        let plan = Plan::new(handle, problem, self.precision).map_err(error::cudnn);
        let plan = plan.context("choosing an engine of cuDNN")?.map(Rc::new);
        if plan.is_none() {
            debug!("cuDNN has no deterministic engine for {problem:?}");
        }
        self.plans.borrow_mut().insert(*problem, plan.clone());
        Ok(plan)
    }

    /// The handle, created on first use.
    fn handle(&self) -> Result<&Handle> {
        if let Some(handle) = self.handle.get() {
            return Ok(handle);
        }
        let library = self.installed()?;
        let _turn = Turn::take();
        let handle = Handle::new(library, self.stream.cu_stream()).map_err(error::cudnn);
        let handle = handle.context("creating a cuDNN handle")?;
        Ok(self.handle.get_or_init(|| handle))
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        self._turn = Some(Turn::take());
    }
}
