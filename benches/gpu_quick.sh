# shellcheck shell=bash
# The most important GPU checks, for a GPU that is available for four minutes. `benches/gpu.sh --quick [OUT]` sources this
# file. The most important parts come first. Each part has a time limit, and none starts after CNN_CUDA_QUICK_SECONDS
# (default: 240). Writes twelve small files to OUT, even after failures: summary.txt (the result of every part, and the
# tables of step times and of operators by kind), device.txt, tests.log, training.log, steps.jsonl (with the times of all
# tiles), steps.log, dependent.jsonl (steps with and without dependent launches), kernels.log (single operators compared
# with PyTorch), kernels.jsonl, profile.jsonl, profile.log, ncu.csv.gz.
#
# The sizes can be overridden, for example to test the script itself on a slow machine.
quick_seconds=${CNN_CUDA_QUICK_SECONDS:-240}
quick_tests=${CNN_CUDA_QUICK_TESTS:-ops::cuda train::cuda train::profile train::fusion _on_cuda}
quick_train=${CNN_CUDA_QUICK_TRAIN:---model mnist-cnn --epochs 3}
# Networks with batch sizes and numbers of timed groups of 16 steps, for cnn-cuda and then for PyTorch.
quick_steps=${CNN_CUDA_QUICK_STEPS:-resnet18:128:5 mnist-cnn:64:50 resnet50:64:4 resnet20:128:20}
# The seconds of benches/kernels.py, and what it compares.
quick_kernel_seconds=${CNN_CUDA_QUICK_KERNEL_SECONDS:-60}
quick_kernels=${CNN_CUDA_QUICK_KERNELS:-resnet18:128:fp16 mnist-cnn:64:fp16 resnet18:128:tf32 resnet50:64:fp16 resnet20:128:fp16}
# A factor on the time limit of every part.
quick_patience=${CNN_CUDA_QUICK_PATIENCE:-1}
quick_profiles=${CNN_CUDA_QUICK_PROFILES:-mnist-cnn:64 resnet18:128}

if [ -z "${CNN_CUDA_TESTS:-}" ]; then
    CNN_CUDA_TESTS=$(cargo test --release --test all --no-run --message-format=json | python3 -c 'import json, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable") and message["profile"]["test"]: print(message["executable"])') || exit 1
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin"
SECONDS=0 # Building does not count.

say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

# quick NAME LIMIT LOG COMMAND…: appends the output of a command to a log in $out, and stops it after LIMIT seconds.
quick() {
    local name=$1 limit=$(($2 * quick_patience)) log=$out/$3 start=$SECONDS code=0
    shift 3
    [ "$limit" -le $((quick_seconds - SECONDS)) ] || limit=$((quick_seconds - SECONDS))
    if [ "$limit" -le 0 ]; then
        say "$(printf '%-32s skipped, out of time' "$name")"
        failed+=("$name")
        return 1
    fi
    printf '\n== %s: %s\n' "$name" "$*" >>"$log"
    timeout --kill-after=3 "$limit" "$@" >>"$log" 2>&1 || code=$?
    case $code in
        0) say "$(printf '%-32s ok %d s' "$name" $((SECONDS - start)))" && return ;;
        124 | 137) say "$(printf '%-32s STOPPED after %d s' "$name" "$limit")" ;;
        *) say "$(printf '%-32s FAILED with %d after %d s (see %s)' "$name" "$code" $((SECONDS - start)) "$log")" ;;
    esac
    failed+=("$name")
    return 1
}

rm -f "$out"/{summary.txt,device.txt,tests.log,training.log,steps.jsonl,steps.log,dependent.jsonl,kernels.log,kernels.jsonl,profile.jsonl,profile.log,ncu.csv.gz}
{ nvidia-smi; nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv; } >"$out/device.txt" 2>&1

# Device tests, eight at a time, so that several backends run in one process. Failed tests are repeated one at a time.
device_tests() {
    local name=$1 limit=$2 threads=$3 test
    shift 3
    local tests=${*:-$quick_tests}
    touch "$out/tests.log"
    for test in $CNN_CUDA_TESTS; do
        # Skips executables without any of these tests. The filters are split into words.
        # shellcheck disable=SC2086
        "$test" --list $tests 2>/dev/null | grep ': test$' >/dev/null || continue
        # shellcheck disable=SC2086
        quick "$name" "$limit" tests.log "$test" --test-threads "$threads" $tests
    done
    say "$(sed "1,/^== $name:/d" "$out/tests.log" | grep -aE '^test .* FAILED$|^test result' | sed 's/^/    /')"
}
device_tests tests-side-by-side 90 8
alone=$(sed -nE 's/^test ([^ ]+) \.\.\. .*FAILED$/\1/p' "$out/tests.log" | tr '\n' ' ')
# shellcheck disable=SC2086
[ -z "$alone" ] || device_tests failed-tests-alone 20 1 $alone

for precision in fp16 tf32 fp32; do
    # shellcheck disable=SC2086
    quick "train-$precision" 20 training.log "$CNN_CUDA_BIN" train --device 0 --precision $precision --seed 0 \
        --out "$scratch/$precision" $quick_train || continue
    cat "$scratch/$precision/metrics.jsonl" >>"$out/training.log"
    say "    $(python3 -c 'import json, sys
