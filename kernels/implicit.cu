// The kernels of convolution as an implicit GEMM: one entry point per tile, compiled for one engine. Without
// ENGINE_TENSOR, fp32 uses fused multiply-adds and fp16 uses the m16n8k8 tensor-core instruction of compute_75. With
// ENGINE_TENSOR, both use instructions of compute_80: TF32 m16n8k8 and fp16 m16n8k16.
//
// gridDim.x is the number of tiles, gridDim.y the number of splits of the inner dimension; src/cuda/lower/split_k.rs
// chooses both. `scalar` kernels read single elements, for sizes and addresses that do not allow vector loads.
#include "implicit.cuh"

#if defined(ENGINE_TENSOR) && defined(REAL_F16)
typedef TensorCores<MMA_F16_K16> Engine;
#elif defined(ENGINE_TENSOR)
typedef TensorCores<MMA_TF32_K8> Engine;
#elif defined(REAL_F16)
typedef TensorCores<MMA_F16_K8> Engine;
#else
typedef Fma Engine;
#endif

typedef Tile<64, 64, true> Square;
typedef Tile<128, 32, true> Tall;
typedef Tile<256, 16, true> Slim;
typedef Tile<32, 128, true> Wide;
typedef Tile<64, 64, false> Scalar;

KERNEL(conv2d_forward_64x64, ImplicitForwardParams) { forward<Engine, Square, false>(p); }
KERNEL(conv2d_forward_128x32, ImplicitForwardParams) { forward<Engine, Tall, false>(p); }
KERNEL(conv2d_forward_256x16, ImplicitForwardParams) { forward<Engine, Slim, false>(p); }
KERNEL(conv2d_forward_32x128, ImplicitForwardParams) { forward<Engine, Wide, false>(p); }
KERNEL(conv2d_forward_64x64_scalar, ImplicitForwardParams) { forward<Engine, Scalar, false>(p); }
KERNEL(conv2d_forward_pooled_64x64, ImplicitForwardParams) { forward<Engine, Square, true>(p); }
KERNEL(conv2d_forward_pooled_128x32, ImplicitForwardParams) { forward<Engine, Tall, true>(p); }
KERNEL(conv2d_forward_pooled_256x16, ImplicitForwardParams) { forward<Engine, Slim, true>(p); }
KERNEL(conv2d_forward_pooled_32x128, ImplicitForwardParams) { forward<Engine, Wide, true>(p); }
KERNEL(conv2d_forward_pooled_64x64_scalar, ImplicitForwardParams) { forward<Engine, Scalar, true>(p); }

KERNEL(conv2d_backward_weight_64x64, ImplicitWeightParams) { backward_weight<Engine, Square>(p); }
KERNEL(conv2d_backward_weight_128x32, ImplicitWeightParams) { backward_weight<Engine, Tall>(p); }
KERNEL(conv2d_backward_weight_32x128, ImplicitWeightParams) { backward_weight<Engine, Wide>(p); }
KERNEL(conv2d_backward_weight_64x64_scalar, ImplicitWeightParams) { backward_weight<Engine, Scalar>(p); }

KERNEL(conv2d_backward_input_64x64, ImplicitInputParams) { backward_input<Engine, Square, false>(p); }
KERNEL(conv2d_backward_input_128x32, ImplicitInputParams) { backward_input<Engine, Tall, false>(p); }
KERNEL(conv2d_backward_input_256x16, ImplicitInputParams) { backward_input<Engine, Slim, false>(p); }
KERNEL(conv2d_backward_input_32x128, ImplicitInputParams) { backward_input<Engine, Wide, false>(p); }
KERNEL(conv2d_backward_input_64x64_strided, ImplicitInputParams) { backward_input<Engine, Square, true>(p); }
KERNEL(conv2d_backward_input_64x64_scalar, ImplicitInputParams) { backward_input<Engine, Scalar, true>(p); }
