"""Keys and values of answers that were given: whoever goes on from there computes only what is new.

Those of one adapter are wrong for every other, so each belongs to a name. Several are kept, since a chat compares models and a
server holds several conversations; with the answer under way they have at most as many tokens together as a batch may have, and
the ones used last stay. A single conversation may have more: its answer had to hold them all the same.

Two kinds of model begin anew each time. A layer with a window has forgotten what a conversation that goes on differently from
an earlier place needs; a rotation that is stretched for long texts turns the same keys otherwise once a text is long.

Left to others: writing (`pangzhu.engines.decoding`), and that no two answers do so at once (`pangzhu.engines.transformers`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pangzhu.engines.decoding import MAX_BATCH_TOKENS, forgets
from pangzhu.fast.prefix import common_length

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

STRETCHING = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """What was computed for `name`: the ids, and their keys and values."""

    name: str
    ids: tuple[int, ...]
    keys_and_values: "DynamicCache"


class KnownTurns:
    """Answers to go on from, the one used last at the end.

    Args:
        model: whose they are.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        self._config = model.config
        self._turns: list[_Turn] = []
        self._may_keep = not forgets(model) and not _stretches(model)

    @property
    def num_tokens(self) -> int:
        """Of all that is kept."""
        return sum(len(turn.ids) for turn in self._turns)

    def begin(self, name: str, prompt: Sequence[int], max_new_tokens: int) -> "DynamicCache | None":
        """Keys and values of what is known of a prompt, to be filled by its answer; None where the model begins anew each time.

        They are kept no longer: an answer that fails leaves nothing behind, since nobody knows how far it came.

        Args:
            name: who answers.
            prompt: ids; the last one is always computed.
            max_new_tokens: for which room is made too.
        """
        from transformers import DynamicCache

        if not self._may_keep:
            return None
        num_known, turn = self._best(name, prompt)
        if turn:
            self._turns.remove(turn)
        while self._turns and self.num_tokens + len(prompt) + max_new_tokens > MAX_BATCH_TOKENS:
            del self._turns[0]
        if not turn:
            return DynamicCache(config=self._config)
        if num_over := turn.keys_and_values.get_seq_length() - num_known:
            turn.keys_and_values.crop(-num_over)
        return turn.keys_and_values

    def keep(self, name: str, ids: Sequence[int], keys_and_values: "DynamicCache") -> None:
        """Keep what `begin` gave.

        Args:
            name: who answered.
            ids: prompt and answer; the last one's keys and values have not been computed.
            keys_and_values: of all before.
        """
        self._turns.append(_Turn(name, tuple(ids[: keys_and_values.get_seq_length()]), keys_and_values))

    def _best(self, name: str, prompt: Sequence[int]) -> tuple[int, _Turn | None]:
        """The longest beginning that is known, and of which turn; none where cutting it off there would throw away more than it
        saves, as with another conversation that has the system text alone in common."""
        known = [(common_length([prompt[:-1], turn.ids]), turn) for turn in self._turns if turn.name == name]
        num_known, turn = max(known, key=lambda found: found[0], default=(0, None))
        return (num_known, turn) if turn and 2 * num_known >= len(turn.ids) else (0, None)


def _stretches(model: "PreTrainedModel") -> bool:
    """Whether the rotation of a token depends on how long the text is."""
    rope = model.config.rope_parameters
    settings = [rope, *(of_layers for of_layers in rope.values() if isinstance(of_layers, dict))]
    return any(one.get("rope_type") in STRETCHING for one in settings)
