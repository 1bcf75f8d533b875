// Shared by every kernel: the storage type, the KERNEL macro, 16-byte vector access and index arithmetic.
//
// Each file is compiled once per storage type: `real` is float, a half if the host compiles with -DREAL_F16, or a
// bfloat16 with -DREAL_BF16.
// Arithmetic is always fp32. A sum of two products is written with fmaf, because otherwise the compiler would choose which product to round.
// Buffers start on 16-byte boundaries, as vector access requires.
#pragma once

#ifdef CNN_CUDA_EMULATOR
#include "cuda_device.h"
#endif

#include "half.cuh"

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
static_assert(sizeof(u32) == 4 && sizeof(u64) == 8, "sizes are shared with Rust");

// Threads per block, unless a kernel declares another number. The launchers use the same number.
constexpr u32 BLOCK = 256;
constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// Base of a kernel's parameter struct, which is passed by value and mirrored by the launcher in src/cuda/lower. The
// struct has BYTES bytes, padded to a multiple of 8: first POINTERS pointers, of which the first READS are read-only,
// then 8-byte fields and arrays of 8-byte alignment, then 4-byte fields. If a pointer's element is smaller than the
// storage type, the struct defines SMALLEST as its size. The emulator's checks read all of these constants.
template <u32 READS_, u32 POINTERS_, u32 BYTES_>
struct Params {
    static constexpr u32 READS = READS_, POINTERS = POINTERS_, BYTES = BYTES_;
};

// Programmatic dependent launch: blocks of a kernel may be scheduled before the previous kernel of the stream has
// completed. Waits until it has and its writes are visible, then lets the next kernel's blocks be scheduled. Every
// kernel waits before it accesses global memory, so kernels that have completed are complete in order: the third kernel
// waits for the second, which completed only after it had waited for the first. Without the launch attribute, neither
// instruction has an effect. Targets before compute_90 have neither.
__device__ __forceinline__ void wait_for_previous_kernel() {
#ifdef CNN_CUDA_EMULATOR
    emulator_wait_for_previous_kernel();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Defines a kernel with parameters `p`. Its name gets a suffix for the storage type. KERNEL(name, Type) has BLOCK threads,
// and two of its blocks share a multiprocessor; KERNEL(name, Type, threads, blocks) declares other numbers.
//
// The braces that follow are the body, a function that the kernel calls after wait_for_previous_kernel().
//
// A kernel whose name ends in `_vec` is a variant for channel counts that are multiples of VEC: each thread handles 16
// bytes.
#ifdef REAL_F16
typedef half real;
#define KERNEL_NAME(name) name##_f16
#elif defined(REAL_BF16)
typedef bfloat16 real;
#define KERNEL_NAME(name) name##_bf16
#else
typedef float real;
#define KERNEL_NAME(name) name##_f32
#endif
#define KERNEL(name, ...) KERNEL_OF(__VA_ARGS__, SIZED, UNUSED, USUAL)(name, __VA_ARGS__)
#define KERNEL_OF(type, threads, blocks, kind, ...) KERNEL_##kind
#define KERNEL_USUAL(name, type) KERNEL_SIZED(name, type, BLOCK, 2)
#define KERNEL_SIZED(name, type, threads, blocks)                                                                     \
    static_assert(sizeof(type) == type::BYTES, "the layout is shared with Rust");                                     \
    static __device__ __forceinline__ void name##_body(const type& p);                                                \
    extern "C" __global__ void __launch_bounds__(threads, blocks) KERNEL_NAME(name)(const __grid_constant__ type p) { \
        wait_for_previous_kernel();                                                                                   \
        name##_body(p);                                                                                               \
    }                                                                                                                 \
    static __device__ __forceinline__ void name##_body(const type& p)

// A block's dynamic shared memory, as an array named `name`.
#ifdef CNN_CUDA_EMULATOR
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulator_dynamic_shared())
#else
#define DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared)
#endif

// Grid-stride loop over every `i` below `count`; any grid covers any count.
#define GRID_STRIDE(i, count) \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += (u64)gridDim.x * blockDim.x)

