#!/usr/bin/env bash
# Runs everything that needs a GPU: device tests, parity, 20-epoch training in every precision, profiles, benchmarks and
# compute-sanitizer. Writes logs and JSON to a folder (first argument, default benches/results/gpu-<date>). Further
# arguments are prefixes of the names of the parts to run. No part starts after CNN_CUDA_GPU_SECONDS (default: 1500).
# `gpu.sh --quick [OUT]` runs only the most important parts, in four minutes; see gpu_quick.sh.
#
# The program and the tests are built with cargo, or taken from CNN_CUDA_BIN and CNN_CUDA_TESTS on a host without cargo.
# MNIST is read from CNN_CUDA_DATA (default: data). Every part runs even if an earlier one failed; the exit code is 1 if
# any part failed.
set -uo pipefail
cd "$(dirname "$0")/.."

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
    echo "no NVIDIA GPU: nvidia-smi is missing or finds no GPU; nothing was run" >&2
    exit 1
fi
quick=
[ "${1:-}" != --quick ] || { quick=yes; shift; }
out=${1:-benches/results/gpu-$(date +%Y-%m-%d)}
mkdir -p "$out"
export CNN_CUDA_DATA="${CNN_CUDA_DATA:-data}"
if [ -z "${CNN_CUDA_BIN:-}" ]; then
    cargo build --release || exit 1
    CNN_CUDA_BIN=target/release/cnn-cuda
fi
export CNN_CUDA_BIN
failed=()
# Makes tests fail instead of skipping, and prevents them from using the emulator.
export CNN_CUDA_NEED_GPU=1

# shellcheck source=benches/gpu_quick.sh
[ ! $quick ] || . benches/gpu_quick.sh

