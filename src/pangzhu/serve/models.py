"""The engine of the moment: base and adapters in memory, changed when the adapters change.

An adapter that came, went or was replaced is noticed when somebody asks for a model. From then on nobody new is let in: it is
verified beside the work under way, those at work finish, and base and adapters are loaded anew. One that cannot be used is
refused by name, as long as it lies there as it is, and the others go on. Where nothing could be loaded, the next who asks tries
again. Safe to use from many threads.
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
from pangzhu.serve.faults import refusal
from pangzhu.serve.options import ServeConfig
from pangzhu.serve.shelf import Contents, Lying, Shelf

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
        self._closed = False
        self._faulty: dict[str, Contents] = {}
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
        return (BASE, *(name for name, lying in self._shelf.adapters().items() if not self._is_faulty(name, lying)))

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
            self._closed = True
            self._changed.wait_for(lambda: self._num_at_work == 0 and not self._changing)
            if self._loaded:
                self._loaded.engine.close()
            self._loaded = None

    def _enter(self, names: tuple[str, ...]) -> Engine:
        lying: Mapping[str, Lying] = self._shelf.adapters()
        while True:
            for name in names:
                self._require(name, lying)
            wanted = {name: lying[name] for name in names if name != BASE}
            with self._changed:
                self._changed.wait_for(lambda: not self._changing)
                if self._closed:
                    raise refusal(503, "serve.refusal.stopping", code="stopping")
                if self._loaded and wanted.items() <= self._loaded.adapters.items():
                    self._num_at_work += 1
                    return self._loaded.engine
                self._changing = True
            lying = self._change()

    def _require(self, name: str, lying: Mapping[str, Lying]) -> None:
        if name == BASE:
            return
        if name not in lying:
            raise refusal(404, "serve.refusal.no_such_model", code="model_not_found", param="model", name=name)
        if self._is_faulty(name, lying[name]):
            raise refusal(409, "serve.refusal.not_usable", code="model_not_usable", param="model", name=name)

    def _is_faulty(self, name: str, lying: Lying) -> bool:
        """Whether an adapter, as it lies there now, is known to be one that cannot be used."""
        return self._faulty.get(name) == lying.contents

    def _change(self) -> Mapping[str, Lying]:
        """Load what lies here now, which is also given; what turns out faulty is left out."""
        try:
            lying = self._shelf.adapters()
            sound = {name: found for name, found in lying.items() if self._is_sound(name, found)}
            if not self._loaded or sound != self._loaded.adapters:
                self._replace(sound)
            return lying
        finally:
            with self._changed:
                self._changing = False
                self._changed.notify_all()

    def _replace(self, sound: Mapping[str, Lying]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._num_at_work == 0)
        kept = self._unload()
        new = {name: found for name, found in sound.items() if kept.get(name) != found}
        try:
            self._loaded = self._load(sound)
        except Exception as fault:  # also a library's, that does not know the adapter's kind
            if not new:
                raise
            old = {name: found for name, found in sound.items() if name not in new}
            faults = dict.fromkeys(new, fault) if len(new) == 1 else self._faults(old, new)
            self._loaded = self._load({name: found for name, found in sound.items() if name not in faults})
            for name, found_fault in faults.items():  # not before it is known that without them it goes
                self._set_aside(name, new[name], found_fault)

    def _unload(self) -> Mapping[str, Lying]:
        """Let the engine go, and its memory, which the next one needs; gives its adapters."""
        before, self._loaded = self._loaded, None
        if not before:
            return {}
        before.engine.close()
        return before.adapters

    def _faults(self, old: Mapping[str, Lying], new: Mapping[str, Lying]) -> dict[str, Exception]:
        """What is wrong with those of several new adapters that cannot be loaded, tried one after the other."""
        sound, faults = dict(old), dict[str, Exception]()
        for name, found in new.items():
            try:
                self._load({**sound, name: found}).engine.close()
                sound[name] = found
            except Exception as fault:  # noqa: BLE001  # whatever it is, the others go on without it
                faults[name] = fault
        return faults

    def _is_sound(self, name: str, found: Lying) -> bool:
        if self._loaded and self._loaded.adapters.get(name) == found:
            return True
        if self._is_faulty(name, found):
            return False
        try:
            verify_files(found.folder)
        except PangzhuError as fault:
            self._set_aside(name, found, fault)
            return False
        return True

    def _set_aside(self, name: str, found: Lying, fault: Exception) -> None:
        told = fault if isinstance(fault, PangzhuError) else f"{type(fault).__name__}: {fault}"
        say("serve.faulty", name=name, fault=told)
        self._faulty[name] = found.contents

    def _load(self, adapters: Mapping[str, Lying]) -> Loaded:
        options = self._config.model_dump(include={*ModelOptions.model_fields, "engine"})
        named = tuple(f"{name}={found.folder}" for name, found in adapters.items())
        engine = self._load_engine(ChatConfig.model_validate({**options, "adapter": named}))
        say("serve.models", names=", ".join(engine.names))
        return Loaded(engine, dict(adapters), int(time.time()))
