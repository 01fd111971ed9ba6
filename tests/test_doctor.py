"""The examination: what is there is told, what is wrong has its remedy, no secret leaves it, whatever the machine is like."""

import builtins
import json
import string
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

from pangzhu import cli, doctor, machine
from pangzhu.config import DEFAULT_MODEL, DoctorConfig
from pangzhu.doctor import adapters, compute, diagnose, installation, models, network, room, surroundings
from pangzhu.doctor.diagnosis import Diagnosis, Examination, Fact, Finding, Part, note, wrong
from pangzhu.hiding import HIDDEN, hide, known_secrets, public_address
from pangzhu.messages import catalogue, set_language, text
from pangzhu.sources import packaged, probe
from pangzhu.sources.cache import write_stamp
from tests.cli.conftest import Outcome

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123"
PASSWORD = "p%40ssw0rd"
PROXY = f"http://me:{PASSWORD}@127.0.0.1:9"
SPEED = machine.PrecisionProbe(200.0, 50.0, "avx2", "bf16", 0.2)
GIGABYTE = 10**9


@pytest.fixture(autouse=True)
def plain_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four cores, much memory, empty caches, no network set up, no token."""
    for name in (*network.TOKENS, *surroundings.THREAD_VARIABLES, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in {"PANGZHU_CACHE": "cache", "HF_HOME": "hf", "MODELSCOPE_CACHE": "modelscope"}.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for module in (network, sys.modules["pangzhu.hiding"]):
        monkeypatch.setattr(module, "getproxies", dict)
    monkeypatch.setattr(probe, "_answers", lambda endpoint, seconds: True)
    monkeypatch.setattr(machine, "num_physical_cores", lambda: 4)
    monkeypatch.setattr(machine, "available_memory", lambda: 16 * GIGABYTE)
    monkeypatch.setattr(machine, "probe_precision", lambda **sizes: SPEED)
    monkeypatch.setattr(machine, "use_physical_cores", lambda: 4)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100 * GIGABYTE))
    yield
    probe.forget()


def keys(examination: Examination | Diagnosis) -> list[str]:
    return [finding.key.removeprefix("finding.doctor.") for finding in examination.findings]


def value(examination: Examination, name: str) -> Any:
    return next(fact.value for fact in examination.facts if fact.name == name)


def proxies(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> None:
    for module in (network, sys.modules["pangzhu.hiding"]):
        monkeypatch.setattr(module, "getproxies", lambda: dict(addresses))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    def run_command(*words: str) -> Outcome:
        exit_code = cli.main(["doctor", *words])
        captured = capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    yield run_command
    cli.console.want_json(False)
    set_language("en")


# --- the report ------------------------------------------------------------------------------------------------------


def test_a_machine_that_is_well_ends_with_0_and_says_so(run: Callable[..., Outcome]) -> None:
    outcome = run("--lang", "en")
    assert outcome.exit_code == 0
    assert "bf16 200, float32 50 → bf16" in outcome.out
    assert "Error" not in outcome.out
    assert outcome.out.rstrip().endswith(tuple("." + string.digits))


def test_json_has_every_part_and_every_finding(run: Callable[..., Outcome]) -> None:
    found = run("--json").json
    assert set(found) == {"ok", "findings", *(heading.removeprefix("doctor.") for heading in doctor.PARTS.values())}
    assert found["ok"] is True
    assert found["room"]["memory"]["available"] == 16 * GIGABYTE  # type: ignore[index]
    assert found["compute"]["gflops"] == {"bf16": 200.0, "float32": 50.0, "chosen": "bf16"}  # type: ignore[index]


def test_something_wrong_ends_with_8_and_stands_before_the_notes(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 10)
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    outcome = run("--lang", "en")
    assert outcome.exit_code == 8
    assert 0 < outcome.out.index("Error: HF_ENDPOINT") < outcome.out.index("Note: 10 B of memory")
    assert "Fix:   Begin it with https://" in outcome.out


def test_notes_alone_end_with_0() -> None:
    diagnosis = Diagnosis((Part("doctor.room", Examination((), (note("finding.doctor.no_avx2"),))),))
    assert diagnosis.exit_code == 0
    assert diagnosis.as_json()["findings"] == [
        {
            "key": "finding.doctor.no_avx2",
            "wrong": False,
            "what": text("finding.doctor.no_avx2"),
            "where": None,
            "fix": text("finding.doctor.no_avx2.fix"),
        }
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_finding_has_its_sentence_and_remedy_filled_in(language: str) -> None:
    """With the values its place in the source gives; a name too few would be a KeyError."""
    set_language(language)  # type: ignore[arg-type]
    sentences = catalogue(language)  # type: ignore[arg-type]
    named = {key for key in sentences if key.startswith("finding.doctor.") and not key.endswith(".fix")}
    for key in named:
        wanted = {
            name
            for part in (key, f"{key}.fix")
            for _, name, _, _ in string.Formatter().parse(sentences[part])
            if name is not None
        }
        shown = str(Finding(key, True, "x", dict.fromkeys(wanted, "VALUE")))
        assert shown.count("\n") == 2
        assert "{" not in shown
    set_language("en")


def test_a_part_that_cannot_be_examined_is_a_finding_and_the_others_are_examined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> ModuleType:
        if name.endswith(".room"):
            raise ModuleNotFoundError("No module named 'psutil'")
        return importlib_import(name)

    importlib_import = doctor.import_module
    monkeypatch.setattr(doctor, "import_module", broken)
    diagnosis = diagnose(DoctorConfig())
    assert keys(diagnosis)[0] == "not_examined"
    assert "psutil" in diagnosis.findings[0].what
    assert len(diagnosis.parts) == len(doctor.PARTS)
    assert diagnosis.exit_code == 8


def test_nothing_is_changed_by_examining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_remember", lambda endpoint, answer: None)
    before = sorted(tmp_path.rglob("*"))
    diagnose(DoctorConfig(output_dir=tmp_path / "not" / "yet", offline=True))
    assert sorted(tmp_path.rglob("*")) == before


# --- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--lang", "en"), ("--lang", "zh"), ("--json",)])
@pytest.mark.fault("D5")
def test_no_token_and_no_password_leaves_the_report(
    words: tuple[str, ...], run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", f"https://me:{PASSWORD}@mirror.example/?key={TOKEN}")
    proxies(monkeypatch, http=PROXY, https=PROXY, all=f"socks5://me:{PASSWORD}@127.0.0.1:9")
    monkeypatch.setattr(probe, "_answers", lambda endpoint, seconds: False)
    outcome = run(*words)
    printed = outcome.out + outcome.err
    for secret in (TOKEN, PASSWORD, "p@ssw0rd", "me:"):
        assert secret not in printed
    assert "mirror.example" in printed
    assert "127.0.0.1:9" in printed


def test_a_secret_in_the_words_of_a_library_is_hidden() -> None:
    finding = wrong("finding.doctor.torch_broken", reason=f"cannot reach https://u:pw@h with {TOKEN}")
    diagnosis = Diagnosis((Part("doctor.compute", Examination((), (finding,))),), known_secrets({"HF_TOKEN": TOKEN}))
    assert TOKEN not in json.dumps(diagnosis.as_json())
    assert "u:pw" not in json.dumps(diagnosis.as_json())


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("http://proxy:80", "http://proxy:80"),
        ("http://u:p@proxy:80", f"http://{HIDDEN}@proxy:80"),
        ("http://u@proxy", f"http://{HIDDEN}@proxy"),
        ("u:p@proxy:80", f"{HIDDEN}@proxy:80"),
        ("socks5h://u:p:q@[::1]:80", f"socks5h://{HIDDEN}@[::1]:80"),
        ("http://u:p/w@d@proxy", f"http://{HIDDEN}@proxy"),
        ("https://hub/?token=abc", f"https://hub/?{HIDDEN}"),
        ("127.0.0.1,localhost", "127.0.0.1,localhost"),
    ],
)
def test_an_address_is_shown_without_its_credentials(address: str, public: str) -> None:
    assert public_address(address) == public


def test_the_longer_of_two_secrets_is_hidden_whole() -> None:
    secrets = known_secrets({"HF_TOKEN": "abcd", "MODELSCOPE_API_TOKEN": "abcdefgh"})
    assert hide("abcdefgh abcd", secrets) == f"{HIDDEN} {HIDDEN}"


# --- installation ------------------------------------------------------------------------------------------------------


def libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: Mapping[str, str], tested: str) -> None:
    """An installation that needs torch and peft, and on Windows something more."""
    file = tmp_path / "tested.txt"
    file.write_text(tested, encoding="utf-8")
    lines = ["torch>=2.6", "peft>=0.21,<1", 'mypy>=1; extra == "dev"', 'pywin32>=1; sys_platform == "never"']

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(installation, "requires", lambda name: lines)
    monkeypatch.setattr(installation, "version", version)
    monkeypatch.setattr(installation, "tested_versions", lambda: file)


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ({"torch": "2.13.0+cpu", "peft": "0.21.2"}, []),
        ({"torch": "2.6.0", "peft": "0.21.2"}, []),
        ({"torch": "2.5.1", "peft": "0.21.2"}, ["library_unfit"]),
        ({"torch": "2.13.0", "peft": "1.0"}, ["library_unfit"]),
        ({"torch": "2.14.0.dev1", "peft": "0.22"}, ["newer_than_tested"]),
        ({"peft": "0.21.2"}, ["library_missing"]),
        ({}, ["library_missing", "library_missing"]),
    ],
)
def test_libraries_are_held_against_what_is_needed_and_what_was_tested(
    installed: dict[str, str], found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries(monkeypatch, tmp_path, installed, "# exact\ntorch==2.13.0\npeft==0.21.2\n-e .\n")
    examination = installation.examine(DoctorConfig())
    assert keys(examination) == found
    assert set(value(examination, "libraries")) == {"torch", "peft"}


def test_the_remedies_of_libraries_are_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, tmp_path, {"torch": "2.14", "peft": "0.1"}, "torch==2.13.0\n")
    unfit, newer = installation.examine(DoctorConfig()).findings
    assert unfit.fix in ('pip install --upgrade "peft>=0.21,<1"', 'pip install --upgrade "peft<1,>=0.21"')
    assert 'pip install "torch==2.13.0"' in newer.fix


def test_a_checkout_that_is_not_installed_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "requires", none)
    assert keys(installation.examine(DoctorConfig())) == ["not_installed"]


def test_the_tested_versions_are_those_of_the_requirements_and_cover_every_library() -> None:
    assert installation.tested_versions() == ROOT / "requirements.txt"
    found = installation.needed_libraries()
    assert len(found) > 10
    assert [library.name for library in found if library.tested is None or Version(library.tested) is None] == []


# --- computing ---------------------------------------------------------------------------------------------------------


def without_torch(monkeypatch: pytest.MonkeyPatch, failing: Exception) -> None:
    """`import torch` fails, as on a machine where it is not or is broken."""
    imported = builtins.__import__

    def guarded(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "torch":
            raise failing
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)


@pytest.mark.parametrize(
    ("failing", "key"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "torch_missing"),
        (ModuleNotFoundError("No module named 'sympy'", name="sympy"), "torch_broken"),
        (OSError(126, "The specified module could not be found", "c10.dll"), "torch_broken"),
        (RuntimeError("compiled against another numpy"), "torch_broken"),
    ],
)
def test_where_torch_cannot_be_imported_that_is_a_finding_and_the_rest_is_told(
    failing: Exception, key: str, run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torch(monkeypatch, failing)
    outcome = run("--json")
    assert outcome.exit_code == 8
    assert [finding["key"] for finding in outcome.json["findings"] if finding["wrong"]] == [  # type: ignore[attr-defined]
        f"finding.doctor.{key}"
    ]
    assert outcome.json["compute"] == {"cores": {"usable": 4, "logical": compute.psutil.cpu_count()}}
    assert "Traceback" not in outcome.err


def fake_torch(*, cuda: str | None, devices: int = 0) -> ModuleType:
    torch = ModuleType("torch")
    vars(torch).update(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: devices > 0,
            device_count=lambda: devices,
            get_device_name=lambda number: f"card {number}",
        ),
    )
    return torch


@pytest.mark.parametrize(
    ("width", "processor", "card", "cuda", "devices", "found"),
    [
        ("avx2", "x86_64", False, None, 0, []),
        ("default", "AMD64", False, None, 0, ["no_avx2"]),
        ("default", "arm64", False, None, 0, []),
        ("avx512", "x86_64", True, None, 0, ["torch_without_cuda"]),
        ("avx512", "x86_64", True, "13.0", 0, ["cuda_not_usable"]),
        ("avx512", "x86_64", True, "13.0", 2, []),
    ],
)
def test_a_processor_or_a_card_that_is_not_used_is_noted(
    width: str,
    processor: str,
    card: bool,
    cuda: str | None,
    devices: int,
    found: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(cuda=cuda, devices=devices))
    monkeypatch.setattr(machine, "instruction_sets", lambda: (width,))
    monkeypatch.setattr(compute.platform, "machine", lambda: processor)
    monkeypatch.setattr(compute.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if card else None)
    examination = compute.examine(DoctorConfig())
    assert keys(examination) == found
    assert value(examination, "cuda_devices") == [f"card {number}" for number in range(devices)]


# --- memory and disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("available", "found"), [(room.LEAST_MEMORY, []), (room.LEAST_MEMORY - 1, ["little_memory"])])
def test_too_little_memory_for_the_default_base_is_noted(
    available: int, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: available)
    assert keys(room.examine(DoctorConfig())) == found


def test_a_full_disk_is_noted_for_output_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    found = room.examine(DoctorConfig(output_dir=tmp_path / "out")).findings
    assert [(finding.key, finding.where) for finding in found] == [
        ("finding.doctor.little_disk", str(tmp_path / "out")),
        ("finding.doctor.little_disk", str(tmp_path / "cache")),
    ]


def test_a_folder_that_cannot_be_written_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**where: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(room.tempfile, "TemporaryFile", refuse)
    found = room.examine(DoctorConfig(output_dir=tmp_path / "a" / "b")).findings
    assert {finding.key for finding in found} == {"finding.doctor.not_writable"}
    assert found[0].where == str(tmp_path)  # the first folder above it that is there
    assert all(finding.is_wrong for finding in found)


# --- surroundings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "is_poor"), [("utf-8", False), ("cp1252", True), ("ascii", True), ("?", True)])
def test_a_console_that_lacks_our_characters_is_noted(
    encoding: str, is_poor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding=encoding))
    assert ("poor_encoding" in keys(surroundings.examine(DoctorConfig()))) == is_poor


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("OMP_NUM_THREADS", "4", []),
        ("OMP_NUM_THREADS", "4,2", []),
        ("OMP_NUM_THREADS", "all", ["no_thread_count"]),
        ("OMP_NUM_THREADS", "0", ["no_thread_count"]),
        ("MKL_NUM_THREADS", "", ["no_thread_count"]),
        ("OMP_THREAD_LIMIT", "4", []),
        ("OMP_THREAD_LIMIT", "2", ["thread_limit"]),
        ("KMP_AFFINITY", "granularity=fine", []),
    ],
)
def test_thread_variables_are_shown_and_odd_ones_noted(
    name: str, given: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, given)
    examination = surroundings.examine(DoctorConfig())
    assert value(examination, "thread_variables") == {name: given}
    assert [key for key in keys(examination) if key != "poor_encoding"] == found


@pytest.mark.parametrize(("setting", "allowed"), [(1, True), (0, False), (None, False)])
def test_the_limit_of_windows_on_paths_is_noted(
    setting: int | None, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Key:
        def __enter__(self) -> "Key":
            return self

        def __exit__(self, *_: object) -> None:
            return None

    def query(key: Key, name: str) -> tuple[int, int]:
        if setting is None:
            raise FileNotFoundError(2, "The system cannot find the file specified")
        return (setting, 4)

    registry = SimpleNamespace(HKEY_LOCAL_MACHINE=1, OpenKey=lambda *where: Key(), QueryValueEx=query)
    monkeypatch.setitem(sys.modules, "winreg", registry)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "win32")
    examination = surroundings.examine(DoctorConfig())
    assert value(examination, "long_paths") is allowed
    assert ("long_paths_off" in keys(examination)) is not allowed


def test_elsewhere_paths_are_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert "long_paths" not in {fact.name for fact in surroundings.examine(DoctorConfig()).facts}


# --- models ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> packaged.PackagedModel:
    """A packaged model that is here: a folder with its stamp, and its GGUF file."""
    sha256 = "1f0a4e8d63a6d9dbda2a8cfa6c6a05d4b3d2ee2ae6b0f2b9ab0e1b1a3f9e3c6a"
    model = packaged.PackagedModel("tiny", "a/tiny", "MIT", (), 4, sha256, 10, 8, 1)
    model.folder.mkdir(parents=True)
    (model.folder / "config.json").write_bytes(b"{}")
    (model.folder / "model.safetensors").write_bytes(b"weights")
    write_stamp(model.folder, {"conversion": packaged.CONVERSION})
    model.gguf.write_bytes(b"GGUF")
    import dataclasses

    model = dataclasses.replace(model, gguf_sha256=models.sha256_of(model.gguf))
    monkeypatch.setattr(models, "MODELS", (model,))
    return model


def test_a_packaged_model_is_hashed_and_here(packaged_model: packaged.PackagedModel, said: list[str]) -> None:
    examination = models.examine(DoctorConfig())
    assert value(examination, "base_models") == {DEFAULT_MODEL: "absent", "packaged:tiny": "whole"}
    assert examination.findings == ()
    assert said == [text("doctor.hashing", name="packaged:tiny")]


@pytest.mark.parametrize(("name", "bytes_"), [("tiny/model.safetensors", b"weighty"), ("tiny.gguf", b"GGUX")])
def test_a_changed_byte_that_no_size_tells_is_found_and_the_remedy_heals(
    name: str, bytes_: bytes, packaged_model: packaged.PackagedModel
) -> None:
    file = packaged_model.folder.parent / name
    file.write_bytes(bytes_)
    assert packaged_model.is_here()  # by stamp and sizes alone
    examination = models.examine(DoctorConfig())
    assert keys(examination) == ["cache_damaged"]
    assert examination.findings[0].where == str(file)
    file.unlink()  # what the remedy says
    assert not packaged_model.is_here()  # so that `pull` makes it again


@pytest.mark.parametrize("missing", ["tiny/model.safetensors", "tiny.gguf", "tiny/pangzhu.json"])
def test_a_packaged_model_that_is_not_whole_is_noted(missing: str, packaged_model: packaged.PackagedModel) -> None:
    (packaged_model.folder.parent / missing).unlink()
    examination = models.examine(DoctorConfig())
    assert keys(examination) == ["half_made"]
    assert not examination.findings[0].is_wrong


@pytest.mark.parametrize(
    "left",
    [
        "hf/hub/models--a--b/blobs/0123.part",
        "hf/hub/models--a--b/blobs/0123.incomplete",
        "modelscope/hub/._____temp/a/b/model.safetensors",
        "cache/packaged/tiny.tmp-x1/joined",
    ],
)
def test_half_downloads_are_noted_with_their_size(left: str, tmp_path: Path) -> None:
    (tmp_path / left).parent.mkdir(parents=True)
    (tmp_path / left).write_bytes(b"x" * 2000)
    (tmp_path / left).with_name("whole").write_bytes(b"")
    found = models.examine(DoctorConfig()).findings
    assert [finding.key for finding in found] == ["finding.doctor.half_downloads"]
    assert "2 kB" in found[0].what or "._____temp" in left or "tmp-" in left
    assert str(tmp_path / left) in [str(file) for file in models.half_downloads()]


def test_a_copy_of_the_default_base_that_is_not_whole_is_noted(tmp_path: Path) -> None:
    storage = tmp_path / "hf" / "hub" / "models--Qwen--Qwen2.5-0.5B-Instruct"
    snapshot = storage / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    examination = models.examine(DoctorConfig())
    assert value(examination, "base_models")[DEFAULT_MODEL] == "half made"
    assert keys(examination) == ["copy_not_whole"]
    assert "config.json" in examination.findings[0].what


# --- adapters ----------------------------------------------------------------------------------------------------------


def test_adapters_are_verified_by_name_and_a_fault_is_wrong_with_its_own_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "adapter_config.json").write_text("{}", encoding="utf-8")
    given = (str(tmp_path / "bad"), f"law={tmp_path / 'nothing'}")
    examination = adapters.examine(DoctorConfig(adapter=given))
    assert value(examination, "adapter_states") == {"bad": False, "law": False}
    assert [finding.key for finding in examination.findings] == ["error.adapter.no_manifest", "error.adapter.none_here"]
    assert examination.findings[0].fix == text("error.adapter.no_manifest.fix")


def test_two_adapters_of_one_name_are_a_mistake_on_the_command_line(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    assert run("--adapter", f"x={tmp_path}", "--adapter", f"x={tmp_path}", "--offline").exit_code == 2


# --- network -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What each endpoint answers; asking is counted by what is left in it."""
    answers = {"https://huggingface.co": True, "https://www.modelscope.cn": True}
    monkeypatch.setattr(probe, "_answers", lambda endpoint, seconds: answers[endpoint])
    return answers


