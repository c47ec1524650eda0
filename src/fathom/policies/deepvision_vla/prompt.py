"""Qwen's chat template around an instruction."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

from fathom.errors import UserError
from fathom.policies.text import TextTokenizer

_OPENING, _BEFORE, _BEHIND = "<|im_start|>user\n", "<|vision_start|>", "<|vision_end|>"
_CLOSING = "<|im_end|>\n<|im_start|>assistant\n"
_PAD = "<|endoftext|>"


class ChatTokenizer(TextTokenizer):
    """Instructions to ids as Qwen3-VL's chat has them: the words, the end of the turn, the beginning of the answer.

    Attributes:
        words: the ids that are the same in every prompt: the opening, and what stands before and behind an image.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pad = self._special(_PAD)
        self.words = (*self._ids(_OPENING), self._special(_BEFORE), self._special(_BEHIND))
        self.closing = self._ids(_CLOSING)

    def __call__(
        self, instructions: Sequence[str], length: int
    ) -> tuple[Int[Tensor, "batch {length}"], Bool[Tensor, "batch {length}"]]:
        """Ids of exactly ``length`` tokens, and which of them are valid.

        Raises:
            UserError: an instruction has more tokens than that.
        """
        ids = torch.full((len(instructions), length), self.pad)
        valid = torch.zeros(len(instructions), length, dtype=torch.bool)
        for row, instruction in enumerate(instructions):
            tokens = [*self._ids(instruction), *self.closing]
            if len(tokens) > length:
                raise UserError(
                    f"the instruction {instruction!r} has {len(tokens)} tokens with Qwen's template, the policy reads "
                    f"{length}: shorten it, or train with a larger text_tokens"
                )
            ids[row, : len(tokens)] = torch.tensor(tokens)
            valid[row, : len(tokens)] = True
        return ids, valid

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _special(self, token: str) -> int:
        number: int | None = self.tokenizer.token_to_id(token)
        if number is None:
            raise UserError(
                f"tokenizer.json has no token {token!r}: it is none of Qwen3-VL's, which prompt 'chat' needs"
            )
        return number


def tokenizer_kind(config: object) -> type[TextTokenizer]:
    """The text tokenizer that a policy of this configuration is saved with."""
    return ChatTokenizer if getattr(config, "prompt", "plain") == "chat" else TextTokenizer


def fixed_words(tokenizer: TextTokenizer) -> tuple[int, ...]:
    """The ids that are the same in every prompt of this tokenizer."""
    return tokenizer.words if isinstance(tokenizer, ChatTokenizer) else ()
