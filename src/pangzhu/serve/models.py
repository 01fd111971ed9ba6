"""The engine of the moment: base and adapters in memory, changed when the adapters change.

An adapter that came, went or was replaced is noticed when somebody asks for a model. It is verified first, beside the work
under way; then nobody new is let in, those at work finish, and base and adapters are loaded anew. One that cannot be used is
refused by name, and the others go on. Safe to use from many threads.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pangzhu.adapter import verify_files
from pangzhu.config import ChatConfig, ModelOptions
from pangzhu.engines import Engine
from pangzhu.engines.named_models import BASE
from pangzhu.errors import PangzhuError
from pangzhu.messages import say
from pangzhu.serve.faults import ApiError, refusal
from pangzhu.serve.options import ServeConfig
from pangzhu.serve.shelf import Lying, Shelf

Load = Callable[[ChatConfig], Engine]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine, which adapters it was loaded with, and since when (seconds of the epoch)."""

    engine: Engine
    adapters: Mapping[str, Lying]
    since: int


class Models:
    """Who can be asked.

    Args:
        config: base, adapters and engine.
        load: loads an engine.

    Raises:
        PangzhuError: the base, or an adapter that is there at the start, cannot be used.
    """

    def __init__(self, config: ServeConfig, load: Load) -> None:
        self._config = config
        self._load_engine = load
        self._shelf = Shelf(config.adapters, config.adapter)
        self._changed = threading.Condition()
        self._num_at_work = 0
        self._changing = False
        self._faulty: dict[str, tuple[Lying, str]] = {}
        self._loaded: Loaded | None = self._load(self._shelf.adapters())

    @property
    def ready(self) -> bool:
        """Whether somebody who asks now is answered without waiting for a load."""
        return self._loaded is not None and not self._changing

    @property
    def known(self) -> Loaded | None:
        """What is loaded."""
        return self._loaded

    def names(self) -> tuple[str, ...]:
        """The base and every adapter that lies here and is not known to be faulty."""
        return (BASE, *(name for name, lying in self._shelf.adapters().items() if not self._fault_of(name, lying)))

    @contextmanager
    def asked(self, *names: str) -> Iterator[Engine]:
        """The engine, for as long as the block lasts, with each of the named models in it.

        Raises:
            ApiError: there is no such model, or it cannot be used.
        """
        engine = self._enter(names)
        try:
            yield engine
        finally:
            with self._changed:
                self._num_at_work -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for those at work, then unload."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_at_work == 0)
            if self._loaded:
                self._loaded.engine.close()
            self._loaded = None

    def _enter(self, names: tuple[str, ...]) -> Engine:
        while True:
            lying = self._shelf.adapters()
            for name in names:
                self._require(name, lying)
            with self._changed:
                self._changed.wait_for(lambda: not self._changing)
                if self._loaded is None:
                    raise refusal(503, "serve.refusal.stopping", code="stopping")
                wanted = {name: lying[name] for name in names if name != BASE}
                if wanted.items() <= self._loaded.adapters.items():
                    self._num_at_work += 1
                    return self._loaded.engine
                self._changing = True
            try:
                self._change(lying)
            finally:
                with self._changed:
                    self._changing = False
                    self._changed.notify_all()

    def _require(self, name: str, lying: Mapping[str, Lying]) -> None:
        if name == BASE:
            return
        if name not in lying:
            raise refusal(404, "serve.refusal.no_such_model", code="model_not_found", param="model", name=name)
        if fault := self._fault_of(name, lying[name]):
            raise ApiError(409, fault, "model_not_usable", "model")

    def _fault_of(self, name: str, lying: Lying) -> str | None:
        """Why an adapter, as it lies there now, cannot be used."""
        known = self._faulty.get(name)
        return known[1] if known and known[0] == lying else None

    def _change(self, lying: Mapping[str, Lying]) -> None:
        """Load what lies here; what turns out faulty is left out."""
        sound = {name: found for name, found in lying.items() if self._is_sound(name, found)}
        if self._loaded and sound == self._loaded.adapters:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._num_at_work == 0)
        before = self._loaded
        if before:
            before.engine.close()
        self._loaded = None
        try:
            self._loaded = self._load(sound)
        except PangzhuError as fault:
            kept = before.adapters if before else {}
            new = {name: found for name, found in sound.items() if kept.get(name) != found}
            for name, found in new.items():
                self._set_aside(name, found, fault)
            self._loaded = self._load({name: found for name, found in sound.items() if name not in new})

    def _is_sound(self, name: str, found: Lying) -> bool:
        if self._loaded and self._loaded.adapters.get(name) == found:
            return True
        if self._fault_of(name, found):
            return False
        try:
            verify_files(found.folder)
        except PangzhuError as fault:
            self._set_aside(name, found, fault)
            return False
        return True

    def _set_aside(self, name: str, found: Lying, fault: PangzhuError) -> None:
        say("serve.faulty", name=name, fault=fault)
        self._faulty[name] = (found, fault.what)

    def _load(self, adapters: Mapping[str, Lying]) -> Loaded:
        options = self._config.model_dump(include={*ModelOptions.model_fields, "engine"})
        named = tuple(f"{name}={found.folder}" for name, found in adapters.items())
        engine = self._load_engine(ChatConfig.model_validate({**options, "adapter": named}))
        say("serve.models", names=", ".join(engine.names))
        return Loaded(engine, dict(adapters), int(time.time()))