@pytest.mark.parametrize(
    ("silent", "found"),
    [
        ([], []),
        (["https://huggingface.co"], ["silent_hub"]),
        (["https://huggingface.co", "https://www.modelscope.cn"], ["no_hub"]),
    ],
)
def test_hubs_that_do_not_answer_are_notes(silent: list[str], found: list[str], asked: dict[str, bool]) -> None:
    asked.update(dict.fromkeys(silent, False))
    examination = network.examine(DoctorConfig())
    assert keys(examination) == found
    assert value(examination, "hubs") == asked
    assert not any(finding.is_wrong for finding in examination.findings)


def test_an_old_answer_is_not_told_as_todays(asked: dict[str, bool]) -> None:
    network.examine(DoctorConfig())
    asked["https://huggingface.co"] = False
    assert value(network.examine(DoctorConfig()), "hubs")["https://huggingface.co"] is False


@pytest.mark.parametrize("way", ["flag", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "flag":
        monkeypatch.setenv(way, "1")
    monkeypatch.setattr(probe, "_answers", lambda endpoint, seconds: pytest.fail("asked"))
    examination = network.examine(DoctorConfig(offline=way == "flag"))
    assert set(value(examination, "hubs").values()) == {None}
    assert examination.findings == ()


@pytest.mark.parametrize(
    ("address", "has_package", "found"),
    [
        ("socks5://127.0.0.1:7890", False, ["socks"]),
        ("SOCKS5h://127.0.0.1:7890", False, ["socks"]),
        ("socks5://127.0.0.1:7890", True, []),
        ("http://127.0.0.1:7890", False, []),
    ],
)
def test_a_socks_proxy_without_its_package_is_wrong(
    address: str, has_package: bool, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxies(monkeypatch, all=address, no="localhost")
    monkeypatch.setattr(network, "find_spec", lambda name: object() if has_package else None)
    assert keys(network.examine(DoctorConfig(offline=True))) == found


@pytest.mark.parametrize(
    ("token", "found"),
    [(TOKEN, []), (f" {TOKEN}", ["odd_token"]), (f'"{TOKEN}"', ["odd_token"]), ("a b", ["odd_token"])],
)
def test_a_token_with_blanks_or_quotation_marks_is_noted(
    token: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    examination = network.examine(DoctorConfig(offline=True))
    assert keys(examination) == found
    assert value(examination, "tokens") == ["HF_TOKEN"]


def test_an_endpoint_that_is_no_address_is_wrong_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    examination = network.examine(DoctorConfig())
    assert [finding.key for finding in examination.findings] == ["error.model.bad_endpoint"]
    assert value(examination, "offline") is False


def test_a_fact_is_shown_as_it_is_or_as_it_says() -> None:
    assert str(Fact("doctor.threads", 4)) == "4"
    assert str(Fact("doctor.threads", 4, "four")) == "four"
