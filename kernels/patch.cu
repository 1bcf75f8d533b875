// Convolutions of stride 1 whose input stays in shared memory (patch.cuh), with 16-bit storage on compute_90a. A tile is
// named patch_ROWSxCOLS_wWARPS.
#include "patch.cuh"

KERNEL(conv2d_forward_patch_128x64_w8, Conv2dForwardParams, 256, 2) { patch_forward<WgmmaTile<2, 1, 64, 4>, 2>(p); }
KERNEL(conv2d_forward_patch_128x128_w4, Conv2dForwardParams, 128, 1) { patch_forward<WgmmaTile<1, 2, 128, 4>, 2>(p); }
KERNEL(conv2d_forward_patch_256x64_w8, Conv2dForwardParams, 256, 2) { patch_forward<WgmmaTile<2, 2, 64, 4>, 2>(p); }
KERNEL(conv2d_forward_patch_256x128_w8, Conv2dForwardParams, 256, 1) { patch_forward<WgmmaTile<2, 2, 128, 4>, 2>(p); }

KERNEL(conv2d_backward_weight_patch_64x576_w12, Conv2dWeightParams, 384, 1) { patch_backward_weight<256>(p); }

KERNEL(conv2d_backward_input_patch_128x64_w8, Conv2dInputParams, 256, 2) {
    patch_backward_input<WgmmaTile<2, 1, 64, 4>, 2>(p);
}
KERNEL(conv2d_backward_input_patch_128x128_w4, Conv2dInputParams, 128, 1) {
    patch_backward_input<WgmmaTile<1, 2, 128, 4>, 2>(p);
}
KERNEL(conv2d_backward_input_patch_256x64_w8, Conv2dInputParams, 256, 2) {
    patch_backward_input<WgmmaTile<2, 2, 64, 4>, 2>(p);
}
KERNEL(conv2d_backward_input_patch_256x128_w8, Conv2dInputParams, 256, 1) {
    patch_backward_input<WgmmaTile<2, 2, 128, 4>, 2>(p);
}
