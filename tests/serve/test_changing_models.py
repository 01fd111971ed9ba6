"""Adapters that come, go and change while others ask: what can be used is, and nothing is lost for good."""

import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pangzhu.adapter import MANIFEST, WEIGHTS
from pangzhu.config import ChatConfig
from pangzhu.engines import Engine
from pangzhu.errors import ModelError
from pangzhu.messages import listening
from pangzhu.serve.faults import ApiError
from pangzhu.serve.models import Models
from pangzhu.serve.options import ServeConfig
from tests.conftest import silently
from tests.serve.conftest import ScriptedEngine, wait_until
from tests.use_helpers import Trained

pytest_plugins = ["tests.use_fixtures"]

UNLOADABLE = ModelError("error.adapter.unloadable", reason="it is in /home/somebody")


class Loader:
    """Loads engines of a script.

    Args:
        faults: what is raised where one of these adapters is to be loaded.
    """

    def __init__(self, faults: Mapping[str, Exception] | None = None) -> None:
        self.faults = dict(faults or {})
        self.loaded: list[tuple[str, ...]] = []
        self.engine: Callable[[], ScriptedEngine | None] = lambda: None

    def __call__(self, config: ChatConfig) -> Engine:
        wait_until(lambda: self.engine() is None, "the engine before has gone")
        names = tuple(given.partition("=")[0] for given in config.adapter)
        for name in ("base", *names):
            if name in self.faults:
                raise self.faults[name]
        self.loaded.append(names)
        engine = ScriptedEngine(config)
        self.engine = weakref.ref(engine)
        return engine  # type: ignore[return-value]


@contextmanager
def serving(adapters: Path, load: Loader) -> Iterator[Models]:
    """Models of a folder."""
    with listening(silently), closing(Models(ServeConfig(adapters=adapters), load)) as models:
        yield models


def lay(adapter: Path, place: Path) -> None:
    shutil.copytree(adapter, place, ignore=shutil.ignore_patterns("run"))


def names_asked(models: Models, name: str) -> tuple[str, ...]:
    """Who is there when one is asked."""
    with models.asked(name) as engine:
        return engine.names


def refused(models: Models, name: str) -> ApiError:
    with pytest.raises(ApiError) as fault, models.asked(name):
        pass
    return fault.value


def test_an_adapter_that_was_asked_for_while_it_was_copied_answers_once_it_is_whole(
    adapters: Path, trained: Trained
) -> None:
    with serving(adapters, Loader()) as models:
        lay(trained.english, adapters / "english")
        (adapters / "english" / WEIGHTS).unlink()
        assert refused(models, "english").status == 409
        assert models.names() == ("base",)
        shutil.copy2(trained.english / WEIGHTS, adapters / "english" / WEIGHTS)
        assert models.names() == ("base", "english")
        assert names_asked(models, "english") == ("base", "english")


def test_of_two_that_came_together_the_one_that_can_be_loaded_answers(adapters: Path, trained: Trained) -> None:
    load = Loader({"bad": UNLOADABLE})
    with serving(adapters, load) as models:
        lay(trained.english, adapters / "bad")
        lay(trained.chinese, adapters / "good")
        assert names_asked(models, "good") == ("base", "good")
        assert refused(models, "bad").status == 409
        assert names_asked(models, "good") == ("base", "good")


@pytest.mark.parametrize("fault", [UNLOADABLE, RuntimeError("a library's"), MemoryError()])
def test_one_that_cannot_be_loaded_is_refused_and_the_others_go_on(
    adapters: Path, trained: Trained, fault: Exception
) -> None:
    lay(trained.chinese, adapters / "good")
    with serving(adapters, Loader({"bad": fault})) as models:
        lay(trained.english, adapters / "bad")
        found = refused(models, "bad")
        assert (found.status, found.code) == (409, "model_not_usable")
        assert "somebody" not in found.message
        assert names_asked(models, "good") == ("base", "good")


def test_where_nothing_could_be_loaded_the_next_who_asks_tries_again(adapters: Path, trained: Trained) -> None:
    load = Loader()
    with serving(adapters, load) as models:
        lay(trained.english, adapters / "english")
        load.faults["base"] = ModelError("error.adapter.unloadable", reason="for a moment")
        with pytest.raises(ModelError), models.asked("english"):
            pass
        assert not models.ready
        load.faults.clear()
        assert names_asked(models, "base") == ("base", "english")
        assert names_asked(models, "english") == ("base", "english")
        assert models.ready


def test_without_its_folder_the_base_still_answers(adapters: Path, trained: Trained) -> None:
    lay(trained.english, adapters / "english")
    with serving(adapters, Loader()) as models:
        shutil.rmtree(adapters)
        assert models.names() == ("base",)
        assert "base" in names_asked(models, "base")
        assert refused(models, "english").status == 404


def test_who_looked_before_a_change_does_not_undo_it(
    adapters: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Loader()
    with serving(adapters, load) as models:
        lay(trained.english, adapters / "english")
        seen_before = models._shelf.adapters()
        (adapters / "english" / MANIFEST).touch()
        lay(trained.chinese, adapters / "chinese")
        assert names_asked(models, "english") == ("base", "chinese", "english")
        look, looks = models._shelf.adapters, iter([seen_before])
        monkeypatch.setattr(models._shelf, "adapters", lambda: next(looks, None) or look())
        assert names_asked(models, "english") == ("base", "chinese", "english")
        assert load.loaded == [(), ("chinese", "english")]


def test_after_the_end_nobody_is_let_in(adapters: Path) -> None:
    with serving(adapters, Loader()) as models:
        models.close()
        assert refused(models, "base").status == 503
