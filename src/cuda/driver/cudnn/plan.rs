//! Execution plans: the graph of one convolution, and the engine that cuDNN's heuristics propose for it.

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Attribute, cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Mode,
    cudnnBackendNumericalNote_t as Note, cudnnConvolutionMode_t, cudnnDataType_t,
};
use tracing::debug;

use super::library::{
    Address, ConvolutionMode, DataType, Descriptor, DescriptorValue, Handle, HandleValue, HeuristicMode, NumericalNote,
    Outcome,
};
use crate::cuda::convolution::{Convolution, Direction, Problem};
use crate::ops::Precision;
use crate::shape::Window;

/// The most proposals of a heuristic that are looked at.
const MAX_PROPOSALS: usize = 64;

/// The most numerical notes that an engine may have.
const MAX_NOTES: usize = 32;

const FLOAT: DataType = DataType(cudnnDataType_t::CUDNN_DATA_FLOAT as i32);
const HALF: DataType = DataType(cudnnDataType_t::CUDNN_DATA_HALF as i32);
const BFLOAT16: DataType = DataType(cudnnDataType_t::CUDNN_DATA_BFLOAT16 as i32);
const CROSS_CORRELATION: ConvolutionMode = ConvolutionMode(cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION as i32);

/// The heuristics, in the order in which they are asked: the usual one, and one that needs no model of the device.
const HEURISTICS: [Mode; 2] = [Mode::CUDNN_HEUR_MODE_A, Mode::CUDNN_HEUR_MODE_FALLBACK];

/// The numbers of an operation's descriptor and of its attributes.
struct Operation {
    kind: Kind,
    alpha: Attribute,
    beta: Attribute,
    convolution: Attribute,
    /// Of input, weight and output, or their gradients.
    tensors: [Attribute; 3],
}

fn operation(direction: Direction) -> Operation {
    match direction {
        Direction::Forward => Operation {
            kind: Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            alpha: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
            beta: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
            convolution: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
            tensors: [
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
            ],
        },
        Direction::BackwardInput => Operation {
            kind: Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            alpha: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
            beta: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
            convolution: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
            tensors: [
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
            ],
        },
        Direction::BackwardWeight => Operation {
            kind: Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            alpha: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
            beta: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
            convolution: Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
            tensors: [
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                Attribute::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
            ],
        },
    }
}

/// An engine that is ready to compute a problem.
pub(super) struct Plan {
    engine: Descriptor,
    /// Bytes of workspace that it needs.
    workspace: usize,
    /// What the plan refers to.
    _parts: Vec<Descriptor>,
}

