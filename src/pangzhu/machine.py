"""What this machine is and can really do: cores, memory, instruction sets, and the measured speed of bf16 and float32.

Names mislead: a container may use two of sixty-four cores, and one processor with AVX-512 multiplies bf16 ten times as
fast as float32 while another emulates it. So limits are read where the system keeps them, and the number format is
chosen by a probe of a third of a second. Every choice is recorded with the run (`pangzhu.train`); this module only measures.

Try it: `probe_precision(hidden_size=896, intermediate_size=4864)`.
"""

import ctypes
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")
CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
MEMBERSHIP = Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")
OWN_STATUS = Path("/proc/self/status")
CUDA_DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}  # what torch's CUDA asks for GPUs
ROCM_DRIVER = Path("/dev/kfd")
BF16_ADVANTAGE = 1.2  # below this, float32 is as fast and more exact
PROBE_ROWS = 512  # rows of a usual micro-batch: enough for the multiplication to be bound by arithmetic
WARM_UP_ROWS = 16
NUM_WARM_UPS = 3  # the quickest counts: others' work may take the processor away for a moment
MOST_PROBE_ROUNDS = 20
PROBE_SECONDS = 0.18  # when the last round begins, at the latest
SECONDS_A_ROUND = 0.03  # of one format
MOST_PROBE_WEIGHTS = 2**22  # a larger matrix only takes longer, at the same speed
FLAGS = {  # instruction set -> the function of torch.cpu that knows, where torch has it
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx": "_is_amx_tile_supported",
    "vnni": "_is_vnni_supported",
}


@dataclass(frozen=True)
class PrecisionProbe:
    """What was measured, in 10^9 floating-point operations a second, and what follows from it."""

    bf16_gflops: float
    float32_gflops: float
    instruction_set: str
    chosen: Literal["bf16", "float32"]
    seconds: float


@dataclass(frozen=True)
class Environment:
    """Where a run takes place.

    Args:
        processor: its name, or its family where the system tells no more.
        instruction_sets: what torch computes with.
        num_cores: cores that may be used.
        num_logical: logical processors of the machine.
        memory: bytes of the machine, or of the cgroup.
        system: operating system and its release.
        python: version.
    """

    processor: str
    instruction_sets: str
    num_cores: int
    num_logical: int
    memory: int
    system: str
    python: str