__device__ __forceinline__ float load(float value) { return value; }
__device__ __forceinline__ float load(half value) { return to_float(value); }
__device__ __forceinline__ float load(bfloat16 value) { return to_float(value); }
__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(half* to, float value) { from_float(to, value); }
__device__ __forceinline__ void store(bfloat16* to, float value) { from_float(to, value); }

// Calls `f(0)` to `f(N - 1)`, unrolled, so that `f` may index arrays in registers.
template <u32 N, class F>
__device__ __forceinline__ void unroll(F f) {
#pragma unroll
    for (u32 i = 0; i < N; ++i) f(i);
}
template <u32 FIRST, u32 N, class F>
__device__ __forceinline__ void unroll_from(F f) {
#pragma unroll
    for (u32 i = FIRST; i < N; ++i) f(i);
}

// Elements per 16 bytes: 4 floats or 8 16-bit numbers.
constexpr u32 VEC = 16 / sizeof(real);

// V consecutive elements, aligned to their total size: one access, or several of 16 bytes.
template <u32 SIZE>
struct WordOf {
    typedef uint4 Type;
};
template <>
struct WordOf<2> {
    typedef unsigned short Type;
};
template <>
struct WordOf<4> {
    typedef u32 Type;
};
template <>
struct WordOf<8> {
    typedef uint2 Type;
};
template <u32 V, class T>
union Pack {
    typedef typename WordOf<V * sizeof(T)>::Type Word;
    static constexpr u32 WORDS = V * sizeof(T) / sizeof(Word);
    Word words[WORDS];
    T lane[V];
};

template <u32 V, class T>
__device__ __forceinline__ Pack<V, T> load_pack(const T* from) {
    Pack<V, T> pack;
    const auto* const words = reinterpret_cast<const typename Pack<V, T>::Word*>(from);
    unroll<Pack<V, T>::WORDS>([&](u32 i) { pack.words[i] = words[i]; });
    return pack;
}

// load_pack for memory that nothing writes while the kernel runs: the load takes the non-coherent path, and the
// compiler may move it past stores. (Compilers seldom honour __restrict__ on a pointer in a parameter struct.)
template <u32 V, class T>
__device__ __forceinline__ Pack<V, T> read_pack(const T* from) {
    Pack<V, T> pack;
    const auto* const words = reinterpret_cast<const typename Pack<V, T>::Word*>(from);
    unroll<Pack<V, T>::WORDS>([&](u32 i) { pack.words[i] = __ldg(words + i); });
    return pack;
}

template <u32 V, class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<V, T>& pack) {
    unroll<Pack<V, T>::WORDS>([&](u32 i) { reinterpret_cast<typename Pack<V, T>::Word*>(to)[i] = pack.words[i]; });
}

// V elements converted to float for arithmetic.
template <u32 V>
struct Lanes {
    float values[V];
    __device__ __forceinline__ float& operator[](u32 lane) { return values[lane]; }
    __device__ __forceinline__ const float& operator[](u32 lane) const { return values[lane]; }
};

template <u32 V, class T>
__device__ __forceinline__ Lanes<V> lanes_of(const Pack<V, T>& pack) {
    Lanes<V> lanes;
    unroll<V>([&](u32 lane) { lanes[lane] = load(pack.lane[lane]); });
    return lanes;
}

template <u32 V, class T>
__device__ __forceinline__ Lanes<V> load_lanes(const T* from) {
    return lanes_of(load_pack<V>(from));
}
template <u32 V, class T>
__device__ __forceinline__ Lanes<V> read_lanes(const T* from) {
    return lanes_of(read_pack<V>(from));
}
template <class T>
__device__ __forceinline__ float read(const T* from) {
    return read_lanes<1>(from)[0];
}

template <u32 V, class T>
__device__ __forceinline__ void store_lanes(T* to, const Lanes<V>& lanes) {
    Pack<V, T> pack;
    unroll<V>([&](u32 lane) { store(&pack.lane[lane], lanes[lane]); });
    store_pack(to, pack);
}

