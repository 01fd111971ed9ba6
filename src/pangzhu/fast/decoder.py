"""A whole decoder, driven over a stream of tokens: embedding, layers, last norm.

The modules stay transformers' and peft's; this file knows only in which order they are computed, which the supported
families (`pangzhu.fast.support`) share: norm, attention, residual, norm, gated MLP, residual.

In the last layer every token still gives its key and value, but only the places that predict a learned token ask: their
queries, their MLP and the last norm are all that is computed there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from pangzhu.fast import attention, layers, lora
from pangzhu.fast.attention import Block
from pangzhu.fast.mlp import gated_mlp
from pangzhu.fast.stream import Stream
from pangzhu.fast.techniques import Techniques
from pangzhu.fast.workspace import Place, Room, Workspace, fresh


@dataclass(frozen=True, slots=True)
class Heads:
    """K key-value heads, G query heads to each, D numbers a head."""

    num_kv: int
    num_groups: int
    head_dim: int

    @property
    def widths(self) -> tuple[int, int, int]:
        """Columns of queries, keys and values."""
        keys = self.num_kv * self.head_dim
        return keys * self.num_groups, keys, keys


@dataclass(frozen=True, slots=True)
class _Asking:
    """Which tokens ask in a layer: all, or those at `places`; with their rotations and the keys they see."""

    places: Tensor | None
    rotation: tuple[Tensor, Tensor]
    seen: "tuple[Block, ...] | Tensor"

    def take(self, x: Tensor) -> Tensor:
        """`(T, ...)` at the tokens that ask."""
        return x if self.places is None else x[self.places]


@dataclass(frozen=True, slots=True)
class _Input:
    """What projections read: x * gain, `(T, H)` and `(H,)`; x as it is without a gain."""

    x: Tensor
    gain: Tensor | None = None


class FastDecoder:
    """Hidden states of a stream through a supported decoder.

    Args:
        model: the decoder without its head (`Qwen2Model` and its like).
        techniques: what is done the fast way.
        workspace: lends what is kept for the backward pass; a call begins a pass, and its result is guarded.
    """

    def __init__(self, model: Any, techniques: Techniques, workspace: Workspace) -> None:
        config = model.config
        num_kv = config.num_key_value_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._model = model
        self._techniques = techniques
        self._workspace = workspace
        self._heads = Heads(num_kv, config.num_attention_heads // num_kv, head_dim)

    def __call__(self, stream: Stream) -> Tensor:
        """Hidden states after the last norm at the stream's places, `(W, H)`."""
        model = self._model
        self._workspace.begin_pass()
        x = model.embed_tokens(stream.input_ids)
        cos, sin = (angles[0] for angles in model.rotary_emb(x[None], stream.position_ids[None]))
        everyone = self._asking(stream, None, (cos, sin))
        prunes = self._techniques.pruning
        some = self._asking(stream, stream.places, (cos, sin)) if prunes else everyone
        last = len(model.layers) - 1
        for number, (layer, room) in enumerate(zip(model.layers, self._rooms(), strict=True)):
            x = self._layer(layer, x, keys=(cos, sin), asking=some if number == last else everyone, room=room)
        return self._workspace.guard(self._norm(model.norm, x if prunes else x[stream.places]))

    def _rooms(self) -> list[Room]:
        """Each layer's own, where a backward pass will come; else one for all."""
        num_layers = len(self._model.layers)
        num_kept = num_layers if torch.is_grad_enabled() else 1
        return [Room(self._workspace, number, num_kept) for number in range(num_layers)]

    def _asking(self, stream: Stream, places: Tensor | None, rotation: tuple[Tensor, Tensor]) -> _Asking:
        if places is not None:
            rotation = (rotation[0][places], rotation[1][places])
        if not self._techniques.attention:
            return _Asking(places, rotation, attention.dense_mask(stream.segments, stream.num_tokens, places))
        blocks = (
            attention.plan_blocks(stream.segments)
            if places is None
            else attention.plan_blocks_at(stream.segments, places)
        )
        return _Asking(places, rotation, tuple(blocks))

    def _layer(self, layer: Any, x: Tensor, *, keys: tuple[Tensor, Tensor], asking: _Asking, room: Room) -> Tensor:
        """`(T, H)` to `(T, H)`, or to the tokens that ask alone."""
        given = self._input(layer.input_layernorm, x, room.kept("attention's input"))
        q, k, v = self._queries_keys_values(layer.self_attn, given, keys, asking, room)
        scale = layer.self_attn.scaling
        attended = (
            attention.attend_densely(q, k, v, mask=asking.seen, scale=scale)
            if isinstance(asking.seen, Tensor)
            else attention.attend(q, k, v, blocks=asking.seen, scale=scale, room=room)
        )
        x = asking.take(x) + self._project([layer.self_attn.o_proj], _Input(attended))[0]
        given = self._input(layer.post_attention_layernorm, x, room.kept("the MLP's input"))
        return x + self._mlp(layer.mlp, given, room)

    def _queries_keys_values(
        self, module: Any, given: _Input, keys: tuple[Tensor, Tensor], asking: _Asking, room: Room
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`(K, S, G, D)`, `(K, T, D)`, `(K, T, D)`, queries and keys rotated."""
        heads = self._heads
        if hasattr(module, "qkv_proj"):
            q, k, v = self._project([module.qkv_proj], given)[0].split(heads.widths, dim=-1)
            q = asking.take(q)
        elif asking.places is None:
            q, k, v = self._project([module.q_proj, module.k_proj, module.v_proj], given)
        else:
            k, v = self._project([module.k_proj, module.v_proj], given)
            (q,) = self._project([module.q_proj], _Input(asking.take(given.x), given.gain))
        if hasattr(module, "q_norm"):  # of every head by itself
            q = self._norm(module.q_norm, q.unflatten(-1, (-1, heads.head_dim)), room.kept("query norms")).flatten(-2)
            k = self._norm(module.k_norm, k.unflatten(-1, (-1, heads.head_dim)), room.kept("key norms")).flatten(-2)
        rotated_q = self._rotate(q, asking.rotation, heads.num_groups, room.kept("queries"))
        rotated_k = self._rotate(k, keys, 1, room.kept("keys")).squeeze(2)
        return rotated_q, rotated_k, v.unflatten(-1, (heads.num_kv, heads.head_dim)).transpose(0, 1)

    def _mlp(self, module: Any, given: _Input, room: Room) -> Tensor:
        joined = hasattr(module, "gate_up_proj")
        gate_up = [module.gate_up_proj] if joined else [module.gate_proj, module.up_proj]
        if self._techniques.layers and self._techniques.lora:
            known = [lora.read_linear(linear) for linear in (*gate_up, module.down_proj)]
            plain = [linear for linear in known if linear is not None and not linear.dropout]
            if len(plain) == len(known):
                return gated_mlp(given.x, given.gain, plain[:-1], plain[-1], room)
        outputs = self._project(gate_up, given)
        gate, up = outputs[0].chunk(2, dim=-1) if joined else outputs
        return self._project([module.down_proj], _Input(silu(gate) * up))[0]

    def _project(self, modules: Sequence[torch.nn.Module], given: _Input) -> list[Tensor]:
        if self._techniques.lora:
            return lora.project(modules, given.x, given.gain)
        x = given.x if given.gain is None else given.x * given.gain
        return [module(x) for module in modules]

    def _input(self, norm: Any, x: Tensor, place: Place) -> _Input:
        """What the projections after a norm read."""
        if self._techniques.layers:
            return _Input(layers.normalize(x, norm.variance_epsilon, place=place), norm.weight)
        return _Input(norm(x))

    def _norm(self, module: Any, x: Tensor, place: Place = fresh) -> Tensor:
        if self._techniques.layers:
            return layers.rms_norm(x, module.weight, module.variance_epsilon, place=place)
        normed: Tensor = module(x)
        return normed

    def _rotate(self, x: Tensor, rotation: tuple[Tensor, Tensor], num_groups: int, place: Place) -> Tensor:
        head_dim = self._heads.head_dim
        if self._techniques.layers:
            return layers.rotate(x, *rotation, num_groups=num_groups, head_dim=head_dim, place=place)
        return layers.rotate_by_autograd(x, *rotation, num_groups=num_groups, head_dim=head_dim)
