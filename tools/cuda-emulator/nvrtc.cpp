// The emulated NVRTC. It compiles nothing: it finds the kernels' names in the source and writes them as entries of a
// PTX file that the emulated driver can load.
//
// It reports the errors that a build script can cause: an unknown option, a missing header, unbalanced brackets, and a
// source without kernels.
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

enum Result { OK = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6 };

struct Program {
    std::string source, name, log, ptx;
    std::map<std::string, std::string> headers;
    std::vector<std::string> include_folders;
    std::string architecture = "75", storage = "_f32";
};

#define NVRTC_API extern "C" __attribute__((visibility("default"))) Result

namespace {

// In CUDA's numbering: 13000 is 13.0.
int version() {
    const char* text = getenv("CUDA_EMULATOR_NVRTC");
    return text && *text ? atoi(text) : 13000;
}

// The PTX version of the output. CUDA 12.6 has the same PTX version as CUDA 12.5.
std::string ptx_version() {
    const int minor = version() % 1000 / 10;
    if (version() >= 13000) return "9." + std::to_string(minor);
    return "8." + std::to_string(minor <= 5 ? minor : minor - 1);
}

// The source without comments and with empty string literals, so that brackets and names can be found. Keeps line
// breaks.
std::string strip_comments(const std::string& source) {
    std::string out;
    for (size_t i = 0; i < source.size(); ++i) {
        const char c = source[i];
        if (source.compare(i, 2, "//") == 0) {
            while (i + 1 < source.size() && source[i + 1] != '\n') ++i;
        } else if (source.compare(i, 2, "/*") == 0) {
            const size_t end = source.find("*/", i + 2);
            i = end == std::string::npos ? source.size() : end + 1;
        } else if (c == '\'' && i > 0 && isalnum(static_cast<unsigned char>(source[i - 1]))) {
            continue;  // A digit separator.
        } else if (c == '"' || c == '\'') {
            for (++i; i < source.size() && source[i] != c && source[i] != '\n'; ++i) i += source[i] == '\\';
            out += "\"\"";
        } else {
            out += c;
        }
    }
    return out;
}

bool balanced(const std::string& text) {
    std::string open;
    for (const char c : text) {
        if (c == '(' || c == '{' || c == '[') open += c;
        if (c != ')' && c != '}' && c != ']') continue;
        const char expected = c == ')' ? '(' : c == '}' ? '{' : '[';
        if (open.empty() || open.back() != expected) return false;
        open.pop_back();
    }
    return open.empty();
}

std::string identifier_at(const std::string& text, size_t at) {
    size_t end = at;
    while (end < text.size() && (isalnum(static_cast<unsigned char>(text[end])) || text[end] == '_')) ++end;
    return text.substr(at, end - at);
}

// The kernels' names: KERNEL(name) at the start of a line gives the name with the suffix, `__global__ void name(` the
// name.
std::vector<std::string> kernels(const std::string& text, const std::string& suffix) {
    std::vector<std::string> names;
    for (size_t at = text.find("KERNEL("); at != std::string::npos; at = text.find("KERNEL(", at + 1)) {
        if (at == 0 || text[at - 1] == '\n') names.push_back(identifier_at(text, at + 7) + suffix);
    }
    const std::string plain = "__global__ void ";
    for (size_t at = text.find(plain); at != std::string::npos; at = text.find(plain, at + 1)) {
        const std::string name = identifier_at(text, at + plain.size());
        if (!name.empty() && name != "__launch_bounds__" && text.find('#', text.rfind('\n', at) + 1) > at) {
            names.push_back(name);
        }
    }
    return names;
}

bool header_exists(const Program& program, const std::string& name) {
    if (program.headers.count(name)) return true;
    for (const std::string& folder : program.include_folders) {
        if (std::ifstream(folder + "/" + name)) return true;
    }
    return false;
}

// The first quoted #include, in the source or the headers passed with it, whose file cannot be found.
std::string missing_header(const Program& program) {
    std::vector<std::string> texts{program.source};
    for (const auto& header : program.headers) texts.push_back(header.second);
    for (const std::string& text : texts) {
        const std::string include = "#include \"";
        for (size_t at = text.find(include); at != std::string::npos; at = text.find(include, at + 1)) {
            const size_t from = at + include.size();
            const std::string name = text.substr(from, text.find('"', from) - from);
            // Included only when the emulator is built.
            if (name != "cuda_device.h" && !header_exists(program, name)) return name;
        }
    }
    return "";
}

bool starts_with(const std::string& text, const std::string& start) {
    return text.compare(0, start.size(), start) == 0;
}

bool take_option(Program* program, const std::string& option) {
    for (const char* name : {"--gpu-architecture=", "-arch="}) {
        if (!starts_with(option, name)) continue;
        const size_t at = option.find('_');
        if (at == std::string::npos) return false;
        program->architecture = option.substr(at + 1);
    }
    for (const char* name : {"--include-path=", "-I"}) {
        if (starts_with(option, name)) program->include_folders.push_back(option.substr(strlen(name)));
    }
    for (const char* define : {"-D", "--define-macro="}) {
        if (option == std::string(define) + "REAL_F16") program->storage = "_f16";
        if (option == std::string(define) + "REAL_BF16") program->storage = "_bf16";
    }
    return starts_with(option, "-");
}

Result fail(Program* program, const std::string& why) {
    program->log = program->name + "(1): error: " + why + "\n\n1 error detected in the compilation of \"" +
                   program->name + "\".\n";
    return COMPILATION;
}

void copy_text(const std::string& text, char* to) { memcpy(to, text.c_str(), text.size() + 1); }

}  // namespace

