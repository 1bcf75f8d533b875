// A blocked matrix product: panels of A and B are packed as floats, a micro-kernel keeps its tile of C in vector
// registers, and blocks of C are distributed to a few threads.
#include "gemm.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "half_conversion.h"

namespace emulator {
namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, NR = 12;
#elif defined(__AVX__)
constexpr int LANES = 8, NR = 6;
#else
constexpr int LANES = 4, NR = 6;
#endif
typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4)));
constexpr int MR = 2 * LANES;
constexpr long KC = 256, MAX_MC = 6 * MR, MAX_NC = 20 * NR;

// A pool of worker threads. It is never destroyed, because the library is never unloaded.
class Pool {
  public:
    Pool() {
        const char* asked = getenv("CUDA_EMULATOR_THREADS");
        const long threads = asked && *asked ? strtol(asked, nullptr, 10) : std::thread::hardware_concurrency();
        size_ = static_cast<int>(std::clamp(threads, 1l, 64l));
        for (int i = 1; i < size_; ++i) std::thread([this] { work(); }).detach();
    }

    int size() const { return size_; }

    // Calls `task` with every index below `count`, on all threads.
    void run(long count, const std::function<void(long)>& task) {
        {
            std::lock_guard<std::mutex> guard(mutex_);
            task_ = &task;
            count_ = count;
            next_ = 0;
            busy_ = size_ - 1;
            ++generation_;
        }
        wake_.notify_all();
        drain();
        std::unique_lock<std::mutex> guard(mutex_);
        done_.wait(guard, [this] { return busy_ == 0; });
    }

  private:
    void drain() {
        for (long i = next_++; i < count_; i = next_++) (*task_)(i);
    }

    void work() {
        uint64_t seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> guard(mutex_);
                wake_.wait(guard, [&] { return generation_ != seen; });
                seen = generation_;
            }
            drain();
            std::lock_guard<std::mutex> guard(mutex_);
            if (--busy_ == 0) done_.notify_one();
        }
    }

    int size_ = 1, busy_ = 0;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    uint64_t generation_ = 0;
    const std::function<void(long)>* task_ = nullptr;
    long count_ = 0;
    std::atomic<long> next_{0};
};

Pool& pool() {
    static auto* made = new Pool;
    return *made;
}

