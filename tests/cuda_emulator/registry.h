// How a host-compiled kernel becomes launchable by name: its parameters' sizes, deduced from its type, and a thunk that
// reads them from cuLaunchKernel's array.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <type_traits>
#include <utility>

namespace emulator {

// Bytes of what T points to, up to a word.
template <class T>
constexpr unsigned pointed_bytes(T*) {
    return sizeof(T) < 4 ? sizeof(T) : 4;
}
constexpr unsigned pointed_bytes(...) { return 4; }

struct Kernel {
    const char* name;
    unsigned max_threads;
    unsigned parameter_count;
    const unsigned* parameter_sizes;
    const bool* parameter_is_pointer;
    const bool* parameter_is_read;  // Pointers to const.
    unsigned smallest;              // Bytes of what a parameter points to, and at most 4.
    void (*run_thread)(void** parameters);
    // The shared variables of its file; null where it has none.
    char *shared, *shared_end;
};

void register_kernel(const Kernel& kernel);

template <auto Function>
struct Thunk;

template <class... Args, void (*Function)(Args...)>
struct Thunk<Function> {
    static constexpr unsigned sizes[] = {sizeof(Args)..., 0};
    static constexpr bool pointers[] = {std::is_pointer<Args>::value..., false};
    static constexpr bool reads[] = {std::is_const<std::remove_pointer_t<Args>>::value..., false};

    static constexpr unsigned smallest() {
        unsigned least = 4;
        for (const unsigned bytes : {4u, pointed_bytes(Args{})...}) least = bytes < least ? bytes : least;
        return least;
    }

    template <std::size_t... I>
    static void call(void** parameters, std::index_sequence<I...>) {
        Function(*static_cast<std::remove_cv_t<Args>*>(parameters[I])...);
    }
    static void run(void** parameters) { call(parameters, std::index_sequence_for<Args...>()); }
    static Kernel describe(const char* name, unsigned max_threads, char* shared, char* shared_end) {
        return Kernel{name, max_threads, sizeof...(Args), sizes, pointers, reads, smallest(), run, shared, shared_end};
    }
};

struct Registration {
    explicit Registration(const Kernel& kernel) { register_kernel(kernel); }
};

}  // namespace emulator

// Registers a kernel under the name that KERNEL gave it.
#ifdef REAL_F16
#define REGISTER_KERNEL(name) REGISTER_KERNEL_NAMED(name##_f16)
#else
#define REGISTER_KERNEL(name) REGISTER_KERNEL_NAMED(name##_f32)
#endif
#define REGISTER_KERNEL_NAMED(name)                                      \
    static const emulator::Registration registration_##name(             \
        emulator::Thunk<&name>::describe(#name, BLOCK, SHARED_BOUND(__start_), SHARED_BOUND(__stop_)));

// The linker's names for the ends of the section of the file's shared variables, whose name is EMULATOR_SHARED.
#define SHARED_BOUND(end) SHARED_JOIN(end, EMULATOR_SHARED)
#define SHARED_JOIN(end, section) SHARED_JOINED(end, section)
#define SHARED_JOINED(end, section) end##section
extern char SHARED_BOUND(__start_)[] __attribute__((weak, visibility("hidden")));
extern char SHARED_BOUND(__stop_)[] __attribute__((weak, visibility("hidden")));
