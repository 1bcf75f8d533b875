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
