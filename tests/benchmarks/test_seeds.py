"""The example's figures: the demo's own recipe, asked test questions alone, and the mean over seeds with its interval over facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import seeds
from benchmarks.bench import fill_csv, read_csv
from benchmarks.seeds import SUBJECTS, Subject, table
from pangzhu.config import DemoConfig
from pangzhu.demo import demo_recipe
from pangzhu.messages import LANGUAGES, Language


class Stop(Exception):  # noqa: N818
    """Far enough."""


def line(seed: int, missed: str, **other: str) -> dict[str, str]:
    """A row of the CSV."""
    return {
        "facts": "law", "model": "packaged:qwen", "seed": str(seed), "steps": "10", "tokens": "12345", "num_taught": "4",
        "num_taught_right": "4", "facts_asked": "a b", "facts_missed": missed, "num_untaught": "20", "num_recited": "1",
        "agreement": "[0.9, 0.88, 0.92]", "kl": "0.05", "num_choices": "100", "num_right_base": "22", "num_right_adapter": "24",
    } | other  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_tells_every_seed_and_their_mean(language: Language) -> None:
    *_, first, second, mean = table([line(42, ""), line(43, "b")], language).splitlines()
    assert first == "| law, qwen | 42 | 10 | 12,345 | 4/4 | 2/2 | 1/20 | 90.0% [88.0–92.0] | 0.05 | 22, 24 / 100 |"
    assert "| 1/2 |" in second
    assert "75.0% [50.0–100.0]" in mean


def test_a_subject_of_one_seed_has_no_mean_and_one_without_choices_no_choices() -> None:
    (only,) = table([line(42, "a", num_choices="0")]).splitlines()[2:]
    assert only.endswith("| 0.05 |  |")


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_the_demos_recipe_is_trained_but_for_facts_base_and_seed(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[Any] = []

    def stop(config: Any, **_: Any) -> None:
        configs.append(config)
        raise Stop

    monkeypatch.setattr(seeds, "train", stop)
    with pytest.raises(Stop):
        seeds.run(subject, 43)
    wanted = demo_recipe(DemoConfig(output_dir=Path("x")))
    own = {"output_dir", "model_name_or_path", "dataset_path", "seed"}
    assert configs[0].model_dump(exclude=own) == wanted.model_dump(exclude=own)
    assert (configs[0].dataset_path, configs[0].seed) == (subject.facts, 43)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_only_test_questions_are_asked(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[Any, Any]] = []
    written: list[Any] = []
    fields = lambda row: (row.field("kind"), row.field("split"))  # noqa: E731
    monkeypatch.setattr(seeds, "measure", lambda _e, _n, rows: measured.extend(map(fields, rows)) or [_Exact])
    monkeypatch.setattr(seeds, "ask", lambda _e, rows, *_, **__: written.extend(map(fields, rows)) or _Nothing)
    monkeypatch.setattr(seeds, "measure_choices", lambda *_: [])
    monkeypatch.setattr(seeds, "measure_drift", lambda *_: [_Drift])
    seeds.asked(None, subject)  # type: ignore[arg-type]
    assert set(measured) == {(None, None), ("reworded", "test")}
    assert set(written) == {("untaught", "test")}


class _Exact:
    num_rows = 1
    num_exact = 1


class _Nothing:
    rows = ()


class _Drift:
    class agreement:  # noqa: N801
        value, low, high = 0.9, 0.8, 1.0

    class kl:  # noqa: N801
        value = 0.1


def test_only_what_has_no_row_yet_is_run_and_each_is_kept_as_it_is_done(tmp_path: Path) -> None:
    file, ran = tmp_path / "rows.csv", []

    def run(name: str) -> dict[str, Any]:
        if name == "c":
            raise Stop
        ran.append(name)
        return {"figure": len(ran)}

    def runs(names: str) -> Any:
        return [({"name": name}, lambda name=name: run(name)) for name in names]

    assert fill_csv(file, runs("a")) == [{"name": "a", "figure": "1"}]
    with pytest.raises(Stop):
        fill_csv(file, runs("abc"))
    assert ran == ["a", "b"]
    assert [row["name"] for row in read_csv(file)] == ["a", "b"]
