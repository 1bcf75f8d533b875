"""Tests of the scripts in this folder, without PyTorch, a GPU or ptxas: `python3 -m unittest discover -s benches`."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import compare  # noqa: E402
import kernel_table  # noqa: E402
import kernels  # noqa: E402
import ptxas  # noqa: E402
from sites import Site  # noqa: E402

CONV = "conv2d_forward 64×56×56 to 128 k3 s2 p1, batch 128, with epilogue, fp16"
LINEAR = "linear_backward_weight 512 to 1000, batch 64, with epilogue, with the ReLU mask, tf32"
NORM = "batch_norm2d_forward 64×8×8, batch 2, with sum and relu, fp16"

BENCH = {
    "model": "resnet18",
    "device": "a device",
    "batch_size": 128,
    "precision": "fp16",
    "algorithms": [
        {
            "site": LINEAR,
            "parts": ["fc"],
            "h200_microseconds": 2.0,
            "algorithm": "cublaslt",
            "microseconds": {"cublaslt": 4.0},
        },
        {
            "site": CONV,
            "parts": ["a", "b"],
            "h200_microseconds": 44.1,
            "algorithm": "implicit 128x64_w4",
            "microseconds": {"im2col": 300.0, "implicit 128x64_w4": 80.0, "implicit 64x64_w4": 90.0},
        },
    ],
    "profile": {
        "parts": [
            {"label": "bn1", "site": NORM, "milliseconds": 0.02},
            {"label": "sum", "milliseconds": 1.0},
            {"label": "bn2", "site": NORM, "milliseconds": 0.04},
        ]
    },
}


def row(**changes) -> dict:
    ours = {"part": "resnet18:128:fp16", "ours_device": "a device", "site": CONV, "count": 2, "ours": 80.0, "algorithm": "implicit 128x64_w4"}
    return {"kind": "site", **ours, "status": "ok", "same": (40.0, 39.0, 41.0), "rotated": (45.0, 44.0, 46.0), "error": 1e-4, **changes}


def table(*rows: dict, **run) -> str:
    return kernels.tables([{"kind": "run", "date": "2026-01-01", "device": "a device", **run}, *rows])


class Sites(unittest.TestCase):
    def test_names_are_parsed(self) -> None:
        site = Site.parse(CONV)
        self.assertEqual((site.operator, site.input_shape, site.output_shape), ("conv2d_forward", (128, 64, 56, 56), (128, 128, 28, 28)))
        self.assertEqual((site.window, site.fused, site.precision), (([2, 2], [1, 1], [1, 1]), {"epilogue"}, "fp16"))
        site = Site.parse(LINEAR)
        self.assertEqual((site.channels, site.height, site.out_channels, site.batch), (512, 1, 1000, 64))
        self.assertEqual((site.fused, site.precision), ({"epilogue", "the ReLU mask"}, "tf32"))
        site = Site.parse("conv2d_forward 32×9×8 to 64 k3 s2 p1, groups 32, dilation 2, batch 4, fp32")
        self.assertEqual((site.groups, site.window, site.output_shape), (32, ([2, 2], [1, 1], [2, 2]), (4, 64, 4, 3)))
        self.assertEqual(Site.parse("max_pool2d_forward 64×112×112 k3 s2 p1, batch 1, fp16").output_shape, (1, 64, 56, 56))
        self.assertEqual(Site.parse("sgd 1000, with momentum, fp16").fused, {"momentum"})

    def test_other_texts_are_refused(self) -> None:
        for text in ("", "conv2d_forward", "conv2d_forward 64×56×56", "linear_forward 5 to 6, batch 1", "linear_forward x to 6, batch 1, fp16"):
            with self.assertRaises(ValueError, msg=text):
                Site.parse(text)


class Comparison(unittest.TestCase):
    def test_our_side_names_the_choice_and_the_next_best(self) -> None:
        conv, linear = kernels.product_rows(BENCH)  # The larger share of a step comes first.
        self.assertEqual((conv["site"], conv["count"], conv["ours"], conv["part"]), (CONV, 2, 80.0, "resnet18:128:fp16"))
        self.assertEqual((conv["runner_up"], conv["runner_up_us"], conv["floor_h200"]), ("implicit 64x64_w4", 90.0, 44.1))
        self.assertEqual((linear["ours"], "runner_up" in linear), (4.0, False))

    def test_our_side_is_never_cudnn(self) -> None:
        times = {"implicit a": 9.0, "cudnn": 2.0, "im2col": 5.0}
        chosen = {**BENCH["algorithms"][0], "algorithm": "cudnn", "microseconds": times}
        (row,) = kernels.product_rows({**BENCH, "algorithms": [chosen]})
        self.assertEqual((row["algorithm"], row["ours"], row["runner_up"], row["cudnn_candidate"]), ("im2col", 5.0, "implicit a", 2.0))

    def test_sites_of_a_profile_are_averaged(self) -> None:
        (norm,) = kernels.other_rows(BENCH)
        self.assertEqual((norm["site"], norm["count"]), (NORM, 2))
        self.assertAlmostEqual(norm["ours"], 30.0)
        self.assertEqual(kernels.other_rows({**BENCH, "profile": {"parts": []}}), [])

    def test_given_results_are_the_first_of_each_network(self) -> None:
        lines = [BENCH, {**BENCH, "precision": "tf32"}, {**BENCH, "algorithms": []}, {"framework": "PyTorch", "model": "resnet18"}]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "ours.jsonl"
            file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
            parts = [kernels.part_name(result) for result in kernels.given_results([file], None, "algorithms")]
            self.assertEqual(parts, ["resnet18:128:fp16", "resnet18:128:tf32"])
            turned = kernels.given_results([file], [*reversed(parts), "x:1:fp16"], "profile")
            self.assertEqual([kernels.part_name(result) for result in turned], ["resnet18:128:tf32", "resnet18:128:fp16"])

    def test_means_are_geometric_and_totals_count_every_occurrence(self) -> None:
        text = table(row(), row(site=LINEAR, count=1, ours=10.0, same=(20.0, 20.0, 20.0)))
        self.assertIn("| conv2d_forward | 1 | 0.50 | 160 | 80 | 0.50 |", text)
        self.assertIn("| linear_backward_weight | 1 | 2.00 | 10 | 20 | 2.00 |", text)
        self.assertIn("## All, fp16", text)
        self.assertIn("## All, tf32", text)
        self.assertIn("| all | 2 | 1.00 | 170 | 100 | 0.59 |", text)  # Of the network.
        self.assertIn("| 40.0 (39.0 to 41.0) | 45.0 | – | 0.50 |", text)

    def test_what_is_wrong_or_not_timed_is_not_counted(self) -> None:
        for bad in (row(status="WRONG"), row(status="FAILED", same=None), row(ours=None), {**row(status="out of time"), "same": None}):
            text = table(bad)
            self.assertIn("No site was timed on both sides", text)
            self.assertIn(bad["status"] if bad["status"] != "ok" else "| – | –", text)
        self.assertIn("| all | 1 |", table(row(), row(status="WRONG")))

    def test_wrong_and_failing_results_are_marked(self) -> None:
        comparison = kernels.Comparison.__new__(kernels.Comparison)
        comparison.problems = []
        comparison.pytorch = SimpleNamespace(LARGEST_ERROR={"fp16": 2e-3}, OPERATORS={"conv2d_forward": None})
        for error, status in ((1e-3, "ok"), (3e-3, "WRONG"), (float("nan"), "WRONG"), (RuntimeError("out of memory"), "FAILED")):
            comparison.timer = SimpleNamespace(measure=Mock(side_effect=[{"error": error} if isinstance(error, float) else error]))
            self.assertEqual(comparison.measure(CONV, float("inf"))["status"], status)
        self.assertEqual((len(comparison.problems), "out of memory" in comparison.problems[-1]), (3, True))
        self.assertEqual(comparison.measure(CONV, 0.0), {"status": "out of time"})
        self.assertEqual(comparison.measure(NORM, float("inf")), {"status": "not timed"})

    def test_failed_device_tests_and_missing_parts_are_named(self) -> None:
        text = table({"kind": "tests", "failed": "ops::cuda::x"}, row())
        self.assertIn("DEVICE TESTS FAILED, so no time of cnn-cuda counts: ops::cuda::x", text)
        self.assertNotIn("| all | 1 |", text)
        self.assertIn("The device tests were not run here", table(row()))
        self.assertIn("Out of time before: resnet50:64:tf32", table({"kind": "skipped", "what": "resnet50:64:tf32"}, row()))


REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first_f16' for 'sm_90'
ptxas info    : Function properties for first_f16
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 34 registers, used 1 barriers, 16640 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'second_f16' for 'sm_90'
ptxas info    : Function properties for second_f16
    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 400 bytes cmem[0]
"""


