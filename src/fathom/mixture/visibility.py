"""Who may read whom: a table of blocks, and the token mask that follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
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
        row = {name: number for number, name in enumerate(self.blocks)}
        if unknown := [span.name for span in keys if span.name not in row]:
            raise ValueError(f"the visibility table has no row for {unknown}; it knows {list(self.blocks)}")
        if absent := set(queries) - {span.name for span in keys}:
            raise ValueError(f"the query blocks {sorted(absent)} are not part of the key sequence")
        degree = [[self.sees(q, k) + self.sees_causally(q, k) for k in self.blocks] for q in self.blocks]
        stop = dict(zip((span.name for span in keys), accumulate(span.length for span in keys), strict=True))
        length = {span.name: span.length for span in keys}
        places = [torch.arange(stop[name] - length[name], stop[name], device=device) for name in queries]
        return Mask(
            degree=torch.tensor(degree, device=device),
            key_block=torch.cat([torch.full((s.length,), row[s.name], device=device) for s in keys]),
            query_place=torch.cat(places),
            key_valid=_join_valid(keys, device),
        )

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


@dataclass(frozen=True)
class Mask:
    """Which key each query may read, in the form of a block table, so that a backend can expand it as it likes.

    Attributes:
        degree: between blocks, 0 for unread, 1 for read, 2 for read causally.
        key_block: the block that each key belongs to, as a row of ``degree``.
        query_place: each query's own place among the keys.
        key_valid: False for padding; ``None`` when every key is valid.
    """

    degree: Int[Tensor, "blocks blocks"]
    key_block: Int[Tensor, " keys"]
    query_place: Int[Tensor, " queries"]
    key_valid: Bool[Tensor, "batch keys"] | None

    @cached_property
    def dense(self) -> Bool[Tensor, "batch_or_1 1 queries keys"]:
        """The mask as one boolean tensor, True where the query reads the key."""
        degree = self.degree[self.key_block[self.query_place]][:, self.key_block]
        no_later = torch.arange(len(self.key_block), device=degree.device) <= self.query_place[:, None]
        seen = ((degree == 1) | ((degree == 2) & no_later))[None, None]
        return seen if self.key_valid is None else seen & self.key_valid[:, None, None, :]

    @cached_property
    def block_mask(self) -> BlockMask:
        """The mask in the form that ``flex_attention`` takes: a function of the indices, and which tiles are empty."""
        degree, key_block, query_place, key_valid = self.degree, self.key_block, self.query_place, self.key_valid

        def reads(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            place = query_place[query]
            seen = degree[key_block[place], key_block[key]]
            allowed = (seen == 1) | ((seen == 2) & (key <= place))
            return allowed if key_valid is None else allowed & key_valid[batch, key]

        batch = None if key_valid is None else key_valid.shape[0]
        return create_block_mask(reads, batch, None, len(query_place), len(key_block), device=str(degree.device))


def _join_valid(spans: Sequence[Span], device: torch.device | str) -> Bool[Tensor, "batch keys"] | None:
    batch = next((span.valid.shape[0] for span in spans if span.valid is not None), None)
    if batch is None:
        return None
    every = [torch.ones(batch, span.length, dtype=torch.bool, device=device) for span in spans]
    return torch.cat([one if span.valid is None else span.valid for span, one in zip(spans, every, strict=True)], 1)
