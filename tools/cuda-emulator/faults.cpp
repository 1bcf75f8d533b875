// Faults in device code: signals and failed compiler checks become CUDA errors, with a message that names the kernel.
//
// Kernels are compiled with the alignment and bounds sanitizers. Their handlers are defined here, so that no runtime
// library is needed. A fault abandons the running fiber with a jump back to `run_guarded`.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdio>
#include <cstring>

#include "emulator.h"
#include "races.h"
#include "shared.h"

namespace emulator {
namespace {

sigjmp_buf escape;
volatile bool guarded = false;
pthread_t guarded_thread;
CUresult failure;
int fault_signal = 0;
uintptr_t fault_address = 0;
bool fault_writing = false;
std::string running_operation;
struct sigaction previous_segv, previous_bus, previous_fpe, previous_ill;

}  // namespace

std::string describe_address(uintptr_t address, bool writing) {
    const char* verb = writing ? "wrote" : "accessed";
    char text[256];
    const Allocation* near = find_allocation(address);
    if (!near) {
        snprintf(text, sizeof text, "%s address 0x%zx, which is not device memory", verb, static_cast<size_t>(address));
    } else {
        snprintf(text, sizeof text, "%s byte %td of allocation #%u, which %s %zu bytes", verb,
                 static_cast<ptrdiff_t>(address - near->start), near->id, near->freed ? "was freed and had" : "has",
                 near->size);
    }
    return text;
}

namespace {

const struct sigaction& previous(int signal) {
    switch (signal) {
        case SIGSEGV:
            return previous_segv;
        case SIGBUS:
            return previous_bus;
        case SIGFPE:
            return previous_fpe;
        default:
            return previous_ill;
    }
}

// Only records the fault and jumps out, because the signal stack is too small for anything more.
void on_signal(int signal, siginfo_t* info, void* context) {
    if (!guarded || !pthread_equal(guarded_thread, pthread_self())) {
        // Not device code: restore the previous handler, which the repeated fault then reaches.
        sigaction(signal, &previous(signal), nullptr);
        return;
    }
    fault_signal = signal;
    fault_address = reinterpret_cast<uintptr_t>(info->si_addr);
#if defined(__x86_64__)
    fault_writing = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
    (void)context;
#endif
    siglongjmp(escape, 2);
}

CUresult explain_signal() {
    const std::string where = running_operation + running_thread();
    if (fault_signal == SIGFPE) {
        log_message(where + ": integer division by zero");
        return CUDA_ERROR_LAUNCH_FAILED;
    }
    // clang's checks of local arrays trap with an illegal instruction.
    log_message(
        where + ": " +
        (fault_signal == SIGILL ? "an array index is out of bounds" : describe_address(fault_address, fault_writing)));
    return CUDA_ERROR_ILLEGAL_ADDRESS;
}

void install_handlers() {
    static bool installed = false;
    if (installed) return;
    installed = true;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous_segv);
    sigaction(SIGBUS, &action, &previous_bus);
    sigaction(SIGFPE, &action, &previous_fpe);
    sigaction(SIGILL, &action, &previous_ill);
}

// The handler needs its own stack if a fiber's stack overflows. Rust threads already have one.
void ensure_signal_stack() {
    static thread_local bool ensured = false;
    if (ensured) return;
    ensured = true;
    stack_t existing;
    if (sigaltstack(nullptr, &existing) != 0 || !(existing.ss_flags & SS_DISABLE)) return;
    stack_t made;
    memset(&made, 0, sizeof made);
    made.ss_size = 64 * 1024;
    made.ss_sp = new char[made.ss_size];
    sigaltstack(&made, nullptr);
}

}  // namespace

void log_message(const std::string& message) { fprintf(stderr, "CUDA emulator: %s\n", message.c_str()); }

void fail_running(CUresult error, const std::string& message) {
    log_message(running_operation + running_thread() + ": " + message);
    failure = error;
    siglongjmp(escape, 1);
}

void fail_at(CUresult error, const std::string& message, const Place& place) {
    const std::string line = place.file ? std::string(", at ") + place.file + ":" + std::to_string(place.line) : "";
    fail_running(error, message + line + races::line_of(place.pc));
}

CUresult run_guarded(const std::string& what, const std::function<CUresult()>& body) {
    install_handlers();
    ensure_signal_stack();
    running_operation = what;
    guarded_thread = pthread_self();
    if (const int how = sigsetjmp(escape, 1)) {
        guarded = false;
        if (how == 2) failure = explain_signal();
        abandon_grid();
        return failure;
    }
    guarded = true;
    const CUresult result = body();
    guarded = false;
    return result != CUDA_SUCCESS ? result : check_guards(what.c_str());
}

}  // namespace emulator

// The start of the records that the compiler passes to the sanitizers' handlers.
struct CheckedPlace {
    const char* file;
    uint32_t line, column;
};

static std::string location(const CheckedPlace* at) {
    return std::string(at->file ? at->file : "?") + ":" + std::to_string(at->line);
}

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1_abort(CheckedPlace* at,
                                                                                            uintptr_t address) {
    char text[64];
    snprintf(text, sizeof text, "misaligned access to 0x%zx, at ", static_cast<size_t>(address));
    emulator::fail_running(CUDA_ERROR_MISALIGNED_ADDRESS, text + location(at));
}

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds_abort(CheckedPlace* at,
                                                                                         uintptr_t index) {
    emulator::fail_running(CUDA_ERROR_ILLEGAL_ADDRESS,
                           "index " + std::to_string(index) + " is outside its array, at " + location(at));
}
