// Registration of host-compiled kernels, so that they can be launched by name: the sizes of a kernel's parameters,
// deduced from its type, and a thunk that reads them from cuLaunchKernel's array.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <type_traits>
#include <utility>

namespace emulator {

// The number of device pointers at the start of a parameter, and how many of them are read-only. A parameter is a
// pointer, a number, or a struct that defines both as constants, as Params in kernels/common.cuh does.
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

// The size of the smallest element that a parameter points to. For a struct, it is the storage type's size, or SMALLEST
// if the struct defines it.
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
    unsigned smallest;  // The size of the smallest element that a parameter points to, at most 4.
    void (*run_thread)(void** parameters);
    // The section of its file's shared variables; null if there are none.
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
        for (const unsigned bytes : {4u, Smallest<Args>::bytes(storage_bytes)...})
            least = bytes < least ? bytes : least;
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

// Registers a kernel under the name that KERNEL defined.
#define REGISTER_KERNEL(name, threads) REGISTER_KERNEL_NAMED(KERNEL_NAME(name), threads)
#define REGISTER_KERNEL_NAMED(name, threads) REGISTER_KERNEL_AS(name, threads)
#define REGISTER_KERNEL_AS(name, threads)                                                     \
    static const emulator::Registration registration_##name(emulator::Thunk<&name>::describe( \
        #name, threads, sizeof(real), SHARED_BOUND(__start_), SHARED_BOUND(__stop_)));

// The linker's symbols for the start and end of section EMULATOR_SHARED, which holds the file's shared variables.
#define SHARED_BOUND(end) SHARED_JOIN(end, EMULATOR_SHARED)
#define SHARED_JOIN(end, section) SHARED_JOINED(end, section)
#define SHARED_JOINED(end, section) end##section
extern char SHARED_BOUND(__start_)[] __attribute__((weak, visibility("hidden")));
extern char SHARED_BOUND(__stop_)[] __attribute__((weak, visibility("hidden")));
