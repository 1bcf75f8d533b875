// The context switch between fibers, in assembly. It saves only callee-saved registers, so a switch takes a few
// nanoseconds.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

extern "C" void emulator_switch(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.hidden emulator_switch
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
constexpr size_t SAVED_WORDS = 6;  // Below the return address.
#elif defined(__aarch64__)
asm(R"(
.text
.hidden emulator_switch
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emulator_switch, .-emulator_switch
)");
constexpr size_t SAVED_WORDS = 20;
#else
#error "the emulator's context switch is written for x86-64 and aarch64"
#endif

namespace emulator {
namespace {

constexpr size_t GUARD = 64 * 1024;  // Inaccessible, below the stack; a multiple of every page size.
constexpr size_t STACK = 256 * 1024;
// Stacks start at different offsets within their pages; otherwise the tops of all would map to the same few cache sets.
constexpr size_t STAGGER = 17 * 64, STAGGERS = 59;

void* outside = nullptr;
void** inside = nullptr;

}  // namespace

Fiber::Fiber(void (*entry)()) {
    void* mapped = mmap(nullptr, GUARD + STACK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) abort();
    char* stack = static_cast<char*>(mapped) + GUARD;
    if (mprotect(stack, STACK, PROT_READ | PROT_WRITE) != 0) abort();
    static size_t made = 0;
    uint64_t* top = reinterpret_cast<uint64_t*>(stack + STACK - made++ % STAGGERS * STAGGER);
#if defined(__x86_64__)
    *--top = 0;  // Keeps the stack aligned as if `entry` had been called.
    *--top = reinterpret_cast<uint64_t>(entry);
    top -= SAVED_WORDS;  // Fresh pages are zero.
#else
    top -= SAVED_WORDS;
    top[11] = reinterpret_cast<uint64_t>(entry);  // x30, where `ret` goes.
#endif
    position_ = top;
}

void Fiber::enter() {
    inside = &position_;
    emulator_switch(&outside, position_);
}

void Fiber::leave() { emulator_switch(inside, outside); }

}  // namespace emulator
