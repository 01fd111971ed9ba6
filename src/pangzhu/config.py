"""Every option of every verb, as frozen data.

One class a concern (model, data, LoRA, optimisation, run), put together into one class a verb, so that a leaf takes
the slice it needs. A field's default stands here and nowhere else; its sentence (meaning, unit, what 0 or None means)
stands in the catalogue under `option.NAME`, which is also what `--help` prints. `load_config` reads the same keys from
YAML; flags win over the file.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from pangzhu.errors import UsageError, nearest

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
FALLBACK_MODEL = "packaged:qwen2.5-coder-0.5b-instruct"

DRAWING = ("top_p", "top_k", "min_p", "draw_seed")  # of no effect where nothing is drawn

ALIASES = {"adapter_dir": "adapter"}  # the course's name for it, on the command line and in YAML

Hub = Literal["auto", "hf", "modelscope"]
Precision = Literal["auto", "bf16", "float32"]
TrainOn = Literal["assistant", "last", "all"]
Overlong = Literal["fail", "drop", "truncate"]
Device = Literal["auto", "cpu", "cuda"]
EngineName = Literal["auto", "transformers", "llamacpp"]
Technique = Literal["alignment", "attention", "layers", "lora", "loss", "memory", "prefix", "pruning"]
Tracker = Literal["none", "all", "tensorboard", "swanlab", "wandb"]


class Options(BaseModel):
    """Frozen, strict about names: an unknown key is an error. Infinity and NaN are no values."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator(
        *(
            "output_dir",
            "dataset_path",
            "replay_path",
            "validation_path",
            "eval_path",
            "html",
            "base_gguf",
            "adapters",
            "examples_path",
        ),
        mode="before",
        check_fields=False,
    )
    @classmethod
    def _refuse_empty_path(cls, value: object, info: ValidationInfo) -> object:
        """An unset variable in a script gives an empty text, which would mean the current folder."""
        if value == "":
            raise UsageError("error.config.empty_path", where=f"--{info.field_name}")
        return value


class ModelOptions(Options):
    """Which base model, from where, on what. No name means: the default, or the packaged model where no hub answers."""

    model_name_or_path: str | None = None
    hub: Hub = "auto"
    revision: str | None = None
    device: Device = "auto"
    precision: Precision = "auto"


class DataOptions(Options):
    """Which rows, and what of each row is learned."""

    dataset_path: Path | None = None
    replay_path: Path | None = None
    validation_path: Path | None = None
    train_on: TrainOn = "assistant"
    max_seq_length: int | None = Field(None, ge=8)
    overlong: Overlong = "fail"
    system: str | None = None
    skip_bad: bool = False
    allow_control_tokens: bool = False

    @model_validator(mode="after")
    def _refuse_overlong_without_length(self) -> Self:
        if self.overlong != "fail" and self.max_seq_length is None:
            raise UsageError("error.config.overlong_without_length", overlong=self.overlong)
        return self


class LoraOptions(Options):
    """Shape of the adapter, as peft names it."""

    r: int = Field(8, ge=1, le=1024)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False


class OptimizationOptions(Options):
    """How the adapter is moved."""

    learning_rate: float = Field(2e-4, gt=0)
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    num_train_epochs: float = Field(3.0, gt=0, le=1e6)
    max_steps: int | None = Field(None, ge=1, le=10**9)
    per_device_train_batch_size: int = Field(8, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    token_budget: int | None = Field(None, ge=16)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0)
    replay_weight: float = Field(5.0, gt=0)
    seed: int = Field(42, ge=0, lt=2**32)
    until_learned: bool = False
    weaken_to_learned: bool = False


class ValidationOptions(Options):
    """What is done with the rows of `validation_path`. Nothing of it applies without them."""

    eval_steps: int | None = Field(None, ge=1)
    load_best_model_at_end: bool | None = None
    early_stopping_patience: int = Field(0, ge=0)


class FastOptions(Options):
    """How much of the fast path is taken; `off` is transformers and peft as they are."""

    fast: Literal["on", "off"] = "on"
    fast_without: tuple[Technique, ...] = ()


