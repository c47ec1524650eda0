"""From an instruction to token ids."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from fathom.errors import UserError
from fathom.files import write_file

_BEGIN, _PAD, _UNKNOWN, _END = "<bos>", "<pad>", "<unk>", "\n"


class TextTokenizer:
    """Instructions to ids as PaliGemma has them: ``<bos>``, the words, a newline; padded on the right."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.begin, self.pad, self.end = (_id_of(token, tokenizer) for token in (_BEGIN, _PAD, _END))

    @classmethod
    def from_instructions(cls, instructions: Iterable[str]) -> Self:
        """A small vocabulary of the words that occur: enough for a policy trained from scratch."""
        tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=[_PAD, _BEGIN, _UNKNOWN, _END])
        tokenizer.train_from_iterator(sorted(set(instructions)), trainer)
        return cls(tokenizer)

    @property
    def vocab_size(self) -> int:
        """How many different ids there are."""
        return self.tokenizer.get_vocab_size()

    def __call__(
        self, instructions: Sequence[str], length: int
    ) -> tuple[Int[Tensor, "batch {length}"], Bool[Tensor, "batch {length}"]]:
        """Ids of exactly ``length`` tokens, and which of them are valid.

        Raises:
            UserError: an instruction has more tokens than that.
        """
        ids = torch.full((len(instructions), length), self.pad)
        for row, instruction in enumerate(instructions):
            tokens = [self.begin, *self.tokenizer.encode(instruction, add_special_tokens=False).ids, self.end]
            if len(tokens) > length:
                raise UserError(
                    f"the instruction {instruction!r} has {len(tokens)} tokens, the policy reads {length}: "
                    "shorten it, or train with a larger text_tokens"
                )
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids, torch.ne(ids, self.pad)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``."""
        write_file(folder / "tokenizer.json", self.tokenizer.to_str().encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``tokenizer.json``.

        Raises:
            UserError: there is none, or it lacks one of the special tokens.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{folder} has no tokenizer.json: a saved policy carries its text tokenizer")
        try:
            return cls(Tokenizer.from_file(str(path)))
        except UserError:
            raise
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{path} is damaged or no tokenizer file: {error}") from error


def _id_of(token: str, tokenizer: Tokenizer) -> int:
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise UserError(f"the text tokenizer has no token {token!r}")
    return number
