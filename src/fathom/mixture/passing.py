"""Blocks on their way through a mixture."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fathom.mixture.attention import attend, attention_weights
from fathom.mixture.blocks import Block, Span
from fathom.mixture.cache import Cache, CachedStep
from fathom.mixture.stream import Stream, StreamLayer
from fathom.mixture.visibility import Mask

if TYPE_CHECKING:
    from fathom.mixture.mixture import Mixture


class Pass:
    """One pass of blocks through a mixture, which :meth:`advance` takes one joint step further.

    Between two steps it can be looked at and changed: the attention of the step before is at hand, something can be
    added to a block, and tokens can be dropped. The steps that are done stay as they were.

    Attributes:
        place: the joint step that comes next, as a place in the mixture's plan.
    """

    def __init__(
        self, mixture: "Mixture", blocks: Sequence[Block], cache: Cache | None, wanted: Collection[str] | None
    ) -> None:
        _check_cacheable(mixture, cache, blocks)
        self._mixture = mixture
        self._past = cache
        self._wanted = {block.name for block in blocks} if wanted is None else set(wanted)
        self._runs = {
            name: _Run(stream, own)
            for name, stream in mixture.streams.items()
            if (own := [block for block in blocks if mixture.stream_of[block.name] == name])
        }
        self._last_place = {name: place for place, step in enumerate(mixture.plan) for name in step}
        self._masks: dict[tuple[object, ...], tuple[Sequence[Span], Mask]] = {}
        self._kept: dict[str, Tensor] = {}
        self._steps: list[CachedStep | None] = []
        self._queries: dict[str, Tensor] = {}
        self.place = 0

    def advance(self) -> None:
        """Run the next joint step: one attention over the streams that the plan joins there, and their layers' ends."""
        for watcher in self._mixture.watchers:
            watcher.before(self)
        plan, runs = self._mixture.plan[self.place], self._runs
        joined = {name: self._mixture.streams[name].layers[layer] for name, layer in plan.items() if name in runs}
        past = self._past.steps[self.place] if self._past else None
        self._steps.append(self._joint_step(joined, past) if joined else past)
        self.place += 1
        for watcher in self._mixture.watchers:
            watcher.after(self)

    def outputs(self) -> dict[str, Float[Tensor, "batch tokens width"]]:
        """The final hidden state of each wanted block."""
        return {name: hidden for run in self._runs.values() for name, hidden in run.outputs(self._wanted).items()}

    @property
    def cache(self) -> Cache:
        """The keys and values of the steps that are done."""
        return Cache(tuple(self._steps))

    # ------------------------------------------------------------------------------------------ between two steps

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks on their way; those that are cached are not."""
        return tuple(name for run in self._runs.values() for name in run.names)

    def hidden(self, block: str) -> Float[Tensor, "batch tokens width"]:
        """The tokens of a block as they are now, before the next step and without the stream's last norm."""
        return self._run_of(block).pieces()[block]

    def attention(self, block: str, tokens: slice = slice(None)) -> Float[Tensor, "batch heads queries keys"]:
        """What the last step's attention was, in fp32, computed anew for the queries of these tokens alone.

        The keys are in the order of :meth:`keys`.
        """
        run, step = self._run_of(block), self._last_step
        query = self._queries[self._mixture.stream_of[block]][:, :, run.rows(block)][:, :, tokens]
        dense = self._mask([block], step.spans).dense[..., tokens, :]
        bias = self._bias(self.place - 1, [block], step.spans)
        bias = None if bias is None else bias[tokens]
        return attention_weights(query, step.key, Mask(dense), bias=bias, softcap=self._mixture.softcap)

    def keys(self, block: str) -> slice:
        """Where the keys of a block stood in the last step."""
        begin = 0
        for span in self._last_step.spans:
            if span.name == block:
                return slice(begin, begin + span.length)
            begin += span.length
        raise ValueError(f"the last step had no keys of {block!r}")

    def add(self, block: str, values: Float[Tensor, "batch tokens width"]) -> None:
        """Add to the tokens of a block, as residual branches do."""
        self._change(lambda old: old.with_hidden(old.hidden + values) if old.name == block else old, [block])

    def select(self, kept: Mapping[str, Int[Tensor, "batch kept"]]) -> None:
        """Keep only some tokens of some blocks, from here on; the others are gone, not masked."""
        self._change(lambda old: old.select(kept[old.name]) if old.name in kept else old, kept)
        for name, index in kept.items():
            self._kept[name] = self._kept[name].gather(1, index) if name in self._kept else index

    def kept(self, block: str) -> Int[Tensor, "batch kept"] | None:
        """Which of the tokens that a block began with are still there; ``None`` for all of them."""
        return self._kept.get(block)

    def hide(self, tokens: Mapping[str, Bool[Tensor, "batch tokens"]]) -> None:
        """Nobody reads these tokens of some blocks from here on, as if they were padding."""
        self._change(lambda old: old.without(tokens[old.name]) if old.name in tokens else old, tokens)

    def _change(self, change: Callable[[Block], Block], blocks: Collection[str]) -> None:
        for name in {self._mixture.stream_of[block] for block in blocks}:
            run = self._runs[name]
            pieces = run.pieces()
            now = [block.with_hidden(pieces[block.name]) for block in run.blocks]
            changed = [change(block) for block in now]
            moved = any(new.positions is not old.positions for new, old in zip(changed, now, strict=True))
            self._runs[name] = _Run(run.stream, changed, None if moved else run.positions)

    # ------------------------------------------------------------------------------------------ one joint step

    def _joint_step(self, joined: Mapping[str, StreamLayer], past: CachedStep | None) -> CachedStep:
        projected = {name: layer.project(*self._runs[name].input) for name, layer in joined.items()}
        self._queries = {name: query for name, (query, _, _) in projected.items()}
        keys = [key for _, key, _ in projected.values()]
        values = [value for _, _, value in projected.values()]
        spans = tuple(block.span for name in joined for block in self._runs[name].blocks)
        if past:
            spans, keys, values = past.spans + spans, [past.key, *keys], [past.value, *values]
        step = CachedStep(spans, _join_heads(keys), _join_heads(values))
        if answered := [name for name in joined if self._goes_on(name)]:
            self._finish(step, {name: joined[name] for name in answered})
        return step

    def _finish(self, step: CachedStep, layers: Mapping[str, StreamLayer]) -> None:
        """The attention of the streams that go on, and their layers' ends."""
        queries = [block for name in layers for block in self._runs[name].names]
        attended = attend(
            torch.cat([self._queries[name] for name in layers], 2),
            step.key,
            step.value,
            self._mask(queries, step.spans),
            bias=self._bias(self.place, queries, step.spans),
            softcap=self._mixture.softcap,
            backend=self._mixture.backend,
        )
        lengths = [self._runs[name].hidden.shape[1] for name in layers]
        for (name, layer), share in zip(
            layers.items(), attended.transpose(1, 2).flatten(2).split(lengths, 1), strict=True
        ):
            self._runs[name].hidden = layer.finish(self._runs[name].hidden, share)

    def _goes_on(self, stream: str) -> bool:
        """Whether anything reads what comes out of the stream's layer in this step."""
        return self.place < self._last_place[stream] or not self._wanted.isdisjoint(self._runs[stream].names)

    def _mask(self, queries: Sequence[str], spans: Sequence[Span]) -> Mask:
        """Made once for all steps that see the same tokens."""
        which = (*queries, *((span.name, span.length) for span in spans))
        if which in self._masks:
            known, mask = self._masks[which]
            if all(old.valid is new.valid for old, new in zip(known, spans, strict=True)):
                return mask
        device = next(iter(self._runs.values())).hidden.device
        mask = self._mixture.visibility.mask(queries, spans, device=device)
        self._masks[which] = spans, mask
        return mask

    def _bias(self, place: int, queries: Sequence[str], spans: Sequence[Span]) -> Tensor | None:
        return None if self._mixture.bias is None else self._mixture.bias(place, queries, spans)

    def _run_of(self, block: str) -> "_Run":
        return self._runs[self._mixture.stream_of[block]]

    @property
    def _last_step(self) -> CachedStep:
        if not self._steps or self._steps[-1] is None:
            raise ValueError("no joint step is done yet")
        return self._steps[-1]


