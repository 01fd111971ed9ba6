"""What this machine computes with: the torch build, cores, instruction sets, and measured speed in both number formats."""

import platform
import shutil
from types import ModuleType

import psutil

from pangzhu import machine
from pangzhu.config import DoctorConfig
from pangzhu.doctor.diagnosis import Examination, Fact, Finding, note, wrong

HIDDEN_SIZE, INTERMEDIATE_SIZE = 896, 4864  # of Qwen2.5-0.5B, the default base
X86 = ("x86_64", "amd64")


def examine(_config: DoctorConfig) -> Examination:
    """Cores at once; torch, where it can be imported, tells the rest. A probe of a third of a second measures the speed."""
    logical, usable = psutil.cpu_count() or 1, machine.num_physical_cores()
    cores = Fact("doctor.cores", {"usable": usable, "logical": logical}, f"{usable} ({logical})")
    try:
        import torch
    except Exception as broken:  # noqa: BLE001  # whatever it raises is what there is to tell
        return Examination((cores,), (_unusable_torch(broken),))
    return Examination((cores, *_facts(torch)), tuple(_findings(torch)))


def _unusable_torch(broken: Exception) -> Finding:
    if isinstance(broken, ModuleNotFoundError) and broken.name == "torch":
        return wrong("finding.doctor.torch_missing")
    return wrong("finding.doctor.torch_broken", reason=f"{type(broken).__name__}: {broken}")


def _facts(torch: ModuleType) -> list[Fact]:
    build = f"{torch.__version__} ({f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU'})"
    threads = machine.use_physical_cores()
    speed = machine.probe_precision(hidden_size=HIDDEN_SIZE, intermediate_size=INTERMEDIATE_SIZE)
    measured = {"bf16": speed.bf16_gflops, "float32": speed.float32_gflops, "chosen": speed.chosen}
    shown = f"bf16 {speed.bf16_gflops:.0f}, float32 {speed.float32_gflops:.0f} → {speed.chosen}"
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [
        Fact("doctor.torch", build),
        Fact("doctor.cuda_devices", devices, ", ".join(devices) or "–"),
        Fact("doctor.threads", threads),
        Fact("doctor.instruction_sets", list(machine.instruction_sets()), ", ".join(machine.instruction_sets())),
        Fact("doctor.gflops", measured, shown),
    ]


def _findings(torch: ModuleType) -> list[Finding]:
    found = []
    if platform.machine().lower() in X86 and not machine.instruction_sets()[0].startswith("avx"):
        found.append(note("finding.doctor.no_avx2"))
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        key = "finding.doctor.cuda_not_usable" if torch.version.cuda else "finding.doctor.torch_without_cuda"
        found.append(note(key))
    return found
