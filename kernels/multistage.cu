// Convolutions as products on the tensor cores of compute_80: one entry point per tile and direction. 16-bit storage
// uses m16n8k16, fp32 storage TF32 m16n8k8. A tile is named ROWSxCOLSxBYTES_WARPS, where BYTES is the length of a stage
// along the inner dimension. `scalar` kernels read single elements, for channel counts and addresses that do not allow
// copies of 16 bytes.
#include "multistage.cuh"
#include "products.cuh"

template <u32 ROWS, u32 COLS, u32 BYTES, u32 DOWN, u32 ACROSS, u32 STAGES, u32 BUFFERS = 2, bool VECTOR = true>
using Tile = WarpTile<ROWS, COLS, BYTES / sizeof(real), DOWN, ACROSS, STAGES, BUFFERS, VECTOR>;

KERNEL(conv2d_forward_128x128x128_4, Conv2dForwardParams, 128, 2) { forward<Tile<128, 128, 128, 2, 2, 3, 1>>(p); }
KERNEL(conv2d_forward_128x64x64_4, Conv2dForwardParams, 128, 3) { forward<Tile<128, 64, 64, 2, 2, 4>>(p); }
KERNEL(conv2d_forward_64x64x128_8, Conv2dForwardParams, 256, 2) { forward<Tile<64, 64, 128, 2, 4, 4>>(p); }
KERNEL(conv2d_forward_64x64x128_4, Conv2dForwardParams, 128, 4) { forward<Tile<64, 64, 128, 2, 2, 3>>(p); }
KERNEL(conv2d_forward_128x32x64_4, Conv2dForwardParams, 128, 4) { forward<Tile<128, 32, 64, 4, 1, 4>>(p); }
KERNEL(conv2d_forward_128x16x64_4, Conv2dForwardParams, 128, 4) { forward<Tile<128, 16, 64, 4, 1, 4>>(p); }
KERNEL(conv2d_forward_64x64x64_4_scalar, Conv2dForwardParams, 128, 2) {
    forward<Tile<64, 64, 64, 2, 2, 3, 2, false>>(p);
}

KERNEL(conv2d_backward_weight_128x128x64_4, Conv2dWeightParams, 128, 2) {
    backward_weight<Tile<128, 128, 64, 2, 2, 4, 1>>(p);
}
KERNEL(conv2d_backward_weight_128x64x64_4, Conv2dWeightParams, 128, 2) {
    backward_weight<Tile<128, 64, 64, 2, 2, 4>>(p);
}
KERNEL(conv2d_backward_weight_64x64x128_4, Conv2dWeightParams, 128, 2) {
    backward_weight<Tile<64, 64, 128, 2, 2, 3>>(p);
}
KERNEL(conv2d_backward_weight_32x64x128_4, Conv2dWeightParams, 128, 4) {
    backward_weight<Tile<32, 64, 128, 1, 4, 4>>(p);
}
KERNEL(conv2d_backward_weight_64x64x64_4_scalar, Conv2dWeightParams, 128, 2) {
    backward_weight<Tile<64, 64, 64, 2, 2, 3, 2, false>>(p);
}

KERNEL(conv2d_backward_input_128x128x64_4, Conv2dInputParams, 128, 2) {
    backward_input<Tile<128, 128, 64, 2, 2, 4, 1>>(p);
}
KERNEL(conv2d_backward_input_128x64x64_4, Conv2dInputParams, 128, 3) { backward_input<Tile<128, 64, 64, 2, 2, 4>>(p); }
KERNEL(conv2d_backward_input_64x64x128_8, Conv2dInputParams, 256, 2) { backward_input<Tile<64, 64, 128, 2, 4, 4>>(p); }
KERNEL(conv2d_backward_input_64x64x128_4, Conv2dInputParams, 128, 4) { backward_input<Tile<64, 64, 128, 2, 2, 3>>(p); }
KERNEL(conv2d_backward_input_128x32x64_4, Conv2dInputParams, 128, 4) { backward_input<Tile<128, 32, 64, 4, 1, 4>>(p); }
KERNEL(conv2d_backward_input_64x64x64_4_scalar, Conv2dInputParams, 128, 2) {
    backward_input<Tile<64, 64, 64, 2, 2, 3, 2, false>>(p);
}
