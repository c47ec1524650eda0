"""Who may read whom: a table of blocks, and the token mask that follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from fathom.mixture.blocks import Span


@dataclass(frozen=True)
class Visibility:
    """For each query block, the key blocks that it reads within one layer.

    >>> table = Visibility({"text": "text", "action": "text action"})
    >>> table.sees("action", "text"), table.sees("text", "action")
    (True, False)

    Attributes:
        reads: for each block, the names of the blocks it reads, separated by spaces.
        causal: the part of ``reads`` that is read causally: only keys that stand no later in the sequence.
    """

    reads: Mapping[str, str]
    causal: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for query, names in self.reads.items():
            if unknown := set(names.split()) - set(self.reads):
                raise ValueError(f"block {query!r} reads {sorted(unknown)}, which have no row of their own")
        for query, names in self.causal.items():
            if unread := set(names.split()) - set(self.reads.get(query, "").split()):
                raise ValueError(f"block {query!r} cannot read {sorted(unread)} causally: it does not read them")

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of all blocks, in the order of the table's rows."""
        return tuple(self.reads)

    def sees(self, query: str, key: str) -> bool:
        """Whether any token of ``query`` may read any token of ``key`` within one layer."""
        return key in self.reads[query].split()

    def sees_causally(self, query: str, key: str) -> bool:
        """Whether ``query`` reads ``key`` only as far as the query's own place in the sequence."""
        return key in self.causal.get(query, "").split()

    def closure(self) -> "Visibility":
        """Whose contents can reach whom over any number of layers: the transitive closure of the table."""
        reach = {query: set(names.split()) for query, names in self.reads.items()}
        for middle in self.blocks:
            for query in self.blocks:
                if middle in reach[query]:
                    reach[query] |= reach[middle]
        return Visibility({query: " ".join(name for name in self.blocks if name in reach[query]) for query in reach})

    def without(self, *names: str) -> "Visibility":
        """The table of a model that has no such blocks."""

        def keep(row: str) -> str:
            return " ".join(name for name in row.split() if name not in names)

        return Visibility(
            {query: keep(row) for query, row in self.reads.items() if query not in names},
            {query: keep(row) for query, row in self.causal.items() if query not in names},
        )

    def mask(self, queries: Sequence[str], keys: Sequence[Span], device: torch.device | str = "cpu") -> "Mask":
        """The token mask with which the blocks named in ``queries`` read the sequence ``keys``, of which they are part.

        Raises:
            ValueError: a block has no row in the table, or a query block is not among the keys.
        """
        if unknown := [span.name for span in keys if span.name not in self.blocks]:
            raise ValueError(f"the visibility table has no row for {unknown}; it knows {list(self.blocks)}")
        if absent := set(queries) - {span.name for span in keys}:
            raise ValueError(f"the query blocks {sorted(absent)} are not part of the key sequence")
        begin = dict(zip((s.name for s in keys), accumulate((s.length for s in keys), initial=0), strict=False))
        length = {span.name: span.length for span in keys}
        rows = [torch.cat([self._tile(name, key.name, begin, length, device) for key in keys], 1) for name in queries]
        seen = torch.cat(rows)[None, None]
        valid = _join_valid(keys, device)
        return Mask(seen if valid is None else seen & valid[:, None, None, :])

    def _tile(
        self, query: str, key: str, begin: Mapping[str, int], length: Mapping[str, int], device: torch.device | str
    ) -> Bool[Tensor, "queries keys"]:
        """Who reads whom between two blocks; filled in place, so that no table travels to the device."""
        if not self.sees_causally(query, key):
            return torch.full((length[query], length[key]), self.sees(query, key), device=device)
        own = torch.arange(begin[query], begin[query] + length[query], device=device)
        return torch.arange(begin[key], begin[key] + length[key], device=device) <= own[:, None]

    def __str__(self) -> str:
        width = max(len(name) for name in self.blocks)
        sign = {0: "·", 1: "■", 2: "◣"}
        rows = [" " * width + "   " + " ".join(self.blocks)]
        for query in self.blocks:
            cells = (
                sign[self.sees(query, key) + self.sees_causally(query, key)].center(len(key)) for key in self.blocks
            )
            rows.append(f"{query:>{width}}   " + " ".join(cells))
        return "\n".join(rows)


@dataclass
class Mask:
    """Which key each query may read.

    Attributes:
        dense: True where the query reads the key; never for a key that is padding.
    """

    dense: Bool[Tensor, "batch_or_1 1 queries keys"]
    _block_mask: BlockMask | None = field(default=None, init=False, repr=False)

    @property
    def block_mask(self) -> BlockMask:
        """The mask in the form that ``flex_attention`` takes: a function of the indices, and which tiles are empty."""
        # No cached_property: its lock would break a compiled graph.
        if self._block_mask is None:
            dense = self.dense
            batch, _, queries, keys = dense.shape
            shared = batch == 1

            def reads(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return dense[0 if shared else row, 0, query, key]

            rows = None if shared else batch
            self._block_mask = create_block_mask(reads, rows, None, queries, keys, device=str(dense.device))
        return self._block_mask


def _join_valid(spans: Sequence[Span], device: torch.device | str) -> Bool[Tensor, "batch keys"] | None:
    batch = next((span.valid.shape[0] for span in spans if span.valid is not None), None)
    if batch is None:
        return None
    every = [torch.ones(batch, span.length, dtype=torch.bool, device=device) for span in spans]
    return torch.cat([one if span.valid is None else span.valid for span, one in zip(spans, every, strict=True)], 1)