class Ptxas(unittest.TestCase):
    def test_the_report_is_parsed(self) -> None:
        first, second = ptxas.parse_report(REPORT, {"first_f16": 1024, "second_f16": 2048})
        self.assertEqual(first, ptxas.Kernel("first_f16", 1024, 34, 0, 16640))
        self.assertEqual(second, ptxas.Kernel("second_f16", 2048, 255, 12, 0))
        with self.assertRaisesRegex(ValueError, "third_f16"):
            ptxas.parse_report(REPORT, {"first_f16": 1, "second_f16": 1, "third_f16": 1})

    def test_targets_follow_from_the_ptx(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, target in (("a", "75"), ("b", "80"), ("c", "90a")):
                (Path(folder) / f"{name}.ptx").write_text(f"// Cuda compilation tools, release 12.9, V12.9.86\n.target sm_{target}\n")
            self.assertEqual(ptxas.targets(Path(folder)), ["75", "80", "90", "90a"])
            self.assertEqual(ptxas.nvrtc_version(Path(folder)), "12.9.86")
        suits = [ptx for ptx in ("75", "80", "90", "90a", "100") if ptxas.is_for(ptx, "90")]
        self.assertEqual((suits, ptxas.is_for("90a", "90a"), ptxas.is_for("80", "90a")), (["75", "80", "90"], True, False))

    def test_the_latest_ptx_of_a_kernel_is_taken(self) -> None:
        assembled = []

        def fake(_: str, ptx: Path, target: str) -> list[ptxas.Kernel]:
            assembled.append((ptx.name, target))
            return [ptxas.Kernel("k_f16", int(ptx.stem.split("_")[1]), 1, 0, 0)]

        real, ptxas.assemble = ptxas.assemble, fake
        try:
            with tempfile.TemporaryDirectory() as folder:
                for target in ("75", "90"):
                    (Path(folder) / f"k_{target}.ptx").write_text(f".target sm_{target}\n.visible .entry k_f16(\n")
                sizes = {target: [kernel.code_bytes for kernel in ptxas.kernels("ptxas", Path(folder), target)] for target in ("75", "90")}
        finally:
            ptxas.assemble = real
        self.assertEqual((sizes, assembled), ({"75": [75], "90": [90]}, [("k_75.ptx", "75"), ("k_90.ptx", "90")]))

    def test_a_build_without_ptx_is_an_error(self) -> None:
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(FileNotFoundError, "build with NVRTC"):
            ptxas.newest_build(Path(folder))


class KernelTable(unittest.TestCase):
    def test_kernels_have_a_column_per_architecture(self) -> None:
        kernel = ptxas.Kernel("k_f16", 1024, 34, 0, 16640)
        spilled = ptxas.Kernel("k_f16", 2048, 255, 12, 0)
        lines = kernel_table.resource_table({"75": {}, "80": {"k_f16": kernel}, "90": {"k_f16": spilled}})
        self.assertEqual(lines[2], "| k_f16 | – | 34 / 16640 / 1024 | 255 / 0 / 2048, 12 spilled |")
        self.assertIn("| all | 0 kernels, 0 bytes of code | 1 kernels, 1024 bytes of code |", lines[3])

    def test_nodes_with_the_same_work_share_a_row(self) -> None:
        part = {"what": "convolution", "megaflops": 10.0, "megabytes": 1.0, "launches": ["k", "cuBLAS product"], "h200_microseconds": 2.5}
        summary = {"model": "m", "batch_size": 4, "precision": "fp16", "graph_nodes": 4, "h200_microseconds": 5.0}
        parts = [part | {"label": label} for label in ("a", "b")]
        lines = kernel_table.node_table(summary | {"parts": parts}, {"k_f16": ptxas.Kernel("k_f16", 1024, 34, 0, 0)})
        self.assertIn("| a | 2 | convolution | 10.0 | 1.00 | 2.5 | k (34, 1024), cuBLAS product |", lines)
        self.assertIn("| all | 2 | | | | 5.0 | |", lines)


def block(*rows: tuple[str, float, float | None], **settings) -> dict:
    sides = [{"side": side, "ms": ms, "spread": [ms, ms], "times_slower": ratio, "peak_memory_mb": 50.0} for side, ms, ratio in rows]
    return {"what": "train", "batch_size": 64, "threads": 2, "steps": 20, "rows": sides, **settings}


def comparison(*parts: dict, **more) -> dict:
    run = {"machine": "A processor", "date": "2026-01-01", "rounds": 3, "versions": ["PyTorch 2"]}
    return {"model": "mnist-cnn", "device": "cpu", "parts": list(parts), **run, **more}


class WithPyTorch(unittest.TestCase):
    OURS, EAGER = ("cnn-cuda", 10.0, 1.0), ("PyTorch eager, contiguous", 20.0, 2.0)

    def interleave(self, run, precision: str) -> dict:
        """A block of two rounds with one mode of PyTorch, in which `run` stands for the programs."""
        args = SimpleNamespace(device="cpu", model="m", steps=5, compile_batch_sizes=None, modes=["eager-contiguous"], rounds=2)
        with patch.object(compare, "run", run), contextlib.redirect_stderr(io.StringIO()) as said:
            part = compare.interleave(args, Path("cnn-cuda"), "train", 64, 2, precision)
        return {**part, "said": said.getvalue()}

    @staticmethod
    def is_ours(command: list) -> bool:
        return "bench" in command

    def result(self, command: list) -> dict:
        side = {"device": "CPU (2 threads, AVX2)"} if self.is_ours(command) else {"framework": "PyTorch 2", "cpu_capability": "AVX2"}
        return {"ms_per_step": {"median": 10.0 if self.is_ours(command) else 20.0}, "peak_memory_mb": 1.0, **side}

    def test_both_sides_are_asked_for_the_same_precision(self) -> None:
        commands = []

        def run(command: list, threads: int) -> dict:
            commands.append([str(part) for part in command])
            return self.result(command)

        part = self.interleave(run, "bf16")
        self.assertEqual(len(commands), 4)
        for command in commands:
            self.assertEqual(command[command.index("--precision") + 1], "bf16")
        self.assertEqual([(row["side"], row["times_slower"]) for row in part["rows"]], [("cnn-cuda", 1.0), (self.EAGER[0], 2.0)])
        self.assertEqual((part["failed"], part["pytorch_cpu_capability"]), ({}, ["AVX2"]))

    def test_a_precision_that_only_pytorch_has_is_timed_without_a_ratio(self) -> None:
        def run(command: list, threads: int) -> dict:
            if self.is_ours(command):
                raise compare.CommandFailed("cnn-cuda bench\nerror: the CPU supports fp32 only (--device cpu)")
            return self.result(command)

        part = self.interleave(run, "bf16")
        self.assertEqual([(row["side"], row["ms"], row["times_slower"]) for row in part["rows"]], [(self.EAGER[0], 20.0, None)])
        self.assertIn("cnn-cuda is not available in bf16: the CPU supports fp32 only", part["said"])
        self.assertEqual(list(part["failed"]), ["cnn-cuda"])
        self.assertIn("| cnn-cuda | not available | – | – | – |", compare.markdown(comparison(part)))

    def test_other_failures_of_cnn_cuda_end_the_comparison(self) -> None:
        def run(command: list, threads: int) -> dict:
            raise compare.CommandFailed("cnn-cuda bench\nerror: not enough memory")

        with self.assertRaisesRegex(compare.CommandFailed, "not enough memory"):
            self.interleave(run, "bf16")

    def test_a_failing_mode_of_pytorch_is_skipped(self) -> None:
        def run(command: list, threads: int) -> dict:
            if not self.is_ours(command):
                raise compare.CommandFailed("no compiler")
            return self.result(command)

        part = self.interleave(run, "fp32")
        self.assertEqual(([row["side"] for row in part["rows"]], list(part["failed"])), (["cnn-cuda"], [self.EAGER[0]]))
        self.assertIn("fails and is skipped: no compiler", part["said"])

    def test_features_are_those_of_the_first_processor(self) -> None:
        first = "processor\t: 0\nmodel name\t: A processor\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n"
        x86 = first + "\nprocessor\t: 1\nmodel name\t: Other\nflags\t: fpu\n"
        self.assertEqual(compare.parse_cpuinfo(x86), {"name": "A processor", "features": ["avx2", "avx512f", "avx512_bf16", "amx_tile"]})
        self.assertEqual(compare.parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd bf16\n")["features"], ["asimd", "bf16"])
        self.assertIsNone(compare.parse_cpuinfo("")["features"])

    def test_tables_show_features_and_precisions_if_there_are_several(self) -> None:
        parts = [block(self.OURS, self.EAGER, precision=precision) for precision in ("fp32", "bf16")]
        processor = {"name": "A processor", "features": ["avx2", "avx512_bf16"]}
        text = compare.markdown(comparison(*parts, processor=processor))
        self.assertIn("A processor (avx2, avx512_bf16), 2026-01-01;", text)
        self.assertIn("| measurement | batch size | threads | precision | side |", text)
        self.assertIn("| training step | 64 | 2 | bf16 | PyTorch eager, contiguous | 20.00 |", text)
        columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
        self.assertEqual(columns, {10})

    def test_files_without_the_newer_fields_give_tables(self) -> None:
        result = comparison(block(self.OURS, self.EAGER))
        text = compare.markdown(result)
        self.assertIn("\nA processor, 2026-01-01;", "\n" + text)
        self.assertIn("| training step | 64 | 2 | cnn-cuda | 10.00 | 10.00 to 10.00 | 1.00× | 50 MB |", text)
        self.assertEqual(compare.find_part(result, "train", 64, 2), result["parts"][0])

    def test_the_published_tables_are_those_of_the_stored_results(self) -> None:
        for page, text in compare.pages_with_tables().items():
            self.assertEqual(text, (compare.ROOT / page).read_text(encoding="utf-8"), page)

    def test_a_precision_that_neither_side_has_is_refused(self) -> None:
        said = io.StringIO()
        with patch.object(sys, "argv", ["compare.py", "--precisions", "fp16"]), contextlib.redirect_stderr(said):
            self.assertRaises(SystemExit, compare.main)
        self.assertIn("--precisions on the CPU can be fp32 and bf16", said.getvalue())


class StoredResults(unittest.TestCase):
    def test_a_file_of_records_gives_the_same_tables(self) -> None:
        records = [{"kind": "run", "date": "2026-01-01"}, row()]
        again = [json.loads(json.dumps(record)) for record in records]
        self.assertEqual(kernels.tables(again), kernels.tables(records))


if __name__ == "__main__":
    unittest.main()
