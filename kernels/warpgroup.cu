// Convolutions as products by warpgroups (wgmma, compute_90a): one entry point per tile and direction. A tile is named
// ROWSxCOLS_wWARPS. fp32 storage is multiplied in TF32.
#include "products.cuh"
#include "wgmma_tile.cuh"

KERNEL(conv2d_forward_64x64_w4, Conv2dForwardParams, 128, 2) { forward<WgmmaTile<1, 1, 64, 5>>(p); }
KERNEL(conv2d_forward_128x64_w4, Conv2dForwardParams, 128, 2) { forward<WgmmaTile<1, 2, 64, 4>>(p); }
KERNEL(conv2d_forward_128x128_w8, Conv2dForwardParams, 256, 1) { forward<WgmmaTile<2, 1, 128, 5>>(p); }
KERNEL(conv2d_forward_256x128_w8, Conv2dForwardParams, 256, 1) { forward<WgmmaTile<2, 2, 128, 4>>(p); }
KERNEL(conv2d_forward_128x256_w8, Conv2dForwardParams, 256, 1) { forward<WgmmaTile<2, 1, 256, 4>>(p); }

KERNEL(conv2d_backward_weight_64x64_w4, Conv2dWeightParams, 128, 2) { backward_weight<WgmmaTile<1, 1, 64, 5>>(p); }
KERNEL(conv2d_backward_weight_128x128_w8, Conv2dWeightParams, 256, 1) { backward_weight<WgmmaTile<2, 1, 128, 5>>(p); }
KERNEL(conv2d_backward_weight_128x64_w4, Conv2dWeightParams, 128, 2) { backward_weight<WgmmaTile<1, 2, 64, 4>>(p); }
KERNEL(conv2d_backward_weight_128x256_w8, Conv2dWeightParams, 256, 1) { backward_weight<WgmmaTile<2, 1, 256, 4>>(p); }

KERNEL(conv2d_backward_input_64x64_w4, Conv2dInputParams, 128, 2) { backward_input<WgmmaTile<1, 1, 64, 5>>(p); }
KERNEL(conv2d_backward_input_128x64_w8, Conv2dInputParams, 256, 2) { backward_input<WgmmaTile<2, 1, 64, 4>>(p); }
KERNEL(conv2d_backward_input_128x128_w8, Conv2dInputParams, 256, 1) { backward_input<WgmmaTile<2, 1, 128, 5>>(p); }
KERNEL(conv2d_backward_input_256x128_w8, Conv2dInputParams, 256, 1) { backward_input<WgmmaTile<2, 2, 128, 4>>(p); }
