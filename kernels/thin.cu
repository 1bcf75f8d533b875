// Convolutions of few input channels on the tensor cores of compute_80; a kernel's name ends in its tile.
#include "thin.cuh"

KERNEL(conv2d_forward_thin_128x16, Conv2dForwardParams, 128, 4) { thin_forward<16>(p); }
KERNEL(conv2d_forward_thin_128x32, Conv2dForwardParams, 128, 4) { thin_forward<32>(p); }
KERNEL(conv2d_forward_thin_128x64, Conv2dForwardParams, 128, 3) { thin_forward<64>(p); }

KERNEL(conv2d_backward_weight_thin_32x32, Conv2dWeightParams, 128, 4) {
    thin_backward_weight<ThinWeightTile<32, 32, 4>>(p);
}
KERNEL(conv2d_backward_weight_thin_64x32, Conv2dWeightParams, 128, 3) {
    thin_backward_weight<ThinWeightTile<64, 32, 4>>(p);
}
KERNEL(conv2d_backward_weight_thin_64x160, Conv2dWeightParams, 128, 2) {
    thin_backward_weight<ThinWeightTile<64, 160, 1>>(p);
}