impl Plan {
    /// The first proposed engine that is deterministic, keeps to the precision and fits the workspace; `None` if there
    /// is none.
    ///
    /// # Errors
    /// If there is none, and one could not be built for another reason than that it is not supported.
    pub fn new(handle: &Handle, problem: &Problem, precision: Precision) -> Outcome<Option<Self>> {
        let (mut parts, mut failed) = (Vec::new(), None);
        let graph = match graph(handle, problem, precision, &mut parts) {
            Err(failure) if failure.is_unsupported() => return Ok(None),
            graph => graph?,
        };
        for mode in HEURISTICS {
            for configuration in proposals(handle, &graph, mode)? {
                let built = built(handle, &configuration, precision, problem.workspace);
                match built {
                    Ok(Some((engine, workspace))) => {
                        parts.extend([graph, configuration]);
                        return Ok(Some(Self { engine, workspace, _parts: parts }));
                    }
                    Ok(None) => {}
                    Err(failure) => {
                        debug!("cuDNN proposed an engine that it cannot build: {failure:?}");
                        failed = failed.or(Some(failure).filter(|failure| !failure.is_unsupported()));
                    }
                }
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Computes `convolution`, whose problem is the plan's, on the handle's stream.
    pub fn run(&self, handle: &Handle, convolution: &Convolution) -> Outcome<()> {
        let workspace = if self.workspace == 0 { 0 } else { convolution.workspace };
        let variant_pack = Descriptor::new(handle, Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        variant_pack.set(Attribute::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &TENSOR_IDS)?;
        variant_pack.set(Attribute::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &convolution.tensors.map(Address))?;
        variant_pack.set(Attribute::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[Address(workspace)])?;
        let variant_pack = variant_pack.finalized()?;
        // SAFETY: the addresses are of spans that hold the tensors, and the workspace has at least the plan's size.
        unsafe { handle.execute(&self.engine, &variant_pack) }
    }
}

/// Names of the tensors, for the variant pack.
const TENSOR_IDS: [i64; 3] = [1, 2, 3];

/// The graph of one convolution. What it refers to is added to `parts`.
fn graph(handle: &Handle, problem: &Problem, precision: Precision, parts: &mut Vec<Descriptor>) -> Outcome<Descriptor> {
    let Problem { direction, op, batch, alignments, .. } = *problem;
    let Ok(shape) = op.output() else { unreachable!("the lowering computed the output's shape") };
    let real = match precision {
        Precision::Fp16 => HALF,
        Precision::Bf16 => BFLOAT16,
        Precision::Fp32 | Precision::Tf32 => FLOAT,
    };
    // In cuDNN's order, which is that of PyTorch: number, channels, height, width. Channels are adjacent in memory.
    let (input, kernel) = (op.input, op.window.kernel);
    let sizes = [
        [batch, input.channels, input.height, input.width],
        [op.out_channels, input.channels / op.groups, kernel, kernel],
        [batch, shape.channels, shape.height, shape.width],
    ];
    let operation = operation(direction);
    let convolution = convolution(handle, op.window, op.dilation)?;
    let node = Descriptor::new(handle, operation.kind)?;
    node.set(operation.alpha, &[1.0_f32])?;
    node.set(operation.beta, &[0.0_f32])?;
    node.set(operation.convolution, &[DescriptorValue::from(&convolution)])?;
    for (index, size) in sizes.into_iter().enumerate() {
        let tensor = tensor(handle, TENSOR_IDS[index], real, size, alignments[index])?;
        node.set(operation.tensors[index], &[DescriptorValue::from(&tensor)])?;
        parts.push(tensor);
    }
    let node = node.finalized()?;
    let graph = Descriptor::new(handle, Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
    graph.set(Attribute::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[HandleValue::from(handle)])?;
    graph.set(Attribute::CUDNN_ATTR_OPERATIONGRAPH_OPS, &[DescriptorValue::from(&node)])?;
    parts.extend([convolution, node]);
    graph.finalized()
}

/// A tensor of `[number, channels, height, width]` elements, whose channels are adjacent in memory.
fn tensor(handle: &Handle, id: i64, of: DataType, size: [usize; 4], alignment: u8) -> Outcome<Descriptor> {
    let [number, channels, height, width] = size.map(|size| size as i64);
    let tensor = Descriptor::new(handle, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
    tensor.set(Attribute::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id])?;
    tensor.set(Attribute::CUDNN_ATTR_TENSOR_DATA_TYPE, &[of])?;
    tensor.set(Attribute::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[i64::from(alignment)])?;
    tensor.set(Attribute::CUDNN_ATTR_TENSOR_DIMENSIONS, &[number, channels, height, width])?;
    tensor.set(Attribute::CUDNN_ATTR_TENSOR_STRIDES, &[channels * height * width, 1, channels * width, channels])?;
    tensor.finalized()
}

fn convolution(handle: &Handle, window: Window, dilation: usize) -> Outcome<Descriptor> {
    let both = |value: usize| [value as i64; 2];
    let convolution = Descriptor::new(handle, Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
    convolution.set(Attribute::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2_i64])?;
    convolution.set(Attribute::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[FLOAT])?;
    convolution.set(Attribute::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[CROSS_CORRELATION])?;
    convolution.set(Attribute::CUDNN_ATTR_CONVOLUTION_DILATIONS, &both(dilation))?;
    convolution.set(Attribute::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &both(window.stride))?;
    convolution.set(Attribute::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &both(window.padding))?;
    convolution.set(Attribute::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &both(window.padding))?;
    convolution.finalized()
}

/// The engine configurations that a heuristic proposes, the best first; none if it does not know the graph.
fn proposals(handle: &Handle, graph: &Descriptor, mode: Mode) -> Outcome<Vec<Descriptor>> {
    let heuristic = Descriptor::new(handle, Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    heuristic.set(Attribute::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[DescriptorValue::from(graph)])?;
    heuristic.set(Attribute::CUDNN_ATTR_ENGINEHEUR_MODE, &[HeuristicMode(mode as i32)])?;
    let heuristic = match heuristic.finalized() {
        Err(failure) if failure.is_unsupported() => return Ok(Vec::new()),
        heuristic => heuristic?,
    };
    let mut found: Vec<Descriptor> = (0..MAX_PROPOSALS)
        .map(|_| Descriptor::new(handle, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
        .collect::<Outcome<_>>()?;
    let mut values: Vec<DescriptorValue> = found.iter().map(DescriptorValue::from).collect();
    let count = match heuristic.get(Attribute::CUDNN_ATTR_ENGINEHEUR_RESULTS, &mut values) {
        Err(failure) if failure.is_unsupported() => 0,
        count => count?,
    };
    found.truncate(count);
    Ok(found)
}

/// The plan of a configuration and the bytes of workspace that it needs; `None` if it may not be used.
fn built(
    handle: &Handle,
    configuration: &Descriptor,
    precision: Precision,
    workspace: usize,
) -> Outcome<Option<(Descriptor, usize)>> {
    if !is_allowed(handle, configuration, precision)? {
        return Ok(None);
    }
    let plan = Descriptor::new(handle, Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
    plan.set(Attribute::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[HandleValue::from(handle)])?;
    plan.set(Attribute::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[DescriptorValue::from(configuration)])?;
    let plan = plan.finalized()?;
    let mut needed = [0_i64];
    plan.get(Attribute::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, &mut needed)?;
    let needed = usize::try_from(needed[0]).unwrap_or(0);
    Ok((needed <= workspace).then_some((plan, needed)))
}

/// Whether an engine always computes the same numbers, sums in fp32, and rounds operands to TF32 only in tf32.
fn is_allowed(handle: &Handle, configuration: &Descriptor, precision: Precision) -> Outcome<bool> {
    let engine = Descriptor::new(handle, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
    configuration.get(Attribute::CUDNN_ATTR_ENGINECFG_ENGINE, &mut [DescriptorValue::from(&engine)])?;
    let mut notes = [NumericalNote(-1); MAX_NOTES];
    let count = engine.get(Attribute::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, &mut notes)?;
    let has = |note: Note| notes[..count].contains(&NumericalNote(note as i32));
    let rounds = precision == Precision::Fp32 && has(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
    let never = [
        Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
        Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
        Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
    ];
    Ok(!rounds && !never.into_iter().any(has))
}
