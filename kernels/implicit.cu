// The kernels of convolution as an implicit GEMM: one entry point per tile. fp32 uses fused multiply-adds; fp16 uses the
// m16n8k8 tensor-core instruction of compute_75. Later devices multiply all but fp32 by
// multistage.cu, thin.cu, warpgroup.cu and patch.cu.
//
// gridDim.x is the number of tiles, gridDim.y the number of splits of the inner dimension; src/cuda/lower/split_k.rs
// chooses both. `scalar` kernels read single elements, for sizes and addresses that do not allow vector loads.
#include "implicit.cuh"

#ifdef REAL_F16
typedef TensorCores Engine;
#else
typedef Fma Engine;
#endif

typedef Tile<64, 64, true> Square;
typedef Tile<128, 32, true> Tall;
typedef Tile<256, 16, true> Slim;
typedef Tile<32, 128, true> Wide;
typedef Tile<64, 64, false> Scalar;

KERNEL(conv2d_forward_64x64, Conv2dForwardParams) { forward<Engine, Square, false>(p); }
KERNEL(conv2d_forward_128x32, Conv2dForwardParams) { forward<Engine, Tall, false>(p); }
KERNEL(conv2d_forward_256x16, Conv2dForwardParams) { forward<Engine, Slim, false>(p); }
KERNEL(conv2d_forward_32x128, Conv2dForwardParams) { forward<Engine, Wide, false>(p); }
KERNEL(conv2d_forward_64x64_scalar, Conv2dForwardParams) { forward<Engine, Scalar, false>(p); }
KERNEL(conv2d_forward_pooled_64x64, Conv2dForwardParams) { forward<Engine, Square, true>(p); }
KERNEL(conv2d_forward_pooled_128x32, Conv2dForwardParams) { forward<Engine, Tall, true>(p); }
KERNEL(conv2d_forward_pooled_256x16, Conv2dForwardParams) { forward<Engine, Slim, true>(p); }
KERNEL(conv2d_forward_pooled_32x128, Conv2dForwardParams) { forward<Engine, Wide, true>(p); }
KERNEL(conv2d_forward_pooled_64x64_scalar, Conv2dForwardParams) { forward<Engine, Scalar, true>(p); }

KERNEL(conv2d_backward_weight_64x64, Conv2dWeightParams) { backward_weight<Engine, Square>(p); }
KERNEL(conv2d_backward_weight_128x32, Conv2dWeightParams) { backward_weight<Engine, Tall>(p); }
KERNEL(conv2d_backward_weight_32x128, Conv2dWeightParams) { backward_weight<Engine, Wide>(p); }
KERNEL(conv2d_backward_weight_64x64_scalar, Conv2dWeightParams) { backward_weight<Engine, Scalar>(p); }

KERNEL(conv2d_backward_input_64x64, Conv2dInputParams) { backward_input<Engine, Square, false>(p); }
KERNEL(conv2d_backward_input_128x32, Conv2dInputParams) { backward_input<Engine, Tall, false>(p); }
KERNEL(conv2d_backward_input_256x16, Conv2dInputParams) { backward_input<Engine, Slim, false>(p); }
KERNEL(conv2d_backward_input_32x128, Conv2dInputParams) { backward_input<Engine, Wide, false>(p); }
KERNEL(conv2d_backward_input_64x64_strided, Conv2dInputParams) { backward_input<Engine, Square, true>(p); }
KERNEL(conv2d_backward_input_64x64_scalar, Conv2dInputParams) { backward_input<Engine, Scalar, true>(p); }