prefixes=("${@:2}")
selected() {
    local prefix
    [ ${#prefixes[@]} -eq 0 ] && return
    for prefix in "${prefixes[@]}"; do [[ $1 == "$prefix"* ]] && return; done
    return 1
}

# part NAME COMMAND…: runs a command with its output in the log $out/NAME.log.
part() {
    local name=$1
    shift
    selected "$name" || return 0
    if [ $SECONDS -gt "${CNN_CUDA_GPU_SECONDS:-1500}" ]; then
        echo "$name: skipped, out of time"
        failed+=("$name")
        return
    fi
    printf '%-28s' "$name"
    local start=$SECONDS
    if "$@" >"$out/$name.log" 2>&1; then
        echo "ok     $((SECONDS - start)) s"
    else
        echo "FAILED $((SECONDS - start)) s (see $out/$name.log)"
        failed+=("$name")
    fi
}

nvidia-smi >"$out/nvidia-smi.txt" 2>&1
nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv >"$out/device.csv" 2>&1

tests() {
    if [ -n "${CNN_CUDA_TESTS:-}" ]; then
        local test
        for test in $CNN_CUDA_TESTS; do "$test" "$@" || return 1; done
    else
        cargo test --release --test all -- "$@"
    fi
}
ran_some() {
    local log
    log=$(tests "$@" 2>&1)
    local code=$?
    printf '%s\n' "$log"
    [ $code -eq 0 ] && grep -qE 'test result: ok\. [1-9][0-9]* passed' <<<"$log"
}
part device-tests ran_some ops::cuda
part parity ran_some train::cuda
part profile-tests ran_some train::profile
part fusion-tests ran_some train::fusion

# Fails if the test accuracy of the last epoch is below $2.
reaches() {
    python3 -c 'import json, sys
records = [json.loads(line) for line in open(sys.argv[1])]
accuracy = [r for r in records if r["kind"] == "epoch"][-1]["test_accuracy"]
print(f"test accuracy {accuracy:.2%}, required {float(sys.argv[2]):.2%}")
sys.exit(accuracy < float(sys.argv[2]))' "$1" "$2"
}
# Runs a command and records its duration in seconds.
timed() {
    local name=$1 start code
    shift
    start=$(date +%s.%N)
    "$@"
    code=$?
    python3 -c "import time; print(round(time.time() - $start, 3))" | tee "$out/$name-seconds.txt"
    return $code
}
train() {
    rm -rf "$out/train-$1"
    timed "train-$1" "$CNN_CUDA_BIN" train --device 0 --precision "$1" --seed 0 --out "$out/train-$1" &&
        reaches "$out/train-$1/metrics.jsonl" 0.992
}
# Device memory in use must not grow after the second epoch, when all graphs have been captured.
memory() {
    RUST_LOG=info,cnn_cuda=debug "$CNN_CUDA_BIN" train --device 0 --epochs 6 --quiet --out "$out/memory" 2>"$out/memory.txt" ||
        return 1
    grep -o 'device memory in use.*' "$out/memory.txt"
    awk '/device memory in use/ {n++; if (n == 2) second = $(NF - 1); last = $(NF - 1)}
         END {exit n < 6 || last > second}' "$out/memory.txt"
}
# Fills the caches of compiled kernels and chosen algorithms before a run is timed.
warm() {
    "$CNN_CUDA_BIN" train --device 0 --precision "$1" --epochs 1 --quiet --out "$out/warm" || return 1
    rm -rf "$out/warm"
}
for precision in fp32 tf32 fp16 bf16; do
    part "train-warm-$precision" warm $precision
    part "train-$precision" train $precision
done
# The mean accuracy over five seeds, and the time of 20 epochs.
seeds() {
    local seed
    for seed in 0 1 2 3 4; do
        rm -rf "$out/seed-$seed"
        "$CNN_CUDA_BIN" train --device 0 --precision tf32 --seed $seed --quiet --out "$out/seed-$seed" || return 1
    done
    python3 -c 'import json, statistics, sys
runs = [[json.loads(line) for line in open(f"{sys.argv[1]}/seed-{seed}/metrics.jsonl")] for seed in range(5)]
accuracies = [run[-1]["test_accuracy"] for run in runs]
seconds = [sum(epoch["seconds"] for epoch in run) for run in runs]
mean = statistics.mean(accuracies)
print(f"test accuracies {accuracies}, mean {mean:.2%}, required 99.20%; seconds for 20 epochs {seconds}")
sys.exit(mean < 0.992)' "$out"
}
part seeds seeds
# The accuracy and time of airnet on CIFAR-10 beside PyTorch's, where the pictures are.
airnet() {
    local archive="$CNN_CUDA_DATA/cifar10/cifar10-jpeg.tar.xz"
    [ -f "$archive" ] || { echo "skipped: there is no $archive"; return 0; }
    python3 benches/airnet_cifar10.py --program "$CNN_CUDA_BIN" --archive "$archive" --device 0 --result "$out/airnet.json"
}
part airnet airnet
# From the start of the program to the end of the first step, with warm caches.
first_step() { timed "first-step-$1" "$CNN_CUDA_BIN" bench --device 0 --precision "$1" --steps 1; }
for precision in tf32 fp16; do part "first-step-$precision" first_step $precision; done
# Trains with each algorithm alone, and compares the loss of every step with the CPU's.
by_algorithm() {
    local run
    for run in "cpu:--device cpu" "$1:--device 0 --conv-algo $1"; do
        rm -rf "$out/parity-${run%%:*}"
        # shellcheck disable=SC2086
        "$CNN_CUDA_BIN" train ${run#*:} --max-steps 50 --log-steps --quiet --out "$out/parity-${run%%:*}" || return 1
    done
    python3 -c 'import json, sys
def losses(path):
    records = map(json.loads, open(path + "/metrics.jsonl"))
    return [record["loss"] for record in records if record["kind"] == "step"]
cpu, device = losses(sys.argv[1]), losses(sys.argv[2])
worst = max(abs(a - b) / a for a, b in zip(cpu, device, strict=True))
print(f"{len(cpu)} losses, largest relative difference from the CPU {worst:.2e}, allowed 1e-4")
sys.exit(not worst <= 1e-4)' "$out/parity-cpu" "$out/parity-$1"
}
for algorithm in im2col implicit direct cublaslt; do part "parity-$algorithm" by_algorithm $algorithm; done
# Checks that cuBLASLt is really used: it may be missing or reject an operation.
uses_lt() { "$CNN_CUDA_BIN" bench --device 0 --steps 1 --conv-algo cublaslt --algorithms | tee /dev/stderr | grep -q '^\* cublaslt'; }
part uses-cublaslt uses_lt
part device-memory memory
rm -rf "$out/memory"

bench() { "$CNN_CUDA_BIN" bench --device 0 --steps 300 --json "$@" | tee "$out/$name.json"; }
for precision in fp32 tf32 fp16 bf16; do
    for batch in 64 256 1024; do
        name=bench-$precision-$batch
        part "$name" bench --precision $precision --batch-size $batch
        # The times of every layer's candidates, and of each algorithm for all layers.
        part "algorithms-$precision-$batch" "$CNN_CUDA_BIN" bench --device 0 --steps 20 --algorithms \
            --precision $precision --batch-size $batch
        for algorithm in im2col implicit direct cublaslt; do
            name=bench-$precision-$batch-$algorithm
            part "$name" bench --precision $precision --batch-size $batch --conv-algo $algorithm
        done
    done
done

# The time of every part of a step, measured with device events.
for precision in fp32 tf32 fp16; do
    for batch in 64 1024; do
        name=profile-$precision-$batch
        part "$name" "$CNN_CUDA_BIN" bench --device 0 --steps 100 --profile --trace "$out/$name-trace.json" \
            --precision $precision --batch-size $batch
    done
done

if ! selected compare; then
    :
elif python3 -c 'import torch, safetensors; assert torch.cuda.is_available()' 2>/dev/null; then
    # The most important blocks come first. The file is written after every block, so an interrupted run keeps its results.
    part compare python3 benches/compare.py --device 0 --precisions tf32 fp16 fp32 --batch-sizes 64 1024 \
        --infer-batch-sizes 128 --compile-batch-sizes 64 --rounds 2 --steps 30 --eval-rounds 0 --epoch-rounds 0 \
        --seconds "${CNN_CUDA_COMPARE_SECONDS:-420}" --data "$CNN_CUDA_DATA" --out "$out/compare.json"
else
    echo "PyTorch with CUDA or safetensors is not installed, so the comparison with PyTorch was skipped"
    failed+=("compare")
fi

# Every operator of four networks compared with PyTorch's.
if ! selected kernels; then
    :
elif python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    part kernels python3 benches/kernels.py --no-tests --seconds 300 --part-seconds 60 --out "$out/kernels.jsonl"
else
    echo "PyTorch with CUDA is not installed, so no operator was compared with PyTorch's"
    failed+=("kernels")
fi

PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin"
# Shows what bounds the convolution kernels: instruction issue, arithmetic, memory or stalls.
profile_kernels() {
    timeout 240 ncu --kernel-name 'regex:conv2d' --launch-count 60 --section SpeedOfLight --section WarpStateStats \
        --section Occupancy --csv --log-file "$out/ncu-$1.csv" \
        "$CNN_CUDA_BIN" bench --device 0 --steps 2 --precision "$1" --conv-algo implicit
}
if ! selected ncu; then
    :
elif command -v ncu >/dev/null; then
    for precision in tf32 fp16 fp32; do part "ncu-$precision" profile_kernels $precision; done
else
    echo "ncu is not installed, so no kernel was profiled"
    failed+=("ncu")
fi

if ! selected sanitizer; then
    :
elif command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        for combination in "im2col fp32" "implicit fp32" "implicit tf32" "implicit fp16" "direct fp32" "cublaslt fp16"; do
            read -r algorithm precision <<<"$combination"
            part "sanitizer-$tool-$algorithm-$precision" timeout 120 compute-sanitizer --tool $tool --error-exitcode 1 \
                "$CNN_CUDA_BIN" bench --device 0 --batch-size 16 --steps 4 --conv-algo $algorithm --precision $precision
        done
    done
    # A complete run, including its evaluation.
    part sanitizer-run timeout 200 compute-sanitizer --tool memcheck --error-exitcode 1 "$CNN_CUDA_BIN" train --device 0 \
        --dataset digits --max-steps 4 --quiet --out "$out/sanitized"
    rm -rf "$out/sanitized"
else
    echo "compute-sanitizer is not installed, so memcheck and racecheck were not run"
    failed+=("compute-sanitizer")
fi

part targets python3 benches/targets.py "$out"
selected targets && cat "$out/targets.log"

echo
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "all parts passed; results are in $out"
