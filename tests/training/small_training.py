"""A small training that any number of processes can do together, and what can go wrong in it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from fathom.cli import main as cli
from fathom.data.batch import Batch
from fathom.data.loader import ShuffledBatches
from fathom.errors import UserError
from fathom.files import write_json
from fathom.training.checkpoint import _Writer
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.distributed import World, joined
from fathom.training.loop import train

from .processes import Ranks


def begin(count: int, folder: Path, port: int | None = None, **words: object) -> Ranks:
    """The training with ``count`` processes; ``words`` are fields of its configuration, or go to :func:`training`."""
    return Ranks(count, folder, as_a_verb, folder, words, port=port)


def as_a_verb(folder: Path, words: dict) -> int:
    """Sentences and exit codes are those of the command line, whose verb the training is."""
    with patch.object(cli, "parse", lambda _: SimpleNamespace(run=lambda: training(folder, **words))):
        return cli.main([])


def training(
    folder: Path,
    fault: str | None = None,
    at: int = 0,
    rank: int | None = None,
    double: bool = False,
    delay: float = 0.0,
    **changes,
) -> None:
    """Eight steps; their weights are ``weights.safetensors`` in ``folder``, and what was done for them ``done.json``.

    Args:
        fault: what goes wrong, in the loss of one rank, while a checkpoint is saved, or ("die at last") when all have
            finished the last step.
        at: the step of it.
        rank: whose loss; by default that of the last.
        double: compute in float64.
        delay: for how long a step waits (seconds).
        changes: fields of the configuration.
    """
    config = TrainingConfig(
        **{
            "steps": 8, "batch_size": 8, "precision": "fp32", "ema_decay": 0.9, "log_every": 1, "checkpoint_every": 2,
            "optimizer": OptimizerConfig(lr=1e-2, warmup_steps=2, cycle_steps=20, weight_decay=0.1), **changes,
        }
    )  # fmt: skip
    kind = torch.float64 if double else torch.float32
    # All of compiling but the kernels of the processor, which are torch's alone and take a minute.
    compiling = patch.object(torch, "compile", Mock(side_effect=partial(torch.compile, backend="aot_eager")))
    summing = patch.object(dist, "reduce_scatter_single", Mock(side_effect=dist.reduce_scatter_single))
    if fault == "a folder of its own" and os.environ["RANK"] != "0":
        folder = folder / "of-another-machine"
    with joined(config) as world, saving_goes_wrong(fault, at), compiling as compiled, summing as summed:
        torch.manual_seed(0)
        model = Model().to(kind)
        who = world.size - 1 if rank is None else rank

        def loss_of(part, whole, step, draws):
            if step == at and world.rank == who:
                go_wrong(fault)
            time.sleep(delay)
            error = model.loss(part, draws.normal(part, (2,), "noise").to(kind)) * ~part.action_is_pad
            loss = error.sum() / (~whole.action_is_pad).sum()
            return loss, {"error": loss.detach()}

        def batches(step):
            return batches_of(world, config.batch_size, step, kind)

        gather = World.gather

        def dying(world, model):
            if fault == "die at last" and world.rank == who:
                go_wrong("die")
            gather(world, model)

        with patch.object(World, "gather", dying):
            train(model, loss_of, batches, config, folder, label="test", world=world)
        if world.is_first:
            write_json(folder / "done.json", {"compiled": compiled.call_count, "summed": summed.call_count})
            save_file({k: v.detach() for k, v in model.state_dict().items()}, folder / "weights.safetensors")


def go_wrong(fault: str | None) -> None:
    if fault == "hang":
        time.sleep(1000)
    if fault == "error":
        raise UserError("frame 7 of this process's part cannot be read")
    numbers = {"terminate": signal.SIGTERM, "freeze": signal.SIGSTOP, "die": signal.SIGKILL}
    if fault in numbers:
        os.kill(os.getpid(), numbers[fault])


@contextmanager
def saving_goes_wrong(fault: str | None, at: int) -> Iterator[None]:
    """Of step ``at``: the disk is full, each is killed with its part written, or the first before the renaming."""
    write_data, rename = _Writer.write_data, Path.rename

    def write(writer, *arguments):
        if writer.step == at and fault == "full disk":
            raise OSError(28, "No space left on device")
        written = write_data(writer, *arguments)
        if writer.step == at and fault == "killed when written":
            time.sleep(1)  # until the others have written theirs
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    def rename_or_die(path, target):
        if path.name == f".step-{at:08d}" and fault == "killed before the renaming":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    with patch.object(_Writer, "write_data", write), patch.object(Path, "rename", rename_or_die):
        yield


class Layer(nn.Module):
    """Called in two halves, as the layers of a mixture are."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def project(self, hidden: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(self.norm(hidden)).chunk(3, -1)

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = hidden + self.out(attended)
        return hidden + self.mlp(hidden)


class Model(nn.Module):
    """A prefix whose last layer stops at its keys and values, and a token that goes through the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.tower = nn.ModuleList([nn.Sequential(nn.Linear(3, 8), nn.Tanh())])
        self.noisy, self.head = nn.Linear(1, 8), nn.Linear(8, 1)

    def through(self, hidden: Tensor, cache: list | None, last: bool) -> tuple[Tensor, list]:
        kept = []
        for place, layer in enumerate(self.layers):
            query, key, value = layer.project(hidden)
            if cache:
                key, value = torch.cat([cache[place][0], key], 1), torch.cat([cache[place][1], value], 1)
            kept.append((key, value))
            if last or place + 1 < len(self.layers):
                attended = nn.functional.scaled_dot_product_attention(query, key, value)
                hidden = layer.finish(hidden, attended)
        return hidden, kept

    def loss(self, batch: Batch, noise: Tensor) -> Tensor:
        _, cache = self.through(self.tower[0](batch.state)[:, None], None, last=False)
        hidden, _ = self.through(self.noisy(noise[..., None]), cache, last=True)
        return (self.head(hidden)[..., 0] - batch.actions[..., 0]).square()


def batches_of(world: World, batch_size: int, step: int, kind: torch.dtype) -> Iterator[Batch]:
    samples = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(kind)
    order = ShuffledBatches(
        len(samples), world.share_of(batch_size), seed=0, start_step=step, rank=world.rank, world_size=world.size
    )
    for frames in order:
        index = torch.tensor(frames)
        state = samples[index]
        pad = torch.stack([torch.zeros(len(index), dtype=torch.bool), index % 3 == 0], 1)
        actions = torch.stack([state.sum(1), state.prod(1)], 1)[..., None]
        yield Batch({}, state, [""] * len(index), actions, pad, index=index)