def environment() -> Environment:
    """What this machine is."""
    return Environment(
        processor=processor_name(),
        instruction_sets=" ".join(instruction_sets()),
        num_cores=num_physical_cores(),
        num_logical=psutil.cpu_count() or 1,
        memory=total_memory(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def processor_name(cpu_info: Path = CPU_INFO) -> str:
    """The processor as its maker calls it where Linux says so, else as the system describes it."""
    named = re.search(r"^model name\s*:\s*(.+)$", _text_in(cpu_info) or "", re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def num_physical_cores() -> int:
    """Cores this process may use, hyper-threads not counted twice, within affinity and cgroup; at least 1."""
    limits = [psutil.cpu_count(logical=False) or psutil.cpu_count() or 1]
    if allowed := _allowed_cpus():
        limits.append(_count_cores(allowed))
    limits += [int(quota) for folder in _cgroup_folders("cpu") if (quota := _cpu_quota(folder)) is not None]
    return max(1, min(limits))


def has_gpu() -> bool:
    """Whether torch has a GPU to compute on. It is loaded for an answer only where a driver is here: it takes 180 MB."""
    if "torch" not in sys.modules and not _has_gpu_driver():
        return False
    import torch

    return bool(torch.cuda.is_available())


def _has_gpu_driver() -> bool:
    if "rocm" in version("torch") or ROCM_DRIVER.exists():
        return True
    try:
        ctypes.CDLL(CUDA_DRIVERS[sys.platform])
    except (KeyError, OSError):
        return False
    return True


def use_physical_cores() -> int:
    """Let torch compute with `num_physical_cores` threads, and tell how many. Its own default knows no container's quota:
    threads beyond it wait for each other."""
    import torch

    num_threads = num_physical_cores()
    torch.set_num_threads(num_threads)
    return num_threads


def available_memory() -> int:
    """Bytes that can be taken without swapping, within the cgroup's limit."""
    free = [int(psutil.virtual_memory().available)]
    free += [left for folder in _cgroup_folders("memory") if (left := _free_in_cgroup(folder)) is not None]
    return max(0, min(free))


def total_memory() -> int:
    """Bytes of memory, within the cgroup's limit."""
    limits = [_memory_limit(folder) for folder in _cgroup_folders("memory")]
    return min([int(psutil.virtual_memory().total), *(limit for limit in limits if limit is not None)])


def peak_memory(own_status: Path = OWN_STATUS) -> int:
    """The most bytes that this process has held in memory at once since it began.

    Linux keeps them for the program by itself; its `ru_maxrss` would count what the process held before it became this
    program. Windows calls them the peak working set.
    """
    if held := re.search(r"^VmHWM:\s*(\d+) kB$", _text_in(own_status) or "", re.MULTILINE):
        return int(held[1]) * 1024
    if (working_set := getattr(psutil.Process().memory_info(), "peak_wset", None)) is not None:
        return int(working_set)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def instruction_sets() -> tuple[str, ...]:
    """What torch computes with on this processor: its vector width first, then `avx512_bf16`, `amx`, `vnni`."""
    import torch

    width = torch.backends.cpu.get_cpu_capability().lower()
    return (width, *(name for name, flag in FLAGS.items() if getattr(torch.cpu, flag, bool)()))


def choose_precision(bf16_gflops: float, float32_gflops: float) -> Literal["bf16", "float32"]:
    """bf16 where it is clearly faster, else float32."""
    return "bf16" if bf16_gflops >= BF16_ADVANTAGE * float32_gflops else "float32"


def probe_precision_for(model_folder: Path) -> PrecisionProbe:
    """Probe with the sizes of the model in `model_folder`."""
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    hidden = int(config["hidden_size"])
    return probe_precision(hidden_size=hidden, intermediate_size=int(config.get("intermediate_size", 4 * hidden)))


def probe_precision(
    *, hidden_size: int, intermediate_size: int, clock: Callable[[], float] = time.perf_counter
) -> PrecisionProbe:
    """Time `(512, H) x (H, F)` in both formats by turns, so that other work on the machine slows both, and take the best
    of each; under 0.3 s where nothing else runs.

    Args:
        hidden_size: H, the width of the model.
        intermediate_size: F, the width of its MLP.
        clock: seconds.
    """
    import torch

    started = clock()
    shape = (min(intermediate_size, max(1, MOST_PROBE_WEIGHTS // hidden_size)), hidden_size)
    time_bf16 = _timed_layer(shape, torch.bfloat16, clock=clock)
    time_float32 = _timed_layer(shape, torch.float32, clock=clock)
    rounds = [(time_bf16(), time_float32())]
    while clock() - started < PROBE_SECONDS and len(rounds) < MOST_PROBE_ROUNDS:
        rounds.append((time_bf16(), time_float32()))
    bf16, float32 = (max(speeds) for speeds in zip(*rounds, strict=True))
    return PrecisionProbe(
        bf16_gflops=round(bf16, 1),
        float32_gflops=round(float32, 1),
        instruction_set=" ".join(instruction_sets()),
        chosen=choose_precision(bf16, float32),
        seconds=round(clock() - started, 3),
    )


def _timed_layer(shape: tuple[int, int], dtype: "torch.dtype", *, clock: Callable[[], float]) -> Callable[[], float]:
    """A function that runs a linear layer with weights `(F, H)` once and gives its speed in 10^9 operations a second.

    A few rows come first: where a format is emulated, 512 rows would take seconds, so it gets as many as fit the time.
    """
    import torch

    weights = torch.full(shape, 0.5, dtype=dtype)

    @torch.inference_mode()
    def seconds(num_rows: int) -> float:
        rows = torch.full((num_rows, shape[1]), 0.5, dtype=dtype)
        started = clock()
        torch.nn.functional.linear(rows, weights)
        return max(clock() - started, 1e-9)

    seconds(WARM_UP_ROWS)  # torch prepares its kernels
    per_row = min(seconds(WARM_UP_ROWS) for _ in range(NUM_WARM_UPS)) / WARM_UP_ROWS
    num_rows = int(min(PROBE_ROWS, max(WARM_UP_ROWS, SECONDS_A_ROUND / per_row)))
    seconds(num_rows)
    return lambda: 2 * num_rows * shape[0] * shape[1] / seconds(num_rows) / 1e9


def _allowed_cpus() -> list[int]:
    """Numbers of the logical processors this process may run on; empty where the system has no affinity (macOS)."""
    affinity = getattr(psutil.Process(), "cpu_affinity", None)
    return list(affinity()) if affinity else []


def _count_cores(cpus: Iterable[int], topology: Path = CPU_TOPOLOGY) -> int:
    """Distinct cores behind logical processors; a processor without a known core counts as one of its own."""
    return len({_text_in(topology / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu) for cpu in cpus})


def _cgroup_folders(controller: str, root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> list[Path]:
    """The cgroup of this process and those above it, of version 2 and of version 1: each may set a limit.

    A line of `membership` reads `0::PATH` (version 2) or `NUMBER:CONTROLLERS:PATH` (version 1).
    """
    folders: list[Path] = []
    for line in (_text_in(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        own = top / path.lstrip("/")
        folders += [folder for folder in (own, *own.parents) if folder == top or top in folder.parents]
    return folders


def _cpu_quota(folder: Path) -> float | None:
    """Processors' worth of time a cgroup may use, None without a limit; the files hold microseconds."""
    version_1 = [_text_in(folder / "cpu.cfs_quota_us"), _text_in(folder / "cpu.cfs_period_us")]
    quota, period = (_text_in(folder / "cpu.max") or "").split() or version_1
    if quota is None or period is None or quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def _free_in_cgroup(folder: Path) -> int | None:
    """The limit less what is in use, None without a limit; file cache that can be dropped is not in use."""
    limit = _memory_limit(folder)
    if limit is None:
        return None
    used = _number_in(folder / "memory.current", folder / "memory.usage_in_bytes") or 0
    statistics = dict(line.split() for line in (_text_in(folder / "memory.stat") or "").splitlines())
    return limit - used + int(statistics.get("inactive_file", 0))


def _memory_limit(folder: Path) -> int | None:
    """Bytes that a cgroup may hold, None without a limit."""
    return _number_in(folder / "memory.max", folder / "memory.limit_in_bytes")


def _number_in(*files: Path) -> int | None:
    """The number in the first of `files` that holds one."""
    contents = [_text_in(file) or "" for file in files]
    return next((int(content) for content in contents if content.isdigit()), None)


def _text_in(file: Path) -> str | None:
    try:
        return os.fsdecode(file.read_bytes()).strip()
    except OSError:
        return None
