"""The techniques by name, each of which can be left out alone."""

from collections.abc import Iterable
from dataclasses import dataclass

from pangzhu.config import Technique


@dataclass(frozen=True, slots=True)
class Techniques:
    """What is done the fast way; the other way is transformers' and peft's own.

    Args:
        alignment: tokens of a micro-batch filled up to a number that products are fast with (those of the head belong to
            `loss`); else as many as there are.
        attention: row by row; else one dense mask over the stream.
        layers: norms, rotations and activations as single functions; else by autograd.
        lora: adapters fused into their linear layer; else peft's forward.
        loss: the head and its gradient in chunks; else logits of all learned tokens at once.
        memory: buffers used again in every micro-batch, oneDNN's compiled products bounded; else fresh memory, and as many
            as it keeps by itself.
        prefix: tokens that rows begin with alike computed once; else in every row.
        pruning: tokens that no learned token depends on left out; else every token goes through every layer.
    """

    alignment: bool = True
    attention: bool = True
    layers: bool = True
    lora: bool = True
    loss: bool = True
    memory: bool = True
    prefix: bool = True
    pruning: bool = True

    @classmethod
    def without(cls, names: Iterable[Technique]) -> "Techniques":
        """All but the named ones."""
        return cls(**dict.fromkeys(names, False))
