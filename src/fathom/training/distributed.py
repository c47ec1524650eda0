"""Several processes that train one model: how they meet, share batches and weights, and come to one sum.

Started by ``torchrun``, each process has a part of every batch, and of the weights, gradients and optimiser state
(FSDP2). A layer's weights are gathered when it runs and let go afterwards. Models know nothing of it. Beside this file
only :mod:`~fathom.training.watch` (who is stuck) and :mod:`~fathom.training.checkpoint` (who writes what) speak to
other processes themselves.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from fathom.data.batch import Batch, Whole
from fathom.errors import UserError
from fathom.training.config import TrainingConfig
from fathom.training.device import pick_device
from fathom.training.layers import entrances, layers_of
from fathom.training.samples import Samples
from fathom.training.watch import Watch, end_with, watched

# Layers give views (heads of queries, keys, values), and nothing changes them in place.
warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


@dataclass(frozen=True)
class World:
    """The processes of a training run, seen from one of them. One process alone is a world too.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
        saving: the processes as those who save checkpoints know them: in the background, beside the training.
        watch: looks after the other processes.
    """

    rank: int = 0
    size: int = 1
    saving: Any = None
    watch: Watch | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks for all."""
        return self.rank == 0

    def share_of(self, batch_size: int) -> int:
        """How many samples of a batch are this process's.

        Raises:
            UserError: the batch cannot be divided evenly.
        """
        if batch_size % self.size:
            raise UserError(
                f"training.batch_size is {batch_size}, which {self.size} processes cannot share evenly: "
                f"choose a multiple of {self.size}"
            )
        return batch_size // self.size

    def sharers(self, config: TrainingConfig) -> int:
        """How many processes share one copy of the weights.

        Raises:
            UserError: the processes cannot be divided into groups of ``config.shard``.
        """
        sharers = config.shard or self.size
        if self.size % sharers:
            raise UserError(
                f"training.shard is {sharers}, which does not divide the number of processes, {self.size}: "
                "choose one that does"
            )
        return sharers

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in float64 on the CPU."""
        values = values.detach().double().cpu()
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def whole(self, batch: Samples) -> Whole:
        """What counts of the step's whole batch, of which this process has a part; without actions, every sample."""
        own = Whole.of(batch) if isinstance(batch, Batch) else Whole(torch.zeros(len(batch), 0, dtype=torch.bool))
        if self.size == 1:
            return own
        ahead = own.future_is_pad
        return Whole(self._joined(own.action_is_pad), None if ahead is None else self._joined(ahead))

    def beat(self) -> None:
        """One thing more is done of what all processes do in step; see :class:`Watch`."""
        if self.watch:
            self.watch.beat()

    def rest(self) -> None:
        """The training is over; what follows the processes do at their own pace."""
        if self.watch:
            self.watch.rest()

    def first_word(self, word: str | None) -> str | None:
        """What the first process that has something to say says."""
        words = [word]
        if self.size > 1:
            words = [None] * self.size
            dist.all_gather_object(words, word, group=self.saving)
        return next(filter(None, words), None)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def check_shared(self, folder: Path) -> None:
        """Each process looks for the run's folder, which the first one has made: they all write their parts there.

        Raises:
            UserError: the machines do not share it.
        """
        if self.is_first:
            folder.mkdir(parents=True, exist_ok=True)
        self.wait()
        unseen = None if folder.is_dir() else f"rank {self.rank} does not see {folder}"
        if told := self.first_word(unseen):
            raise UserError(f"{told}, where the first process writes: choose a folder that all machines share")

    def _joined(self, flags: Tensor) -> Tensor:
        parts = [torch.empty_like(flags, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, flags.to(torch.uint8).contiguous())
        return torch.cat(parts).bool()

    # ------------------------------------------------------------------------------------------ weights

    def share_out(self, model: nn.Module, config: TrainingConfig) -> None:
        """Give each process its part of the weights; from now on the model is trained by all of them.

        Every layer is gathered and reduced by itself. What is in no layer (embeddings, norms, heads) is gathered
        together, once for each part of a step's batch, and in fp32: what of its compute is bf16 is autocast.

        Raises:
            UserError: the processes cannot be divided into groups of ``config.shard``.
        """
        if self.size == 1:
            return
        mesh = self._mesh(self.sharers(config))
        layers = layers_of(model)
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        # A CPU's norms refuse weights of another type than what they are given: there autocast alone makes bf16 of it.
        whole = config.precision != "bf16" or pick_device().type == "cpu"
        precision = MixedPrecisionPolicy() if whole else half
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=precision)
            for name in entrances(layer):
                register_fsdp_forward_method(layer, name)
        in_layers = {p for layer in layers for p in layer.parameters()}
        frozen = {p for p in model.parameters() if not p.requires_grad and p not in in_layers}
        fully_shard(model, mesh=mesh, ignored_params=frozen)
        for name in ("loss", "sample_actions", "predict_depth"):
            if hasattr(model, name):
                register_fsdp_forward_method(model, name)

    def backward(self, model: nn.Module, loss: Tensor, *, last: bool) -> None:
        """The gradients of a part of the step's batch; with the ``last`` part the processes add theirs up."""
        if self.size > 1:
            # FSDP takes the mean over the processes, and the loss is already divided by what counts in all of them.
            cast(FSDPModule, model).set_requires_gradient_sync(last)
            loss = loss * self.size
        loss.backward()

    def gather(self, model: nn.Module) -> None:
        """The whole weights in every process; the model can be saved, and is no longer trained."""
        if self.size == 1:
            return
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if isinstance(cast(Any, parameter), DTensor):
                    whole = whole_value(cast(Tensor, parameter).detach())
                    module._parameters[name] = nn.Parameter(whole, cast(Tensor, parameter).requires_grad)

    def _mesh(self, sharers: int) -> Any:
        kind = pick_device().type
        if sharers == self.size:
            return init_device_mesh(kind, (self.size,))
        return init_device_mesh(kind, (self.size // sharers, sharers), mesh_dim_names=("replicate", "shard"))


ALONE = World()


def own_part(tensor: Tensor) -> Tensor:
    """What of a tensor is in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_value(tensor: Tensor) -> Tensor:
    """A small tensor that all processes know, such as a norm."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def joined(config: TrainingConfig) -> Iterator[World]:
    """The world that ``torchrun`` describes in the environment; without it, one process alone.

    Raises:
        UserError: the processes cannot find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local)
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        with _ended_after(2 * config.rank_timeout_s, f"rank {rank} of {size} did not meet the others at {where}"):
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(seconds=2 * config.rank_timeout_s)
            )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the {size} processes cannot meet at {where} ({_first_line(error)}): choose a free port with "
            "torchrun --master-port, or let torchrun --standalone choose it"
        ) from error
    with watched(rank, size, config.rank_timeout_s) as watch:
        yield World(rank, size, dist.new_group(backend="gloo"), watch)
        dist.barrier()
    dist.destroy_process_group()


@contextmanager
def _ended_after(seconds: float, sentence: str) -> Iterator[None]:
    """End the process if this lasts longer: torch waits for ever for a stranger who has the port and says nothing."""
    timer = threading.Timer(seconds, end_with, (sentence,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def one_process_only(what: str) -> None:
    """Refuse to be one of several processes.

    Raises:
        UserError: this is one of several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{what} is trained by one process: run the same command without torchrun")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
