"""What the machine can do: limits read from a file tree, and the choice of a number format."""

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pangzhu import machine


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file tree in the place of the system's; without files, nothing is limited."""
    monkeypatch.setattr(machine._cgroup_folders, "__defaults__", (tmp_path, tmp_path / "membership"))
    monkeypatch.setattr(machine._count_cores, "__defaults__", (tmp_path / "cpus",))
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: list(range(16)))
    return tmp_path


# --- cores -------------------------------------------------------------------------------------------------------


def test_this_machine_has_a_core_and_memory() -> None:
    assert 1 <= machine.num_physical_cores() <= machine.psutil.cpu_count()
    assert 0 < machine.available_memory() <= machine.psutil.virtual_memory().total


def test_without_limits_the_physical_cores_count(system: Path) -> None:
    assert machine.num_physical_cores() == 8


def test_hyper_threads_of_one_core_count_once(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {f"cpus/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 8},{cpu % 8 + 8}" for cpu in range(16)}
    write(system, siblings)
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: [0, 8, 1])
    assert machine.num_physical_cores() == 2


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"membership": "0::/", "cpu.max": "300000 100000"}, 3),
        ({"membership": "0::/", "cpu.max": "max 100000"}, 8),
        ({"membership": "0::/a/b", "a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 2),
        ({"membership": "0::/", "cpu.max": "50000 100000"}, 1),
        (
            {"membership": "1:cpu,x:/d\n0::/", "cpu/d/cpu.cfs_quota_us": "400000", "cpu/d/cpu.cfs_period_us": "100000"},
            4,
        ),
        ({"membership": "1:cpu:/", "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_a_cgroup_limits_the_cores(system: Path, files: dict[str, str], cores: int) -> None:
    write(system, files)
    assert machine.num_physical_cores() == cores


def test_unknown_cores_are_one(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: None)
    monkeypatch.setattr(machine, "_allowed_cpus", list)
    assert machine.num_physical_cores() == 1


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"membership": "0::/", "memory.max": "1000", "memory.current": "600"}, 400),
        (
            {
                "membership": "0::/",
                "memory.max": "1000",
                "memory.current": "600",
                "memory.stat": "anon 1\ninactive_file 100",
            },
            500,
        ),
        ({"membership": "0::/a", "memory.max": "90", "a/memory.max": "max", "memory.current": "20"}, 70),
        ({"membership": "0::/", "memory.max": "100", "memory.current": "200"}, 0),
        (
            {
                "membership": "4:memory:/x",
                "memory/x/memory.limit_in_bytes": "900",
                "memory/x/memory.usage_in_bytes": "100",
            },
            800,
        ),
    ],
)
def test_a_cgroup_limits_the_memory(system: Path, files: dict[str, str], free: int) -> None:
    write(system, files)
    assert machine.available_memory() == free


# --- precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bf16", "float32", "chosen"),
    [(120.0, 100.0, "bf16"), (119.0, 100.0, "float32"), (900.0, 100.0, "bf16"), (5.0, 100.0, "float32")],
)
def test_bf16_must_be_clearly_faster(bf16: float, float32: float, chosen: str) -> None:
    assert machine.choose_precision(bf16, float32) == chosen


def test_the_probe_measures_both_formats_and_follows_them() -> None:
    probe = machine.probe_precision(hidden_size=256, intermediate_size=512)
    assert probe.bf16_gflops > 0
    assert probe.float32_gflops > 0
    assert probe.instruction_set
    assert probe.seconds < 3  # 0.3 s on an idle machine


def test_the_probe_ends_by_the_clock() -> None:
    ticks = itertools.count()

    def slow_clock() -> float:
        return 1.0 * next(ticks)

    probe = machine.probe_precision(hidden_size=16, intermediate_size=16, clock=slow_clock)
    # Warm-ups and one round of each, two looks at the clock a run, and the clock's own ends.
    assert probe.seconds < 2 * 2 * (machine.NUM_WARM_UPS + 3) + 4


def test_a_warm_up_from_which_the_processor_was_taken_away_does_not_count() -> None:
    import torch

    elapsed = [0.0]
    rows_seen: list[int] = []

    def disturbed(rows: torch.Tensor, weights: torch.Tensor) -> None:
        rows_seen.append(len(rows))
        elapsed[0] += 0.5 if len(rows_seen) == 2 else len(rows) * 1e-6

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", disturbed)
        machine._timed_layer((8, 4), torch.bfloat16, clock=lambda: elapsed[0])()
    assert rows_seen[-1] == machine.PROBE_ROWS


def test_an_emulated_format_gets_fewer_rows() -> None:
    import torch

    elapsed = [0.0]
    rows_seen: list[int] = []

    def emulated(rows: torch.Tensor, weights: torch.Tensor) -> None:
        rows_seen.append(len(rows))
        elapsed[0] += len(rows) * 0.002  # 512 rows would take a second

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", emulated)
        speed = machine._timed_layer((8, 4), torch.bfloat16, clock=lambda: elapsed[0])()
    assert max(rows_seen) == machine.WARM_UP_ROWS
    assert speed == pytest.approx(2 * 8 * 4 / 0.002 / 1e9)


def test_the_probe_takes_its_sizes_from_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "probe_precision", lambda **sizes: sizes)
    for config, intermediate in (({"hidden_size": 8, "intermediate_size": 20}, 20), ({"hidden_size": 8}, 32)):
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        sizes = machine.probe_precision_for(tmp_path)
        assert sizes == {"hidden_size": 8, "intermediate_size": intermediate}


# --- processors of every kind, faked ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Processor:
    """What torch says of a processor, and how fast each format is there, in 10^9 operations a second."""

    capability: str
    flags: frozenset[str]
    bf16: float
    float32: float