class RunOptions(Options):
    """Where the run lives and how it reports."""

    output_dir: Path
    resume: Literal["auto", "never"] = "auto"
    save_steps: int = Field(50, ge=1)
    logging_steps: int = Field(1, ge=1)
    report_to: tuple[Tracker, ...] = ()

    @field_validator("report_to", mode="before")
    @classmethod
    def _refuse_unknown_trackers(cls, value: object) -> object:
        """YAML may give a single name. `none` by itself is none, and a name given twice is one."""
        names = dict.fromkeys(map(str, value if isinstance(value, list | tuple) else [value]))
        known = get_args(Tracker)
        if unknown := [name for name in names if name not in known]:
            hint, listed = nearest(unknown[0], known), ", ".join(known)
            raise UsageError(
                "error.config.unknown_tracker", where="--report_to", name=unknown[0], known=listed, hint=hint
            )
        if "none" in names and len(names) > 1:
            raise UsageError("error.config.tracker_and_none", where="--report_to")
        return tuple(name for name in names if name != "none")


class TrainConfig(
    ModelOptions, DataOptions, LoraOptions, OptimizationOptions, ValidationOptions, FastOptions, RunOptions
):
    """Everything `pangzhu train` needs to know."""

    @property
    def keeps_best(self) -> bool:
        """Whether the weights with the lowest validation loss are published: where there is one, unless that is not wanted."""
        return self.validation_path is not None and self.load_best_model_at_end is not False

    @property
    def stops_early(self) -> bool:
        """Whether the run may end before its last planned step."""
        return self.until_learned or self.early_stopping_patience > 0

    @model_validator(mode="after")
    def _refuse_to_weaken_a_magnitude(self) -> Self:
        if self.weaken_to_learned and self.use_dora:
            raise UsageError("error.config.weaken_dora", where="--weaken_to_learned")
        return self

    @model_validator(mode="after")
    def _refuse_idle_validation_options(self) -> Self:
        idle = [name for name in ValidationOptions.model_fields if getattr(self, name)]
        if idle and self.validation_path is None:
            raise UsageError("error.config.without_validation", where=f"--{idle[0]}", name=idle[0])
        return self


class PlanConfig(TrainConfig):
    """Everything `pangzhu plan` needs to know: the run that is planned, and whether some of its steps are timed. Nothing is
    written into the output folder; what is asked is how much room its disk has."""

    output_dir: Path = Path()
    measure: bool = True


class CheckConfig(ModelOptions, DataOptions):
    """Everything `pangzhu check` needs to know."""

    eval_path: Path | None = None
    html: Path | None = None

    @field_validator("html")
    @classmethod
    def _refuse_other_endings(cls, value: Path | None) -> Path | None:
        """A page written over a dataset, by two names exchanged, could not be taken back."""
        if value is not None and value.suffix.lower() not in (".html", ".htm"):
            raise UsageError("error.config.not_html", where="--html", name=value.name)
        return value