// `VEC` elements starting at `first`; zeros past `count`.
__device__ __forceinline__ Lanes<VEC> load_some(const real* from, u64 first, u64 count) {
    if (first + VEC <= count) return load_lanes<VEC>(from + first);
    Lanes<VEC> lanes;
    unroll<VEC>([&](u32 lane) { lanes[lane] = first + lane < count ? load(from[first + lane]) : 0.0f; });
    return lanes;
}

__device__ __forceinline__ void store_some(real* to, const Lanes<VEC>& lanes, u64 first, u64 count) {
    if (first + VEC <= count) return store_lanes(to + first, lanes);
    unroll<VEC>([&](u32 lane) {
        if (first + lane < count) store(to + first + lane, lanes[lane]);
    });
}

// f(a[lane], b[lane], ...) for every lane.
template <class F, u32 V, class... More>
__device__ __forceinline__ Lanes<V> map_lanes(F f, const Lanes<V>& a, const More&... more) {
    Lanes<V> results;
#pragma unroll
    for (u32 lane = 0; lane < V; ++lane) results[lane] = f(a[lane], more[lane]...);
    return results;
}

// to[i] = f(from[i], ...) for every i below `count`, one thread per 16 bytes; `to` may be one of the sources.
template <class F, class... Sources>
__device__ __forceinline__ void map(real* to, u64 count, F f, const Sources*... from) {
    GRID_STRIDE(i, (count + VEC - 1) / VEC) {
        store_some(to, map_lanes(f, load_some(from, i * VEC, count)...), i * VEC, count);
    }
}

// The row or column that a mirror at the outermost pixels shows in the padding around `side` pixels.
__device__ __forceinline__ int reflected(int at, int side) { return at < 0 ? -at : min(at, 2 * (side - 1) - at); }

// Divides `value` by `divisor` in place and returns the remainder. 64-bit division is several times slower than
// 32-bit on a GPU, and almost every index is small.
__device__ __forceinline__ u32 divmod(u64& value, u32 divisor) {
    if (value >> 32 == 0) {
        const u32 small = (u32)value;
        const u32 quotient = small / divisor;
        value = quotient;
        return small - quotient * divisor;
    }
    const u64 quotient = value / divisor;
    const u32 digit = (u32)(value - quotient * divisor);
    value = quotient;
    return digit;
}

// Calls `visit(at, row, channel)` for every V values of [count / channels][channels], with the index, row and channel
// of the first of them.
template <u32 V, class Visit>
__device__ __forceinline__ void for_channels(u64 count, u32 channels, Visit visit) {
    GRID_STRIDE(i, count / V) {
        u64 row = i;
        const u32 channel = divmod(row, channels / V) * V;
        visit(i * V, row, channel);
    }
}

// The activation, selected by `slope`: 1 is the identity, 0 is ReLU, −1 is tanh, and any other value is leaky ReLU with
// that negative slope. As in PyTorch, ReLU returns +0 for all negative values, including −∞, and propagates NaN.
// activate_piecewise() is for kernels that are not launched with tanh, whose code is many times that of the others.
__device__ __forceinline__ float activate_piecewise(float value, float slope) {
    // Without branches, because kernels process many values at once.
    const float relu = value != value ? value : 0.0f;
    const float negative = slope == 0.0f ? relu : slope * value;
    return value > 0.0f || slope == 1.0f ? value : negative;
}
__device__ __forceinline__ float activate(float value, float slope) {
    return slope < 0.0f ? tanhf(value) : activate_piecewise(value, slope);
}

// The gradient of the activation's input, computed from its output. Without tanh, the sign of the output suffices.
__device__ __forceinline__ float activate_backward_piecewise(float output, float d_output, float slope) {
    const float negative = slope == 0.0f ? 0.0f : slope * d_output;
    return output > 0.0f || slope == 1.0f ? d_output : negative;
}
__device__ __forceinline__ float activate_backward(float output, float d_output, float slope) {
    const float piecewise = activate_backward_piecewise(output, d_output, slope);
    return slope < 0.0f ? d_output * (1.0f - output * output) : piecewise;
}

__device__ __forceinline__ bool is_finite(float value) { return value - value == 0.0f; }