# Speeds as measured on such machines (docs/decisions.md, docs/fast.md) or, for AVX512 without BF16 and for Apple, of
# their order: what counts is that names alone would choose wrong.
PROCESSORS = {
    "AVX2 alone": (Processor("AVX2", frozenset(), 18, 80), "float32", "avx2"),
    "AVX512 without BF16": (Processor("AVX512", frozenset({"vnni"}), 60, 190), "float32", "avx512 vnni"),
    "AVX512 with BF16": (Processor("AVX512", frozenset({"avx512_bf16"}), 740, 96), "bf16", "avx512 avx512_bf16"),
    "AMX": (Processor("AVX512", frozenset({"avx512_bf16", "amx"}), 1200, 150), "bf16", "avx512 avx512_bf16 amx"),
    "Apple": (Processor("DEFAULT", frozenset(), 4, 900), "float32", "default"),
    "Apple with fast bf16": (Processor("DEFAULT", frozenset(), 1800, 900), "bf16", "default"),
}


@pytest.mark.parametrize(("processor", "chosen", "named"), PROCESSORS.values(), ids=PROCESSORS)
def test_the_probe_chooses_by_speed_on_every_kind_of_processor(
    processor: Processor, chosen: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    elapsed = [0.0]

    def multiply(rows: torch.Tensor, weights: torch.Tensor) -> None:
        speed = processor.bf16 if weights.dtype == torch.bfloat16 else processor.float32
        elapsed[0] += 2 * len(rows) * weights.numel() / speed / 1e9

    monkeypatch.setattr(torch.nn.functional, "linear", multiply)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor.capability)
    for name, flag in machine.FLAGS.items():
        monkeypatch.setattr(torch.cpu, flag, lambda name=name: name in processor.flags, raising=False)
    probe = machine.probe_precision(hidden_size=896, intermediate_size=4864, clock=lambda: elapsed[0])
    assert (probe.chosen, probe.instruction_set) == (chosen, named)
    assert probe.bf16_gflops == pytest.approx(processor.bf16, rel=0.01)
    assert probe.float32_gflops == pytest.approx(processor.float32, rel=0.01)
    assert probe.seconds < 0.3


def test_the_cores_of_two_sockets_are_added(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen cores a socket, two threads each, numbered as Linux does: first every core once, then the siblings."""
    siblings = {f"cpus/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 32},{cpu % 32 + 32}" for cpu in range(64)}
    write(system, siblings)
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: 64 if logical else 32)
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: list(range(64)))
    assert machine.num_physical_cores() == 32
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: [*range(16), *range(32, 48)])  # bound to the first socket
    assert machine.num_physical_cores() == 16


# --- a GPU -------------------------------------------------------------------------------------------------------


def test_torch_tells_of_a_gpu_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda known=known: known)
        assert machine.has_gpu() is known


@pytest.mark.parametrize(
    ("build", "rocm_driver", "cuda_driver", "asked"),
    [
        ("2.9.0", False, False, False),
        ("2.9.0", False, True, True),
        ("2.9.0+rocm6.4", False, False, True),
        ("2.9.0", True, False, True),
    ],
)
def test_and_it_is_loaded_for_that_only_where_there_is_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, build: str, rocm_driver: bool, cuda_driver: bool, asked: bool
) -> None:
    def load(name: str) -> None:
        assert name == "libcuda.so.1"
        if not cuda_driver:
            raise OSError

    write(tmp_path, {"kfd": ""} if rocm_driver else {})
    monkeypatch.setattr(machine, "ROCM_DRIVER", tmp_path / "kfd")
    monkeypatch.setattr(machine, "version", lambda _name: build)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.ctypes, "CDLL", load)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        machine.sys, "modules", {name: module for name, module in sys.modules.items() if name != "torch"}
    )
    assert machine.has_gpu() is asked


def test_a_system_without_cuda_has_no_driver_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ROCM_DRIVER", tmp_path / "kfd")
    monkeypatch.setattr(machine, "version", lambda _name: "2.9.0")
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert not machine._has_gpu_driver()


# --- what it is --------------------------------------------------------------------------------------------------


def test_the_environment_is_this_machine(system: Path) -> None:
    found = machine.environment()
    assert found.num_cores == 8
    assert found.num_logical == 16
    assert found.memory == machine.psutil.virtual_memory().total
    assert found.processor
    assert all((found.instruction_sets, found.system, found.python))


def test_a_cgroup_limits_the_memory_there_is(system: Path) -> None:
    write(system, {"membership": "0::/", "memory.max": "1000"})
    assert machine.total_memory() == 1000


def test_a_processor_is_called_as_its_maker_calls_it_and_otherwise_as_the_system_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: another\n"})
    assert machine.processor_name(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "arm64")
    assert machine.processor_name(tmp_path / "nothing") == "arm64"


def test_peak_memory_remembers_what_was_held_and_given_back() -> None:
    program = (
        "from pangzhu.machine import peak_memory\n"
        "before = peak_memory()\n"
        "held = bytes(1) * (256 * 2**20)\n"
        "del held\n"
        "print(peak_memory() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert 200 * 2**20 < int(done.stdout) < 300 * 2**20


def test_peak_memory_is_read_where_each_system_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"status": "VmPeak:\t 999 kB\nVmHWM:\t    7 kB\n"})
    assert machine.peak_memory(tmp_path / "status") == 7 * 1024
    assert machine.peak_memory(tmp_path / "nothing") > 10**6  # POSIX

    class OnWindows:
        def memory_info(self) -> object:
            return type("Info", (), {"peak_wset": 12345})()

    monkeypatch.setattr(machine.psutil, "Process", OnWindows)
    assert machine.peak_memory(tmp_path / "nothing") == 12345
