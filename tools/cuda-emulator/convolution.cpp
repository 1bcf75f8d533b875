// The convolutions of the emulated cuDNN, as im2col and matrix products in fp32.
#include <algorithm>
#include <vector>

#include "cudnn.h"

namespace emulator {

namespace {

using Values = std::vector<float>;

Values load(const void* data, Type type, int64_t count) {
    Values values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = load_element(data, type, i);
    return values;
}

// Row-major c [m][n] = op(a) · op(b), as the transposed column-major product.
Values product(long m, long n, long k, const Values& a, bool transpose_a, const Values& b, bool transpose_b,
               Rounding rounding) {
    Values c(static_cast<size_t>(m * n));
    const bool small = m < 16 || n < 16 || k < 16;
    gemm({n, m, k, transpose_b, transpose_a, b.data(), a.data(), c.data(), transpose_b ? k : n, transpose_a ? m : k, n,
          Type::f32, Type::f32, small ? Rounding::none : rounding, 1.0f, 0.0f});
    return c;
}

// Calls visit(row, column, element) for every element of the input that a row of the im2col columns of a group holds.
template <class Visit>
void over_columns(const Convolution& c, int64_t group, Visit visit) {
    const auto [batch, channels, height, width] = c.input;
    const int64_t depth = c.weight[1], kernel_height = c.weight[2], kernel_width = c.weight[3];
    int64_t row = 0;
    for (int64_t n = 0; n < batch; ++n) {
        for (int64_t y = 0; y < c.output[2]; ++y) {
            for (int64_t x = 0; x < c.output[3]; ++x, ++row) {
                int64_t column = 0;
                for (int64_t i = 0; i < kernel_height; ++i) {
                    for (int64_t j = 0; j < kernel_width; ++j, column += depth) {
                        const int64_t from_y = y * c.stride[0] - c.padding[0] + i * c.dilation[0];
                        const int64_t from_x = x * c.stride[1] - c.padding[1] + j * c.dilation[1];
                        if (from_y < 0 || from_y >= height || from_x < 0 || from_x >= width) continue;
                        const int64_t pixel = ((n * height + from_y) * width + from_x) * channels;
                        for (int64_t d = 0; d < depth; ++d) visit(row, column + d, pixel + group * depth + d);
                    }
                }
            }
        }
    }
}

}  // namespace

int64_t elements(const std::array<int64_t, 4>& size) { return size[0] * size[1] * size[2] * size[3]; }

void convolve(const Convolution& c, const std::array<void*, 3>& tensors) {
    const std::array<int64_t, 3> counts = {elements(c.input), elements(c.weight), elements(c.output)};
    const size_t result = c.result();
    std::array<Values, 3> values;
    for (size_t i = 0; i < 3; ++i) {
        values[i] = i == result ? Values(static_cast<size_t>(counts[i])) : load(tensors[i], c.types[i], counts[i]);
    }
    auto& [input, weight, output] = values;
    const int64_t groups = c.groups(), rows = c.output[0] * c.output[2] * c.output[3];
    const int64_t outputs = c.weight[0] / groups, depth = c.weight[1] * c.weight[2] * c.weight[3];
    for (int64_t group = 0; group < groups; ++group) {
        const auto at = [&](int64_t row, int64_t o) {
            return static_cast<size_t>(row * c.weight[0] + group * outputs + o);
        };
        const auto in_column = [&](int64_t row, int64_t column) { return static_cast<size_t>(row * depth + column); };
        Values columns(static_cast<size_t>(rows * depth)), part(static_cast<size_t>(rows * outputs));
        if (c.direction != Direction::backward_input) {
            over_columns(c, group, [&](int64_t row, int64_t column, int64_t element) {
                columns[in_column(row, column)] = input[static_cast<size_t>(element)];
            });
        }
        for (int64_t i = 0; c.direction != Direction::forward && i < rows * outputs; ++i) {
            part[static_cast<size_t>(i)] = output[at(i / outputs, i % outputs)];
        }
        const auto first = weight.begin() + group * outputs * depth;
        if (c.direction == Direction::forward) {
            part = product(rows, outputs, depth, columns, false, {first, first + outputs * depth}, true, c.rounding);
            for (int64_t i = 0; i < rows * outputs; ++i) {
                output[at(i / outputs, i % outputs)] = part[static_cast<size_t>(i)];
            }
        } else if (c.direction == Direction::backward_weight) {
            const Values sums = product(outputs, depth, rows, part, true, columns, false, c.rounding);
            std::copy(sums.begin(), sums.end(), first);
        } else {
            columns = product(rows, depth, outputs, part, false, {first, first + outputs * depth}, false, c.rounding);
            over_columns(c, group, [&](int64_t row, int64_t column, int64_t element) {
                input[static_cast<size_t>(element)] += columns[in_column(row, column)];
            });
        }
    }
    for (int64_t i = 0; i < counts[result]; ++i) {
        store_element(tensors[result], c.types[result], i, values[result][static_cast<size_t>(i)]);
    }
}

}  // namespace emulator