epochs = [record for record in map(json.loads, open(sys.argv[1])) if record["kind"] == "epoch"]
for epoch in epochs: print("test accuracy {test_accuracy:.2%} in {seconds:.2f} s".format(**epoch), end="; ")' \
        "$scratch/$precision/metrics.jsonl")"
done

# Step times of cnn-cuda, the first time with those of all its candidates. The JSON that the programs print on stdout goes to a separate file.
json=(bash -c '"$@" >>"$0"' "$out/steps.jsonl")
ours() {
    local precision algorithms=(--algorithms)
    [ $# -eq 3 ] || algorithms=()
    for precision in fp16 tf32; do
        quick "step-$1-$precision${4:-}" 15 steps.log "${json[@]}" "$CNN_CUDA_BIN" bench --device 0 --json "${algorithms[@]}" \
            --model "$1" --batch-size "$2" --steps "$3" --precision $precision
    done
}
for network in $quick_steps; do
    IFS=: read -r model batch groups <<<"$network"
    ours "$model" "$batch" "$groups"
done

profile() {
    quick "profile-${1%:*}-$2" 25 profile.log bash -c '"$@" >>"$0"' "$out/profile.jsonl" "$CNN_CUDA_BIN" bench --device 0 \
        --steps 5 --profile --json --model "${1%:*}" --batch-size "${1#*:}" --precision "$2"
}
for network in $quick_profiles; do profile "$network" fp16; done

# A step with and without programmatic dependent launch, alternating, by the same kernels.
dependent() {
    local switch
    for switch in dependent no-dependent dependent no-dependent; do
        quick "step-${1%:*}-$switch-launch" 10 steps.log bash -c '"$@" >>"$0"' "$out/dependent.jsonl" "$CNN_CUDA_BIN" bench \
            --device 0 --json --model "${1%:*}" --batch-size "${1#*:}" --steps 20 --precision fp16 --conv-algo implicit "--$switch-launch"
    done
    say "    $(python3 -c 'import json, sys
steps = [json.loads(line)["ms_per_step"]["median"] for line in open(sys.argv[1])][-4:]
print("ms per step with, without, with, without:", *(f"{step:.4f}" for step in steps))' "$out/dependent.jsonl" 2>&1)"
}
for network in mnist-cnn:64 resnet20:128; do dependent $network; done

torch=yes
python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || torch=
[ $torch ] || { say "PyTorch with CUDA is not installed, so nothing is compared with it"; failed+=(pytorch); }

# Single operators compared with PyTorch's.
if [ $torch ]; then
    touch "$out/profile.jsonl"
    # shellcheck disable=SC2086
    quick kernels $((quick_kernel_seconds + 15)) kernels.log python3 benches/kernels.py --ours "$out"/{steps,profile}.jsonl \
        --out "$out/kernels.jsonl" --seconds "$quick_kernel_seconds" --part-seconds $((quick_kernel_seconds / 4)) --parts $quick_kernels
    [ ! -s "$out/kernels.jsonl" ] || say "$(python3 benches/kernels.py --tables "$out/kernels.jsonl" 2>&1 | sed -n '/^## All/,$p')"
fi

# Step times of PyTorch, and of cnn-cuda again. The precisions of a network run in one process, which saves imports.
for network in $quick_steps; do
    [ $torch ] || continue
    IFS=: read -r model batch groups <<<"$network"
    quick "pytorch-$model" 35 steps.log "${json[@]}" python3 benches/pytorch/train_step.py --device cuda:0 --json \
        --model "$model" --batch-size "$batch" --steps "$groups" --mode graph eager --precision fp16 tf32
    ours "$model" "$batch" "$groups" -again
done
say "$(python3 benches/step_table.py "$out/steps.jsonl" 2>&1)"

# Profiles a few launches of each network's slowest kernels.
profile_kernels() {
    local network
    for network in $quick_profiles; do
        quick "ncu-${network%:*}" 25 steps.log ncu --kernel-name "regex:${CNN_CUDA_QUICK_NCU:-conv2d|norm|gemm}" \
            --launch-count 25 --section SpeedOfLight --section WarpStateStats --section Occupancy --csv \
            --log-file "$scratch/ncu.csv" "$CNN_CUDA_BIN" bench --device 0 --steps 1 --model "${network%:*}" \
            --batch-size "${network#*:}" --precision fp16
        [ ! -f "$scratch/ncu.csv" ] || gzip -c "$scratch/ncu.csv" >>"$out/ncu.csv.gz"
        rm -f "$scratch/ncu.csv"
    done
}
if command -v ncu >/dev/null; then
    profile_kernels
else
    say "ncu is not installed, so no kernel was profiled"
    failed+=(ncu)
fi

for network in $quick_profiles; do profile "$network" tf32; done

# Limits the size of every file, so that all of them can be copied back.
for file in "$out"/{summary.txt,device.txt,tests.log,training.log,steps.jsonl,steps.log,kernels.log,kernels.jsonl,profile.jsonl,profile.log}; do
    [ -f "$file" ] || continue
    tail -c 1000000 "$file" >"$scratch/tail" && cp "$scratch/tail" "$file"
done
say "$SECONDS s; ${#failed[@]} parts failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
exit
