// Implicit convolution on one engine, an entry point for every tile: fp32 by fused multiply-adds and halves by the tensor
// cores' instruction of compute_75, or with ENGINE_TENSOR by those of compute_80, TF32 and halves sixteen at a time.
//
// Grid: tiles, then splits of the inner dimension; src/cuda/cut.rs chooses both. `scalar` reads single elements, where lengths
// or addresses are no whole vectors.
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

typedef ImplicitForwardParams Forward;
KERNEL(conv2d_forward_64x64)(const __grid_constant__ Forward p) { forward<Engine, Square, false>(p); }
KERNEL(conv2d_forward_128x32)(const __grid_constant__ Forward p) { forward<Engine, Tall, false>(p); }
KERNEL(conv2d_forward_256x16)(const __grid_constant__ Forward p) { forward<Engine, Slim, false>(p); }
KERNEL(conv2d_forward_32x128)(const __grid_constant__ Forward p) { forward<Engine, Wide, false>(p); }
KERNEL(conv2d_forward_64x64_scalar)(const __grid_constant__ Forward p) { forward<Engine, Scalar, false>(p); }
KERNEL(conv2d_forward_pooled_64x64)(const __grid_constant__ Forward p) { forward<Engine, Square, true>(p); }
KERNEL(conv2d_forward_pooled_128x32)(const __grid_constant__ Forward p) { forward<Engine, Tall, true>(p); }
KERNEL(conv2d_forward_pooled_256x16)(const __grid_constant__ Forward p) { forward<Engine, Slim, true>(p); }
KERNEL(conv2d_forward_pooled_32x128)(const __grid_constant__ Forward p) { forward<Engine, Wide, true>(p); }
KERNEL(conv2d_forward_pooled_64x64_scalar)(const __grid_constant__ Forward p) { forward<Engine, Scalar, true>(p); }

typedef ImplicitWeightParams Weight;
KERNEL(conv2d_backward_weight_64x64)(const __grid_constant__ Weight p) { backward_weight<Engine, Square>(p); }
KERNEL(conv2d_backward_weight_128x32)(const __grid_constant__ Weight p) { backward_weight<Engine, Tall>(p); }
KERNEL(conv2d_backward_weight_32x128)(const __grid_constant__ Weight p) { backward_weight<Engine, Wide>(p); }
KERNEL(conv2d_backward_weight_64x64_scalar)(const __grid_constant__ Weight p) { backward_weight<Engine, Scalar>(p); }

typedef ImplicitInputParams Input;
KERNEL(conv2d_backward_input_64x64)(const __grid_constant__ Input p) { backward_input<Engine, Square, false>(p); }
KERNEL(conv2d_backward_input_128x32)(const __grid_constant__ Input p) { backward_input<Engine, Tall, false>(p); }
KERNEL(conv2d_backward_input_256x16)(const __grid_constant__ Input p) { backward_input<Engine, Slim, false>(p); }
KERNEL(conv2d_backward_input_32x128)(const __grid_constant__ Input p) { backward_input<Engine, Wide, false>(p); }
KERNEL(conv2d_backward_input_64x64_strided)(const __grid_constant__ Input p) { backward_input<Engine, Square, true>(p); }
KERNEL(conv2d_backward_input_64x64_scalar)(const __grid_constant__ Input p) { backward_input<Engine, Scalar, true>(p); }
