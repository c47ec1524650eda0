"""The folder that an import leaves: a policy, or a start for training one."""

from dataclasses import dataclass
from pathlib import Path

from fathom.config import write_config
from fathom.data.normalization import Normalization
from fathom.errors import UserError
from fathom.files import write_file
from fathom.hub import hub_id, local_folder
from fathom.policies.card import Provenance
from fathom.policies.qdepth_vla import DepthConfig, QDepthVLA, VisionConfig
from fathom.policies.text import TextTokenizer
from fathom.policies.weights.conversion import Conversion
from fathom.weights import first_few


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        conversion: where each tensor came from.
        normalization: of state and actions; ``None`` if the checkpoint's statistics are not known.
    """

    conversion: Conversion
    normalization: Normalization | None

    @property
    def lines(self) -> list[str]:
        """The same for people."""
        done = self.conversion
        lines = [f"{len(done.sources)} tensors from {done.checkpoint.path}"]
        if done.fresh:
            parts = ", ".join(sorted({_part(key) for key in done.fresh}))
            lines.append(f"{len(done.fresh)} tensors with first values, to be trained: {parts}")
        if done.zeros:
            lines.append(f"{len(done.zeros)} tensors that nothing reads are zero: {first_few(done.zeros)}")
        if done.unread:
            lines.append(f"{len(done.unread)} tensors left out, nothing here reads them: {first_few(done.unread)}")
        if self.normalization is None:
            lines.append("no statistics of state and actions: fathom train DATASET --init computes them")
        return lines


def fresh_depth(vision: VisionConfig) -> DepthConfig:
    """The depth expert that is added: one depth token for each image token, sixteen pixels wide as in the paper."""
    return DepthConfig(grid=vision.grid, image_size=16 * vision.grid)


def check_free(folder: Path) -> None:
    """An import does not replace a policy.

    Raises:
        UserError: there is one in ``folder``.
    """
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a policy already: choose another --out, or delete that one")


def find_tokenizer(source: str | Path | None, beside: Path, vocab_size: int) -> Path:
    """PaliGemma's ``tokenizer.json``.

    Args:
        source: the file, a folder or a hub repository with it; ``None`` to look beside the checkpoint.
        beside: the checkpoint.
        vocab_size: words that the model knows.

    Raises:
        UserError: there is none, or it is none of this model.
    """
    found = local_folder(source or (beside if beside.is_dir() else beside.parent), ["tokenizer.json"])
    path = found if found.is_file() else found / "tokenizer.json"
    if path.name != "tokenizer.json" or not path.is_file():
        raise UserError(
            f"{found} has no tokenizer.json, and without it instructions cannot be read: "
            "it is among the files of PaliGemma, which transformers' AutoTokenizer also saves"
        )
    words = TextTokenizer.load(path.parent).tokenizer.get_vocab_size(with_added_tokens=False)
    if words > vocab_size:
        raise UserError(f"{path} is of another model: it has {words} words, and the checkpoint {vocab_size}")
    return path


def write_policy(
    folder: Path,
    conversion: Conversion,
    tokenizer: Path,
    normalization: Normalization | None,
    seed: int,
    source: str | Path,
) -> Imported:
    """Write what was planned; ``config.json`` comes last, so that a folder with one is whole.

    ``source`` is what the user called the checkpoint.

    Raises:
        UserError: the statistics are of another robot, or the disk is full.
    """
    config = conversion.model.config
    if normalization:
        _check_size("state", len(normalization.state.offset), config.state_dim)
        _check_size("action", len(normalization.actions.offset), config.action_dim)
    conversion.write(folder / "model.safetensors", seed)
    if normalization:
        normalization.save(folder)
    write_file(folder / "tokenizer.json", tokenizer.read_bytes())
    # All of them stand on PaliGemma, whose licence goes with its weights.
    Provenance(base=hub_id(source), licence="gemma").save(folder)
    write_config(config, folder / "config.json", type=QDepthVLA.kind)
    return Imported(conversion, normalization)


def _check_size(what: str, given: int, most: int) -> None:
    if given > most:
        raise UserError(f"the statistics are of {given} {what} components, but the model has at most {most}")


def _part(key: str) -> str:
    names = key.split(".")
    return ".".join(names[:3] if names[0] == "mixture" else names[:1])
