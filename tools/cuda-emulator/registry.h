// How a host-compiled kernel becomes launchable by name: its parameters' sizes, deduced from its type, and a thunk that
// reads them from cuLaunchKernel's array.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <type_traits>
#include <utility>

namespace emulator {

// The device pointers that a parameter begins with: how many, and how many of those are only read from. A parameter is a
// pointer, a number, or a struct that says so itself, as those of kernels/ do.
struct Pointers {
    unsigned count, reads;
};
template <class T>
constexpr Pointers pointers_of() {
    if constexpr (std::is_class<T>::value) {
        return {T::POINTERS, T::READS};
    } else if constexpr (std::is_pointer<T>::value) {
        return {1, std::is_const<std::remove_pointer_t<T>>::value};
    } else {
        return {0, 0};
    }
}

// Bytes of what a parameter points to, up to a word; of a struct those of the storage type, or of what it calls SMALLEST.
template <class T, class = void>
struct Smallest {
    static constexpr unsigned bytes(unsigned storage) { return std::is_class<T>::value ? storage : 4; }
};
template <class T>
struct Smallest<T*> {
    static constexpr unsigned bytes(unsigned) { return sizeof(T); }
};
template <class T>
struct Smallest<T, std::void_t<decltype(T::SMALLEST)>> {
    static constexpr unsigned bytes(unsigned) { return T::SMALLEST; }
};

struct Kernel {
    const char* name;
    unsigned max_threads;
    unsigned parameter_count;
    const unsigned* parameter_sizes;
    const Pointers* parameter_pointers;
    unsigned smallest;  // Bytes of what a parameter points to, and at most 4.
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
    static constexpr Pointers pointers[] = {pointers_of<Args>()..., {0, 0}};

    static constexpr unsigned smallest(unsigned storage_bytes) {
        unsigned least = 4;
        for (const unsigned bytes : {4u, Smallest<Args>::bytes(storage_bytes)...}) least = bytes < least ? bytes : least;
        return least;
    }

    template <std::size_t... I>
    static void call(void** parameters, std::index_sequence<I...>) {
        Function(*static_cast<std::remove_cv_t<Args>*>(parameters[I])...);
    }
    static void run(void** parameters) { call(parameters, std::index_sequence_for<Args...>()); }
    static Kernel describe(const char* name, unsigned max_threads, unsigned storage_bytes, char* shared, char* end) {
        return Kernel{name, max_threads, sizeof...(Args), sizes, pointers, smallest(storage_bytes), run, shared, end};
    }
};

struct Registration {
    explicit Registration(const Kernel& kernel) { register_kernel(kernel); }
};

}  // namespace emulator

// Registers a kernel under the name that KERNEL gave it.
#define REGISTER_KERNEL(name) REGISTER_KERNEL_NAMED(KERNEL_NAME(name))
#define REGISTER_KERNEL_NAMED(name) REGISTER_KERNEL_AS(name)
#define REGISTER_KERNEL_AS(name)                                         \
    static const emulator::Registration registration_##name(             \
        emulator::Thunk<&name>::describe(#name, BLOCK, sizeof(real), SHARED_BOUND(__start_), SHARED_BOUND(__stop_)));

// The linker's names for the ends of the section of the file's shared variables, whose name is EMULATOR_SHARED.
#define SHARED_BOUND(end) SHARED_JOIN(end, EMULATOR_SHARED)
#define SHARED_JOIN(end, section) SHARED_JOINED(end, section)
#define SHARED_JOINED(end, section) end##section
extern char SHARED_BOUND(__start_)[] __attribute__((weak, visibility("hidden")));
extern char SHARED_BOUND(__stop_)[] __attribute__((weak, visibility("hidden")));
