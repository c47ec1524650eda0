"""The mixture of transformers: streams with their own weights that meet in one attention."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fathom.mixture.attention import Backend, attend
from fathom.mixture.blocks import Block, Span
from fathom.mixture.stream import Stream, StreamLayer
from fathom.mixture.visibility import Mask, Visibility

Plan = Sequence[Mapping[str, int]]
"""Which layer of which stream runs at each joint step: ``[{"vlm": 0, "action": 0}, {"vlm": 1, "action": 1}, …]``."""


@dataclass(frozen=True)
class CachedStep:
    """The keys and values that one joint step leaves behind for later queries."""

    spans: tuple[Span, ...]
    key: Float[Tensor, "batch kv_heads tokens dim"]
    value: Float[Tensor, "batch kv_heads tokens dim"]

    def repeat(self, times: int) -> "CachedStep":
        """The same for a batch in which every row stands ``times`` times in a row."""

        def repeat(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(times, 0)

        spans = (Span(s.name, s.length, None if s.valid is None else repeat(s.valid)) for s in self.spans)
        return CachedStep(tuple(spans), repeat(self.key), repeat(self.value))


@dataclass(frozen=True)
class Cache:
    """What a pass leaves behind, one entry per joint step; ``None`` where none of its streams took part."""

    steps: tuple[CachedStep | None, ...]

    def repeat(self, times: int) -> "Cache":
        """The cache for a batch in which every row stands ``times`` times in a row."""
        return Cache(tuple(step and step.repeat(times) for step in self.steps))

    @property
    def blocks(self) -> frozenset[str]:
        """The names of the cached blocks."""
        return frozenset(span.name for step in self.steps if step for span in step.spans)


class Mixture(nn.Module):
    """Several streams of tokens, each with its own weights, that meet in one attention.

    Args:
        streams: the transformers, by name.
        carries: which blocks each stream carries, separated by spaces.
        visibility: which block reads which.
        plan: which layer of which stream runs at each joint step; by default all streams run in step.
        softcap: see :func:`attend`.
        backend: see :func:`attend`.

    Raises:
        ValueError: a block has no stream or no row in the table, or the streams' depths do not fit the default plan.
    """

    streams: Mapping[str, Stream]

    def __init__(
        self,
        streams: Mapping[str, Stream],
        carries: Mapping[str, str],
        visibility: Visibility,
        *,
        plan: Plan | None = None,
        softcap: float | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(streams)  # type: ignore[arg-type, assignment]
        self.stream_of = {block: stream for stream, blocks in carries.items() for block in blocks.split()}
        if set(self.stream_of) != set(visibility.blocks):
            raise ValueError(f"the table has rows for {visibility.blocks}, the streams carry {list(self.stream_of)}")
        self.visibility = visibility
        self.plan = in_step(streams) if plan is None else plan
        self.softcap = softcap
        self.backend: Backend = backend

    def forward(
        self, blocks: Sequence[Block], cache: Cache | None = None, *, wanted: Collection[str] | None = None
    ) -> tuple[dict[str, Float[Tensor, "batch tokens width"]], Cache]:
        """Run the blocks through all layers.

        Args:
            blocks: the tokens, in the order of the sequence.
            cache: what an earlier call returned for blocks that stand before these and read none of them.
            wanted: the blocks whose output is needed (default: all). A stream that carries none of them
                stops at its last keys and values, which spares its last attention and MLP.

        Returns:
            the final hidden state of each wanted block, and the cache extended by these blocks.

        Raises:
            ValueError: a cached block reads one of the new blocks, so that its cache would not be what it is uncached.
        """
        self._check_cacheable(cache, blocks)
        wanted = {block.name for block in blocks} if wanted is None else set(wanted)
        runs = {
            name: _Run(self.streams[name], own)
            for name in self.streams
            if (own := [block for block in blocks if self.stream_of[block.name] == name])
        }
        last_step = {name: index for index, step in enumerate(self.plan) for name in step}
        masks: dict[tuple[str, ...], Mask] = {}
        steps: list[CachedStep | None] = []
        for index, step in enumerate(self.plan):
            joined = {name: self.streams[name].layers[layer] for name, layer in step.items() if name in runs}
            answered = [name for name in joined if index < last_step[name] or not wanted.isdisjoint(runs[name].names)]
            past = cache.steps[index] if cache else None
            steps.append(self._joint_step(runs, joined, answered, past, masks) if joined else past)
        outputs = {name: hidden for run in runs.values() for name, hidden in run.outputs(wanted).items()}
        return outputs, Cache(tuple(steps))

    def _joint_step(
        self,
        runs: Mapping[str, "_Run"],
        joined: Mapping[str, StreamLayer],
        answered: Sequence[str],
        past: CachedStep | None,
        masks: dict[tuple[str, ...], Mask],
    ) -> CachedStep:
        """One attention over the ``joined`` streams, of which those ``answered`` go on to their layers' ends."""
        projected = {name: layer.project(runs[name].hidden, runs[name].positions) for name, layer in joined.items()}
        keys = [key for _, key, _ in projected.values()]
        values = [value for _, _, value in projected.values()]
        spans = tuple(block.span for name in joined for block in runs[name].blocks)
        if past:
            spans, keys, values = past.spans + spans, [past.key, *keys], [past.value, *values]
        step = CachedStep(spans, torch.cat(keys, 2), torch.cat(values, 2))
        if not answered:
            return step

        queries = [block for name in answered for block in runs[name].names]
        which = (*queries, "<-", *(span.name for span in spans))
        if which not in masks:
            masks[which] = self.visibility.mask(queries, spans, device=step.key.device)
        query = torch.cat([projected[name][0] for name in answered], 2)
        attended = attend(query, step.key, step.value, masks[which], softcap=self.softcap, backend=self.backend)
        shares = attended.transpose(1, 2).flatten(2).split([runs[name].hidden.shape[1] for name in answered], 1)
        for name, share in zip(answered, shares, strict=True):
            runs[name].hidden = joined[name].finish(runs[name].hidden, share)
        return step

    def _check_cacheable(self, cache: Cache | None, blocks: Sequence[Block]) -> None:
        for old in cache.blocks if cache else ():
            if broken := [block.name for block in blocks if self.visibility.sees(old, block.name)]:
                raise ValueError(f"block {old!r} reads {broken}, so it cannot be cached before them")


class _Run:
    """The tokens of one stream on their way through the layers."""

    def __init__(self, stream: Stream, blocks: Sequence[Block]) -> None:
        self.stream = stream
        self.blocks = blocks
        self.names = [block.name for block in blocks]
        self.hidden = torch.cat([block.hidden for block in blocks], 1)
        self.positions = stream.encode_positions(self.hidden, torch.cat([block.positions for block in blocks], 1))

    def outputs(self, wanted: Collection[str]) -> dict[str, Tensor]:
        if not any(name in wanted for name in self.names):
            return {}
        pieces = self.stream.norm(self.hidden).split([len(block) for block in self.blocks], 1)
        return {name: piece for name, piece in zip(self.names, pieces, strict=True) if name in wanted}


def in_step(streams: Mapping[str, Stream]) -> Plan:
    """The plan in which all streams run side by side, layer by layer."""
    depths = {name: len(stream.layers) for name, stream in streams.items()}
    if len(set(depths.values())) > 1:
        raise ValueError(f"streams of different depths {depths} need a plan that says which layers meet")
    return [dict.fromkeys(streams, index) for index in range(next(iter(depths.values())))]