NVRTC_API nvrtcVersion(int* major, int* minor) {
    *major = version() / 1000;
    *minor = version() % 1000 / 10;
    return OK;
}

NVRTC_API nvrtcCreateProgram(Program** program, const char* source, const char* name, int header_count,
                             const char* const* headers, const char* const* include_names) {
    if (!program || !source || header_count < 0) return INVALID_INPUT;
    *program = new Program;
    (*program)->source = source;
    (*program)->name = name ? name : "default_program";
    for (int i = 0; i < header_count; ++i) (*program)->headers[include_names[i]] = headers[i];
    return OK;
}

NVRTC_API nvrtcDestroyProgram(Program** program) {
    if (!program || !*program) return INVALID_PROGRAM;
    delete *program;
    *program = nullptr;
    return OK;
}

NVRTC_API nvrtcCompileProgram(Program* program, int option_count, const char* const* options) {
    if (!program) return INVALID_PROGRAM;
    for (int i = 0; i < option_count; ++i) {
        if (take_option(program, options[i])) continue;
        program->log = std::string("nvrtc: error: invalid option: ") + options[i] + "\n";
        return INVALID_OPTION;
    }
    const std::string missing = missing_header(*program);
    if (!missing.empty()) return fail(program, "could not open source file \"" + missing + "\"");
    const std::string text = strip_comments(program->source);
    if (!balanced(text)) return fail(program, "expected a matching bracket");
    const std::vector<std::string> names = kernels(text, program->storage);
    if (names.empty()) return fail(program, "the program has no kernel");
    program->ptx = "// Emulated PTX: kernel names only.\n.version " + ptx_version() + "\n.target sm_" +
                   program->architecture + "\n.address_size 64\n\n";
    for (const std::string& name : names) program->ptx += ".visible .entry " + name + "()\n{\n\tret;\n}\n";
    return OK;
}

NVRTC_API nvrtcGetPTXSize(Program* program, size_t* size) {
    if (!program || program->ptx.empty()) return INVALID_PROGRAM;
    *size = program->ptx.size() + 1;
    return OK;
}

NVRTC_API nvrtcGetPTX(Program* program, char* ptx) {
    if (!program || program->ptx.empty()) return INVALID_PROGRAM;
    copy_text(program->ptx, ptx);
    return OK;
}

NVRTC_API nvrtcGetProgramLogSize(Program* program, size_t* size) {
    if (!program) return INVALID_PROGRAM;
    *size = program->log.size() + 1;
    return OK;
}

NVRTC_API nvrtcGetProgramLog(Program* program, char* log) {
    if (!program) return INVALID_PROGRAM;
    copy_text(program->log, log);
    return OK;
}

extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(Result result) {
    switch (result) {
        case OK:
            return "NVRTC_SUCCESS";
        case INVALID_INPUT:
            return "NVRTC_ERROR_INVALID_INPUT";
        case INVALID_PROGRAM:
            return "NVRTC_ERROR_INVALID_PROGRAM";
        case INVALID_OPTION:
            return "NVRTC_ERROR_INVALID_OPTION";
        case COMPILATION:
            return "NVRTC_ERROR_COMPILATION";
    }
    return "NVRTC_ERROR unknown";
}

NVRTC_API nvrtcGetNumSupportedArchs(int* count) {
    *count = 3;
    return OK;
}

NVRTC_API nvrtcGetSupportedArchs(int* archs) {
    archs[0] = 75;
    archs[1] = 80;
    archs[2] = 90;
    return OK;
}