class Watcher(Protocol):
    """What looks at every pass, and may change it, before and after each joint step: see :meth:`Mixture.watched`."""

    def before(self, passing: Pass) -> None:
        """The step at ``passing.place`` comes next."""
        ...

    def after(self, passing: Pass) -> None:
        """The step before ``passing.place`` is done."""
        ...


@dataclass
class _Run:
    """The tokens of one stream on their way through the layers; positions are encoded once."""

    stream: Stream
    blocks: Sequence[Block]
    positions: object = None

    def __post_init__(self) -> None:
        self.names = [block.name for block in self.blocks]
        self.hidden = torch.cat([block.hidden for block in self.blocks], 1)
        if self.positions is None:
            positions = torch.cat([block.positions for block in self.blocks], 1)
            self.positions = self.stream.encode_positions(self.hidden, positions)

    @property
    def input(self) -> tuple[Tensor, object]:
        return self.hidden, self.positions

    def pieces(self) -> dict[str, Tensor]:
        split = self.hidden.split([len(block) for block in self.blocks], 1)
        return dict(zip(self.names, split, strict=True))

    def rows(self, block: str) -> slice:
        begin = sum(len(before) for before in self.blocks[: self.names.index(block)])
        return slice(begin, begin + len(self.blocks[self.names.index(block)]))

    def outputs(self, wanted: Collection[str]) -> dict[str, Tensor]:
        if not any(name in wanted for name in self.names):
            return {}
        pieces = self.stream.norm(self.hidden).split([len(block) for block in self.blocks], 1)
        return {name: piece for name, piece in zip(self.names, pieces, strict=True) if name in wanted}


def _join_heads(tensors: Sequence[Float[Tensor, "batch kv_heads tokens dim"]]) -> Tensor:
    """All tokens behind each other; where streams have fewer key heads than others, these are repeated."""
    heads = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([_spread(tensor, heads) for tensor in tensors], 2)


def _spread(tensor: Tensor, heads: int) -> Tensor:
    return tensor if tensor.shape[1] == heads else tensor.repeat_interleave(heads // tensor.shape[1], 1)


def _check_cacheable(mixture: "Mixture", cache: Cache | None, blocks: Sequence[Block]) -> None:
    for old in cache.blocks if cache else ():
        if broken := [block.name for block in blocks if mixture.visibility.sees(old, block.name)]:
            raise ValueError(f"block {old!r} reads {broken}, so it cannot be cached before them")
