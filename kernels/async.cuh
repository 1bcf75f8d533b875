// Asynchronous copies from global to shared memory (cp.async), and accesses of shared memory by words and by matrix
// fragments (ldmatrix), as inline PTX for compute_80. Addresses in shared memory have 32 bits, as in PTX.
#pragma once

#include "common.cuh"

#ifdef CNN_CUDA_EMULATOR
__device__ __forceinline__ u32 shared_address(const void* pointer) { return emulator_shared_address(pointer); }
__device__ __forceinline__ u32 load_shared(u32 from, EMULATOR_CALLER) { return emulator_load_shared(from, file, line); }
__device__ __forceinline__ u32 load_shared_half(u32 from) { return load_shared(from & ~3u) >> from % 4 * 8 & 0xffff; }
__device__ __forceinline__ void store_shared(u32 to, u32 value, EMULATOR_CALLER) {
    emulator_store_shared(to, value, file, line);
}

template <u32 BYTES>
__device__ __forceinline__ void copy_async(u32 to, const void* from, bool inside, EMULATOR_CALLER) {
    emulator_copy_async(to, from, BYTES, inside ? BYTES : 0, file, line);
}
__device__ __forceinline__ void commit_copies() { emulator_commit_copies(); }
template <u32 PENDING>
__device__ __forceinline__ void wait_copies() {
    emulator_wait_copies(PENDING);
}
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(u32 (&to)[4], u32 from, EMULATOR_CALLER) {
    emulator_load_matrices(to, from, TRANSPOSED, file, line);
}
#else
__device__ __forceinline__ u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// One aligned word; a 16-bit element as the low half of one.
__device__ __forceinline__ u32 load_shared(u32 from) {
    u32 value;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
    return value;
}
__device__ __forceinline__ u32 load_shared_half(u32 from) {
    unsigned short value;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(from) : "memory");
    return value;
}
__device__ __forceinline__ void store_shared(u32 to, u32 value) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}

// Starts a copy of BYTES (4, 8 or 16) aligned bytes; writes zeros, and does not read, if not `inside`. Copies of 16 bytes
// bypass L1.
template <u32 BYTES>
__device__ __forceinline__ void copy_async(u32 to, const void* from, bool inside) {
    const u32 present = inside ? BYTES : 0;
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(present) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(present)
                     : "memory");
    }
}

// Makes the thread's copies since the last commit a group.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of the thread's latest groups are unfinished. Other threads see the copies after a barrier.
template <u32 PENDING>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Loads four 8×8 matrices of 16-bit elements. Lane 8i + r has the address of row r of matrix i, 16 bytes. to[i] of a lane
// is elements 2 · (lane % 4) and the next of row lane / 4 of matrix i; if TRANSPOSED, of its column lane / 4.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(u32 (&to)[4], u32 from) {
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(from)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(from)
                     : "memory");
    }
}
#endif