class GenerationOptions(Options):
    """How an answer is drawn. Temperature 0 is greedy: nothing is drawn, so what would choose among tokens must be left out."""

    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=2**31 - 1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    draw_seed: int | None = Field(None, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _refuse_idle_choices(self) -> Self:
        fields = type(self).model_fields
        given = {name: value for name in DRAWING if (value := getattr(self, name)) != fields[name].default}
        if given and self.temperature == 0:
            name, value = next(iter(given.items()))
            raise UsageError("error.config.idle_drawing", where=f"--{name}", name=name, value=value)
        return self


class ChatConfig(ModelOptions, GenerationOptions):
    """Everything `pangzhu chat` needs to know. `adapter` holds `DIR` or `NAME=DIR`."""

    adapter: tuple[str, ...] = ()
    prompt: str | None = None
    system: str | None = None
    engine: EngineName = "auto"
    allow_base_mismatch: bool = False

    @model_validator(mode="after")
    def _refuse_what_llamacpp_does_not_know(self) -> Self:
        """It computes with the numbers of the GGUF file, on the CPU."""
        given = {"precision": self.precision != "auto", "device": self.device == "cuda"}
        if self.engine == "llamacpp" and any(given.values()):
            name = next(name for name, unfit in given.items() if unfit)
            raise UsageError("error.config.not_with_llamacpp", where="--engine llamacpp", name=name)
        return self


class CompareConfig(ModelOptions):
    """Everything `pangzhu compare` and `pangzhu eval` need to know."""

    adapter: tuple[str, ...] = ()
    dataset_path: Path
    max_new_tokens: int = Field(256, ge=1)
    max_questions: int | None = Field(None, ge=1)
    output_dir: Path | None = None
    allow_base_mismatch: bool = False
    fail_under: tuple[str, ...] = ()
    skip_drift: bool = False

    @field_validator("fail_under", mode="before")
    @classmethod
    def _accept_one(cls, value: object) -> object:
        """YAML may give a single bar, and as a number."""
        return tuple(map(str, value if isinstance(value, list | tuple) else [value]))

    @model_validator(mode="after")
    def _refuse_bad_thresholds(self) -> Self:
        kinds = [_threshold(given)[0] for given in self.fail_under]
        if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
            raise UsageError("error.config.threshold_twice", where="--fail_under", kind=twice[0])
        return self

    @property
    def thresholds(self) -> dict[str, float]:
        """The least share of right answers, from 0 to 1, by kind of question."""
        return dict(map(_threshold, self.fail_under))


class DoctorConfig(Options):
    """Everything `pangzhu doctor` needs to know. Nothing is kept in the output folder; what is asked is whether it can be
    written and how much room its disk has. `adapter` holds `DIR` or `NAME=DIR`."""

    output_dir: Path = Path()
    adapter: tuple[str, ...] = ()
    offline: bool = False


class DemoConfig(ModelOptions, FastOptions):
    """Everything `pangzhu demo` needs to know."""

    output_dir: Path = Path("lora_output")


ConfigType = TypeVar("ConfigType", bound=Options)


def load_config(kind: type[ConfigType], given: Mapping[str, object], *, config_file: Path | None = None) -> ConfigType:
    """Build a verb's configuration from its flags and, below them, a YAML file.

    Args:
        kind: the verb's class.
        given: the flags that were given, by field name; None means not given.
        config_file: YAML mapping with the same keys; flags win over it.

    Raises:
        UsageError: unknown key, wrong type, value out of range, or a contradiction; names the key and the nearest one.
    """
    from_file = _under_own_names(kind, _read_yaml(config_file)) if config_file else {}
    unknown = [key for key in from_file if key not in kind.model_fields]
    if unknown:
        raise UsageError(
            "error.config.unknown_key",
            where=str(config_file),
            name=unknown[0],
            hint=nearest(unknown[0], kind.model_fields),
        )
    merged = from_file | {key: value for key, value in given.items() if value is not None}
    try:
        return kind.model_validate(merged)
    except ValidationError as invalid:
        raise _as_usage_error(invalid, config_file) from invalid


def _threshold(given: str) -> tuple[str, float]:
    """`KIND=SHARE` as kind and share; a share alone is that of the taught questions."""
    kind, _, share = given.rpartition("=")
    try:
        least = float(share)
    except ValueError:
        least = math.nan
    if not 0 <= least <= 1:
        raise UsageError("error.config.bad_threshold", where=f"--fail_under {given}", given=given)
    return kind.strip() or "taught", least


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as unreadable:
        raise UsageError("error.config.unreadable", where=str(path), reason=unreadable.strerror) from unreadable
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as broken:
        raise UsageError("error.config.not_yaml", where=str(path), reason=str(broken)) from broken
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError("error.config.not_mapping", where=str(path))
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _under_own_names(kind: type[Options], content: Mapping[str, object]) -> dict[str, object]:
    """The keys of a file with each alias replaced by the field it stands for."""
    known = {alias: name for alias, name in ALIASES.items() if name in kind.model_fields}
    for alias, name in known.items():
        if alias in content and name in content:
            raise UsageError("error.cli.given_twice", word=alias, option=name)
    return {known.get(key, key): value for key, value in content.items()}


def _as_usage_error(invalid: ValidationError, config_file: Path | None) -> UsageError:
    """The first complaint of pydantic, as a sentence that names the flag."""
    first = invalid.errors()[0]
    name = ".".join(str(part) for part in first["loc"][:1])
    if first["type"] == "missing":
        return UsageError("error.config.missing", where=f"--{name}", name=name)
    return UsageError(
        "error.config.invalid_value",
        where=f"--{name}" + (f" ({config_file})" if config_file else ""),
        name=name,
        value=first.get("input"),
        reason=first["msg"],
    )