// Drops 13 mantissa bits, rounding to nearest even; infinity and NaN do not change.
float round_to_tf32(float value) {
    const uint32_t bits = emulator_bits_of(value);
    if ((bits & 0x7f800000) == 0x7f800000) return value;
    return emulator_from_bits((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu);
}

struct HalfTable {
    float value[65536];
    HalfTable() {
        for (uint32_t bits = 0; bits < 65536; ++bits) value[bits] = emulator_half_to_float(static_cast<uint16_t>(bits));
    }
};

float half_value(uint16_t bits) {
    static const auto* table = new HalfTable;
    return table->value[bits];
}

float rounded(float value, Rounding rounding) {
    switch (rounding) {
        case Rounding::tf32:
            return round_to_tf32(value);
        case Rounding::bf16:
            return emulator_bfloat16_to_float(emulator_float_to_bfloat16(value));
        case Rounding::f16:
            return half_value(emulator_float_to_half(value));
        default:
            return value;
    }
}

// Packs panels of WIDTH elements: for each of `depth` steps along k, panel p holds elements p·WIDTH to (p+1)·WIDTH − 1
// of the other axis, zeros past `count`. An element is at `data[across · across_stride + along · along_stride]`.
template <int WIDTH>
void pack(float* to, const void* data, Type type, Rounding rounding, long first, long count, long across_stride,
          long first_step, long depth, long along_stride) {
    const float* floats = static_cast<const float*>(data);
    const bool plain = type == Type::f32 && rounding == Rounding::none;
    for (long panel = 0; panel < count; panel += WIDTH) {
        const long width = std::min<long>(WIDTH, count - panel);
        for (long step = 0; step < depth; ++step, to += WIDTH) {
            const long start = (first + panel) * across_stride + (first_step + step) * along_stride;
            if (plain && across_stride == 1 && width == WIDTH) {
                memcpy(to, floats + start, sizeof(float) * WIDTH);
                continue;
            }
            for (long i = 0; i < width; ++i) {
                const long at = start + i * across_stride;
                to[i] = plain ? floats[at] : rounded(load_element(data, type, at), rounding);
            }
            for (long i = width; i < WIDTH; ++i) to[i] = 0.0f;
        }
    }
}

// tile += panel of A · panel of B; the tile is [MR][NR], column-major.
void micro_kernel(const float* a, const float* b, long depth, float* tile) {
    Vector sum[NR][2];
    for (int j = 0; j < NR; ++j) sum[j][0] = sum[j][1] = Vector{};
    for (long step = 0; step < depth; ++step, a += MR, b += NR) {
        const Vector low = *reinterpret_cast<const Vector*>(a), high = *reinterpret_cast<const Vector*>(a + LANES);
#pragma GCC unroll 16
        for (int j = 0; j < NR; ++j) {
            sum[j][0] += low * b[j];
            sum[j][1] += high * b[j];
        }
    }
    for (int j = 0; j < NR; ++j, tile += MR) {
        *reinterpret_cast<Vector*>(tile) += sum[j][0];
        *reinterpret_cast<Vector*>(tile + LANES) += sum[j][1];
    }
}

void write_tile(const Gemm& g, const float* tile, long row, long rows, long col, long cols) {
    for (long j = 0; j < cols; ++j) {
        for (long i = 0; i < rows; ++i) {
            const long at = row + i + (col + j) * g.ldc;
            float value = g.alpha * tile[i + j * MR];
            // If beta is 0, C must not be read, because it may be uninitialised.
            if (g.beta != 0.0f) value += g.beta * load_element(g.c, g.c_type, at);
            store_element(g.c, g.c_type, at, value);
        }
    }
}

// Computes one block of C: rows [row, row + mc), columns [col, col + nc).
void block(const Gemm& g, long row, long mc, long col, long nc) {
    thread_local std::vector<float> packed_a, packed_b, tiles;
    const long row_panels = (mc + MR - 1) / MR, col_panels = (nc + NR - 1) / NR;
    packed_a.resize(static_cast<size_t>(row_panels * MR * KC));
    packed_b.resize(static_cast<size_t>(col_panels * NR * KC));
    tiles.assign(static_cast<size_t>(row_panels * col_panels * MR * NR), 0.0f);
    const long steps = g.alpha == 0.0f ? 0 : g.k;
    for (long step = 0; step < steps; step += KC) {
        const long depth = std::min(KC, steps - step);
        pack<MR>(packed_a.data(), g.a, g.ab_type, g.rounding, row, mc, g.transpose_a ? g.lda : 1, step, depth,
                 g.transpose_a ? 1 : g.lda);
        pack<NR>(packed_b.data(), g.b, g.ab_type, g.rounding, col, nc, g.transpose_b ? 1 : g.ldb, step, depth,
                 g.transpose_b ? g.ldb : 1);
        for (long j = 0; j < col_panels; ++j) {
            for (long i = 0; i < row_panels; ++i) {
                micro_kernel(packed_a.data() + i * MR * depth, packed_b.data() + j * NR * depth, depth,
                             tiles.data() + (i + j * row_panels) * MR * NR);
            }
        }
    }
    for (long j = 0; j < col_panels; ++j) {
        for (long i = 0; i < row_panels; ++i) {
            write_tile(g, tiles.data() + (i + j * row_panels) * MR * NR, row + i * MR, std::min<long>(MR, mc - i * MR),
                       col + j * NR, std::min<long>(NR, nc - j * NR));
        }
    }
}

}  // namespace

float load_element(const void* data, Type type, long index) {
    if (type == Type::f32) return static_cast<const float*>(data)[index];
    const uint16_t bits = static_cast<const uint16_t*>(data)[index];
    return type == Type::f16 ? half_value(bits) : emulator_bfloat16_to_float(bits);
}

void store_element(void* data, Type type, long index, float value) {
    if (type == Type::f32) {
        static_cast<float*>(data)[index] = value;
    } else if (type == Type::f16) {
        static_cast<uint16_t*>(data)[index] = emulator_float_to_half(value);
    } else {
        static_cast<uint16_t*>(data)[index] = emulator_float_to_bfloat16(value);
    }
}

void gemm(const Gemm& g) {
    if (g.m == 0 || g.n == 0) return;
    long mc = MAX_MC, nc = MAX_NC;
    auto blocks = [&] { return ((g.m + mc - 1) / mc) * ((g.n + nc - 1) / nc); };
    // Use smaller blocks if there are too few for all threads; the block size does not change any sum.
    while (blocks() < 2 * pool().size() && (mc > MR || nc > 2 * NR)) {
        if (mc > MR && (mc * NR >= nc * MR || nc <= 2 * NR)) {
            mc = mc / 2 / MR * MR > 0 ? mc / 2 / MR * MR : MR;
        } else {
            nc = std::max(2l * NR, nc / 2 / NR * NR);
        }
    }
    const long row_blocks = (g.m + mc - 1) / mc;
    const std::function<void(long)> task = [&](long i) {
        const long row = i % row_blocks * mc, col = i / row_blocks * nc;
        block(g, row, std::min(mc, g.m - row), col, std::min(nc, g.n - col));
    };
    const double products = static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
    if (pool().size() == 1 || products < 5e5) {
        for (long i = 0; i < blocks(); ++i) task(i);
    } else {
        pool().run(blocks(), task);
    }
}

}  // namespace emulator
