// The emulated cuDNN: what its backend API and its convolutions share.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "gemm.h"

namespace emulator {

enum class Direction { forward, backward_weight, backward_input };

// A convolution of images whose channels are adjacent, or one of its gradients. Sizes are number, channels, height and
// width.
struct Convolution {
    Direction direction;
    std::array<int64_t, 4> input, weight, output;
    std::array<int64_t, 2> padding, stride, dilation;
    // Of input, weight and output.
    std::array<Type, 3> types;
    Rounding rounding;

    int64_t groups() const { return input[1] / weight[1]; }

    // The index of the tensor that is the result.
    size_t result() const {
        return direction == Direction::forward ? 2 : direction == Direction::backward_weight ? 1 : 0;
    }
};

int64_t elements(const std::array<int64_t, 4>& size);

// Computes the result, which is one of the tensors, from the other two.
void convolve(const Convolution& convolution, const std::array<void*, 3>& tensors);

}  // namespace emulator
