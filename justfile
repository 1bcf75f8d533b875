# The commands of this project: `just` lists them, `just NAME` runs one. `.ci/run` runs the same.

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the commands.
default:
    @just --list

# Compile everything without running it.
check:
    cargo check --workspace --all-targets

# Format Rust and CUDA sources.
fmt:
    cargo fmt --all
    clang-format -i kernels/* tools/cuda-emulator/* tests/cuda_emulator/*.cu

# Check formatting and lints; those of CUDA sources if clang-format is installed.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    if command -v clang-format >/dev/null; then \
        clang-format --dry-run --Werror kernels/* tools/cuda-emulator/* tests/cuda_emulator/*.cu; \
    else \
        echo "skipped: clang-format is not installed"; \
    fi

# Check licences, sources, the minimum Rust version and known security advisories of all dependencies, without a network.
deps:
    .ci/dependencies
    .ci/advisories

# Check dependencies for the newest security advisories; needs cargo-deny and a network.
advisories:
    cargo deny check

# Check that the minimum Rust version of Cargo.toml compiles the program, where rustup has it.
msrv:
    #!/usr/bin/env bash
    set -euo pipefail
    version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if rustup run "$version" rustc --version 2>/dev/null; then
        CARGO_TARGET_DIR=target/msrv cargo "+$version" check --workspace --all-targets
    else
        echo "skipped: Rust $version is not installed (rustup toolchain install $version)"
    fi

# Check the unsafe code of the CPU backend with Miri, where rustup has it.
miri:
    #!/usr/bin/env bash
    set -euo pipefail
    if rustup run nightly cargo miri --version 2>/dev/null; then
        # crossbeam, which schedules the threads, violates stacked borrows but not tree borrows.
        export MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-permissive-provenance"
        CNN_CUDA_NVRTC=none CARGO_TARGET_DIR=target/miri cargo +nightly miri test --test all -- small_shapes_stay
    else
        echo "skipped: Miri is not installed (rustup toolchain install nightly --component miri,rust-src)"
    fi

# Build the documentation of the library; warnings are errors.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Run the tests, or those whose name contains the argument: `just test lrn`.
test *ARGS:
    cargo test {{ ARGS }}

# Run the tests that take long, and the unit tests of private functions.
test-long:
    cargo test --test all -- --ignored
    cargo test --lib

# Fuzz the readers of files, each for SECONDS: `just fuzz 60`, `just fuzz 3600 picture archive`.
fuzz seconds="60" *TARGETS:
    tests/fuzz/run {{ seconds }} {{ TARGETS }}

# Kill runs KILLS times, and cut their power half as often; they must be continued to the same files.
campaign kills="30":
    cargo build --profile quick
    tests/campaign/kills.py target/quick/cnn-cuda {{ kills }}
    tests/campaign/kills.py target/quick/cnn-cuda $(({{ kills }} / 2)) --power

# Fail every system call of a run once, or COUNT of them; the run must be continued to the same files. Needs strace.
failures count="":
    cargo build --profile quick
    tests/campaign/failures.py target/quick/cnn-cuda {{ count }}

# Compile with little optimisation across crates, in a third of the time of a release build, and run: `just quick train`.
quick *ARGS:
    cargo run --profile quick -- {{ ARGS }}

# Run the commands of README.md and docs/ in an empty folder below target/.
docs:
    cargo build --release
    rm -rf target/docs
    .ci/docs target/release/cnn-cuda target/docs

# Write the screenshots of README.md and docs/, of a network that is trained for them; needs Chromium and chromedriver.
screenshots:
    cargo build --release
    rm -rf target/screenshots && mkdir -p target/screenshots
    target/release/cnn-cuda train --dataset digits --epochs 3 --device cpu --out target/screenshots/run
    CNN_CUDA_BIN="$PWD/target/release/cnn-cuda" CNN_CUDA_SCREENSHOT_RUN=target/screenshots/run \
    CNN_CUDA_SCREENSHOTS=docs/images \
        cargo test --test all -- --ignored --test-threads 1 screenshots
    CNN_CUDA_RENEW=1 cargo test --test all -- the_dashboard_looks_as_in_the_documentation

# Benchmark single operators on the CPU.
bench *ARGS:
    cargo bench -p cnn-cuda-benches {{ ARGS }}

# Compare training steps with PyTorch, which must be installed.
compare *ARGS:
    cargo build --release
    python3 benches/compare.py {{ ARGS }}

# Write the benchmark tables of README.md and docs/ from benches/results/.
tables:
    python3 benches/compare.py --tables

# Write the tables of all kernels to benches/results/, from a build with NVRTC: `just kernels PTXAS NVDISASM`.
kernels ptxas="ptxas" nvdisasm="nvdisasm":
    cargo build
    python3 benches/kernel_table.py --ptxas {{ ptxas }} >benches/results/kernels.md.new
    python3 benches/instructions.py --ptxas {{ ptxas }} --nvdisasm {{ nvdisasm }} >benches/results/instructions-sm_90.md.new
    for page in kernels instructions-sm_90; do mv benches/results/$page.md.new benches/results/$page.md; done

# Everything that CI proves.
ci:
    .ci/run
