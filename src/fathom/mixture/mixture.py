"""The mixture of transformers: streams with their own weights that meet in one attention."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from fathom.mixture.attention import Backend
from fathom.mixture.bias import LogitBias
from fathom.mixture.blocks import Block
from fathom.mixture.cache import Cache
from fathom.mixture.passing import Pass, Watcher
from fathom.mixture.stream import Stream
from fathom.mixture.visibility import Visibility

Plan = Sequence[Mapping[str, int]]
"""Which layer of which stream runs at each joint step: ``[{"vlm": 0, "action": 0}, {"vlm": 1, "action": 1}, …]``."""


class Mixture(nn.Module):
    """Several streams of tokens, each with its own weights, that meet in one attention.

    Args:
        streams: the transformers, by name. Those that meet have as many heads of one size; of key heads one may have
            fewer, which are then repeated.
        carries: which blocks each stream carries, separated by spaces.
        visibility: which block reads which.
        plan: which layer of which stream runs at each joint step; by default all streams run in step.
        bias: what is added to the attention logits of some pairs of blocks.
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
        bias: LogitBias | None = None,
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
        self.bias = bias
        self.softcap = softcap
        self.backend: Backend = backend
        self.watchers: list[Watcher] = []

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
        passing = self.begin(blocks, cache, wanted=wanted)
        for _ in self.plan:
            passing.advance()
        return passing.outputs(), passing.cache

    def begin(
        self, blocks: Sequence[Block], cache: Cache | None = None, *, wanted: Collection[str] | None = None
    ) -> Pass:
        """The same, step by step, for who looks at the tokens or changes them on their way: see :class:`Pass`."""
        return Pass(self, blocks, cache, wanted)

    @contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """Within it the watcher takes part in every pass, whoever begins it."""
        self.watchers.append(watcher)
        try:
            yield
        finally:
            self.watchers.remove(watcher)


def in_step(streams: Mapping[str, Stream]) -> Plan:
    """The plan in which all streams run side by side, layer by layer."""
    depths = {name: len(stream.layers) for name, stream in streams.items()}
    if len(set(depths.values())) > 1:
        raise ValueError(f"streams of different depths {depths} need a plan that says which layers meet")
    return [dict.fromkeys(streams, index) for index in range(next(iter(depths.values())))]
