"""A small training that any number of processes can do together, for tests: ``python processes.py FOLDER JSON``.

The JSON names the configuration's fields, and what is to go wrong.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"


def start(count: int, folder: Path, port: int | None = None, **words) -> list[subprocess.Popen]:
    """The processes of one training, as ``torchrun`` would start them."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    shared = {
        **os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    return [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), json.dumps(words)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: list[subprocess.Popen], timeout: float = 300) -> tuple[list[int], list[str]]:
    """The exit codes of all processes, and what they said."""
    deadline, said = time.monotonic() + timeout, []
    try:
        for process in processes:
            said.append(process.communicate(timeout=max(1.0, deadline - time.monotonic()))[0])
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def weights(folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


def main(folder: Path, words: dict) -> int:
    import torch
    from safetensors.torch import save_file
    from torch import nn

    from fathom.data.batch import Batch
    from fathom.data.loader import ShuffledBatches
    from fathom.errors import UserError
    from fathom.training.checkpoint import _Writer
    from fathom.training.config import OptimizerConfig, TrainingConfig
    from fathom.training.distributed import joined
    from fathom.training.loop import train

    torch.set_num_threads(1)

    class Layer(nn.Module):
        """Called in two halves, as the layers of a mixture are."""

        def __init__(self):
            super().__init__()
            self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
            self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

        def project(self, hidden):
            return self.qkv(self.norm(hidden)).chunk(3, -1)

        def finish(self, hidden, attended):
            hidden = hidden + self.out(attended)
            return hidden + self.mlp(hidden)

    class Model(nn.Module):
        """A prefix whose last layer stops at its keys and values, and a token that goes through the same layers."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Layer() for _ in range(2))
            self.tower = nn.ModuleList([nn.Sequential(nn.Linear(3, 8), nn.Tanh())])
            self.noisy, self.head = nn.Linear(1, 8), nn.Linear(8, 1)

        def through(self, hidden, cache, last):
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

        def loss(self, batch, noise):
            _, cache = self.through(self.tower[0](batch.state)[:, None], None, last=False)
            hidden, _ = self.through(self.noisy(noise[..., None]), cache, last=True)
            return (self.head(hidden)[..., 0] - batch.actions[..., 0]).square()

    fault, at = words.pop("fault", None), words.pop("at", 0)
    double, delay = words.pop("double", False), words.pop("delay", 0.0)
    config = TrainingConfig(
        **{
            "steps": 8, "batch_size": 8, "precision": "fp32", "ema_decay": 0.9, "log_every": 1, "checkpoint_every": 2,
            "optimizer": OptimizerConfig(lr=1e-2, warmup_steps=2, cycle_steps=20, weight_decay=0.1), **words,
        }
    )  # fmt: skip
    samples = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def batches_of(world):
        def batches(step):
            order = ShuffledBatches(
                len(samples), world.share_of(config.batch_size), seed=0, start_step=step,
                rank=world.rank, world_size=world.size,
            )  # fmt: skip
            for frames in order:
                index = torch.tensor(frames)
                state = samples[index].to(torch.float64 if double else torch.float32)
                pad = torch.stack([torch.zeros(len(index), dtype=torch.bool), index % 3 == 0], 1)
                actions = torch.stack([state.sum(1), state.prod(1)], 1)[..., None]
                yield Batch({}, state, [""] * len(index), actions, pad, index=index)

        return batches

    def wrong(rank, step):
        if step != at:
            return
        if fault == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        if fault == "hang" and rank == 1:
            time.sleep(1000)
        if fault == "freeze" and rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "error" and rank == 1:
            raise UserError("frame 7 of this process's part cannot be read")

    def write(writer, *arguments):
        if writer.step == at and fault == "kill in save":
            os.kill(os.getpid(), signal.SIGKILL)
        if writer.step == at and fault == "full disk":
            raise OSError(28, "No space left on device")
        return write_data(writer, *arguments)

    write_data, _Writer.write_data = _Writer.write_data, write
    try:
        with joined(config) as world:
            torch.manual_seed(0)
            model = Model().double() if double else Model()

            def loss_of(part, whole, step, draws):
                wrong(world.rank, step)
                time.sleep(delay)
                noise = draws.normal(part, (2,), "noise").to(part.state)
                error = model.loss(part, noise) * ~part.action_is_pad
                loss = error.sum() / (~whole.action_is_pad).sum()
                return loss, {"error": loss.detach()}

            train(model, loss_of, batches_of(world), config, folder, label="test", world=world)
            if world.is_first:
                save_file(
                    {name: tensor.detach() for name, tensor in model.state_dict().items()},
                    folder / "weights.safetensors",
                )
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"said: {error}")
        return 2
    except SystemExit as stopped:
        return stopped.code
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), json.loads(sys.argv[2]))
    sys.stdout.flush()
    os._exit(code)
