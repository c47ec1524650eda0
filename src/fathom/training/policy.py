"""Co-training a policy with depth, or without."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fathom.config import parse_config, read_json
from fathom.data.batch import Batch, Whole
from fathom.data.dataset import LeRobotDataset, known_split, open_dataset
from fathom.data.draws import Draws
from fathom.data.features import ACTION, STATE, DatasetInfo, camera_name
from fathom.data.metadata import read_episodes
from fathom.data.normalization import Normalization, NormalizationKind
from fathom.data.selection import first_of_each_task, select_episodes
from fathom.depth.tokenizer import DepthTokenizer
from fathom.errors import UserError
from fathom.lora import LoRA
from fathom.policies import load_policy, policy_type
from fathom.policies.card import Provenance
from fathom.policies.policy import Losses, Policy, PolicyConfig
from fathom.policies.qdepth_vla import QDepthVLAConfig
from fathom.policies.text import TextTokenizer
from fathom.training.augment import Augmentation, augment
from fathom.training.batches import Batches, from_memory, from_workers, load_into_memory
from fathom.training.checkpoint import remove_all
from fathom.training.config import TrainingConfig
from fathom.training.device import pick_device
from fathom.training.distributed import World, joined
from fathom.training.encode import stored_codes
from fathom.training.loop import last_metrics, train
from fathom.training.settings import check, claim, dataset_fingerprint, policy_fingerprint
from fathom.training.tokenizer import check_kind, depth_in, encode_all
from fathom.training.tracking import WorkCounter, check_trackers
from fathom.training.tuning import Part, add_lora, freeze, merge_lora
from fathom.weights import fingerprint

Examine = Callable[[Policy, int, bool], Mapping[str, float]]
"""Measures a policy after so many steps, in every process; the last argument says whether this one writes files."""

# The default decay of the depth weight leaves this much of it at the last step [D].
LAST_SHARE = 0.1


@dataclass(frozen=True)
class PolicyRecipe:
    """A policy and how it is trained.

    Attributes:
        policy: sizes and choices; state, action and vocabulary sizes are taken from the dataset, or all sizes from the
            checkpoint that the training starts from.
        training: the run.
        depth_weight: lambda_0, the weight of the depth loss at the first step (paper, section 3.4.3: 0.01); 0 keeps the
            depth expert and gives it no loss (its Table 6).
        depth_weight_decay: gamma, by which the weight is multiplied after every step (paper, section 3.4.3, without a
            value); ``auto`` leaves a tenth of it at the last step (our choice).
        normalization: ``quantile``: p01 to p99 become [-1, 1], clipped (open-pi-zero); ``mean_std`` (pi-zero).
        freeze: parts that keep their weights: ``vlm``, ``vision``, ``embeddings`` (the paper trains all three,
            open-pi-zero freezes the embeddings).
        lora: train low-rank adapters on the language model in place of its weights.
        augmentation: how pictures are changed at random; with a crop, depth codes are computed anew for every batch.
        depth_feature: the depth that is learned, as ``noisy_depth``; by default that of the camera ``main``.
        episodes_per_task: learn from the first ones of each task alone; normalisation is still the whole dataset's.
    """

    policy: QDepthVLAConfig = field(default_factory=QDepthVLAConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    depth_weight: float = 0.01
    depth_weight_decay: float | Literal["auto"] = "auto"
    normalization: NormalizationKind = "quantile"
    freeze: tuple[Part, ...] = ()
    lora: LoRA | None = None
    augmentation: Augmentation | None = None
    depth_feature: str | None = None
    episodes_per_task: int | None = None

    @property
    def learns_fixed_codes(self) -> bool:
        """Whether a frame's depth codes are the same in every batch, so that they can be made beforehand."""
        depth, augmentation = self.policy.depth, self.augmentation
        return depth is not None and depth.target == "codes" and not (augmentation and augmentation.crops)

    def depth_weight_at(self, step: int) -> float:
        """``lambda_t = lambda_0 * gamma ** t``."""
        if self.depth_weight_decay == "auto":
            return self.depth_weight * LAST_SHARE ** (step / max(1, self.training.steps - 1))
        return self.depth_weight * self.depth_weight_decay**step


def train_policy(
    dataset_path: Path,
    recipe: PolicyRecipe,
    folder: Path,
    tokenizer: DepthTokenizer | None = None,
    init: Path | None = None,
    examine: Examine | None = None,
) -> Policy:
    """Train a policy and save it in ``folder``, or go on with the one begun there.

    Started by ``torchrun``, all processes train it together.

    Args:
        tokenizer: of the depth that the policy learns to predict.
        init: a policy or an imported checkpoint whose weights the training starts from, and whose sizes the policy has;
            a robot with more numbers of state or action gets further columns, which begin at zero.
        examine: measures the policy every ``recipe.training.evaluate_every`` steps.

    Raises:
        UserError: the dataset lacks a camera or depth that the policy needs, or the folder holds another run.
    """
    with joined(recipe.training) as world:
        return train_policy_in(world, dataset_path, recipe, folder, tokenizer, init, examine)


def train_policy_in(
    world: World,
    dataset_path: Path,
    recipe: PolicyRecipe,
    folder: Path,
    tokenizer: DepthTokenizer | None = None,
    init: Path | None = None,
    examine: Examine | None = None,
) -> Policy:
    """:func:`train_policy` by processes that have met already."""
    world.share_of(recipe.training.batch_size)
    world.sharers(recipe.training)
    check_trackers(recipe.training.track)
    depth = recipe.policy.depth
    dataset = open_for(recipe, dataset_path)
    if depth and tokenizer is None:
        raise UserError("co-training with depth needs a depth tokenizer: train one first, or train without depth")
    recipe = replace(recipe, training=recipe.training.for_frames(len(dataset)))
    made_from = {"dataset": dataset_fingerprint(dataset.root)}
    if depth and tokenizer is not None:
        check_kind(tokenizer.config, dataset)
        made_from["depth_tokenizer"] = fingerprint(tokenizer)
        if recipe.learns_fixed_codes and (codes := stored_codes(dataset, tokenizer)):
            dataset = dataset.with_codes(codes)
    if init is not None:
        made_from["init"] = policy_fingerprint(init)
    check(folder, recipe, **made_from)
    if (folder / "config.json").is_file():
        return load_policy(folder).to(pick_device())
    policy = _build(dataset, recipe, tokenizer if depth else None, init, quiet=not world.is_first).to(pick_device())
    freeze(policy, recipe.freeze)
    adapters = add_lora(policy, recipe.lora) if recipe.lora else None
    batches = _batches(dataset, recipe, policy, world)
    if world.is_first:
        claim(folder, recipe, **made_from)

    work = WorkCounter(on=not recipe.training.compile)

    def loss_of(part: Batch, whole: Whole, step: int, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        if recipe.augmentation:
            part = augment(part, recipe.augmentation, draws, policy.device)
        with work.counting(len(part)):
            losses = policy.loss(part, draws, whole)
        weight = recipe.depth_weight_at(step)
        share = len(part) / len(whole)
        return losses.total(weight), {**_metrics(losses, weight * share), **work.metrics(share)}

    def examine_at(step: int) -> Mapping[str, float]:
        return examine(policy.eval(), step, world.is_first) if examine else {}

    train(policy, loss_of, batches, recipe.training, folder, label="policy", world=world, examine=examine_at)
    if adapters is not None:
        merge_lora(adapters)
    policy.provenance = _provenance(dataset, replace(recipe, policy=cast(Any, policy.config)), folder, init)
    if world.is_first:
        policy.eval().save(folder)
        remove_all(folder, keep_best=recipe.training.keep_best)
    world.wait()
    return policy.eval() if world.size == 1 else load_policy(folder)


def open_for(recipe: PolicyRecipe, path: Path) -> LeRobotDataset:
    """What a recipe learns from in a dataset: of the training split or, without one, of everything.

    Raises:
        UserError: the dataset lacks a camera, depth or episodes that the recipe asks for.
    """
    depth, split, episodes = recipe.policy.depth, known_split(path, "train"), None
    if recipe.episodes_per_task is not None:
        info = DatasetInfo.load(path)
        known = select_episodes(path, info, read_episodes(path, info), split, None)
        episodes = first_of_each_task(path, known, recipe.episodes_per_task)
    return open_dataset(
        path,
        cameras=recipe.policy.cameras,
        horizon=recipe.policy.horizon,
        depth=([recipe.depth_feature] if recipe.depth_feature else True) if depth else False,
        future=depth.future if depth else 0,
        split=split,
        episodes=episodes,
    )


def _provenance(dataset: LeRobotDataset, recipe: PolicyRecipe, folder: Path, init: Path | None) -> Provenance:
    """For the saved policy: what it was trained on, how, and what came out."""
    start = Provenance.load(init) if init else Provenance()
    return Provenance(
        recipe=asdict(recipe),
        data={
            "dataset": dataset.root.name,
            "episodes": len(dataset.episodes),
            "frames": len(dataset),
            "tasks": list(dataset.tasks),
        },
        metrics=last_metrics(folder),
        base=start.base,
        licence=start.licence,
    )


def _metrics(losses: Losses, depth_weight: float) -> dict[str, Tensor]:
    """By the names that ``metrics.jsonl`` has for them; those of a batch's parts add up to those of the batch."""
    metrics = {
        "action_loss": losses.action,
        "depth_loss": losses.depth,
        "depth_accuracy": losses.depth_accuracy,
        "future_depth_loss": losses.future_depth,
        "alignment_loss": losses.alignment,
        "depth_weight": None if losses.depth is None else torch.tensor(depth_weight),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def _build(
    dataset: LeRobotDataset, recipe: PolicyRecipe, tokenizer: DepthTokenizer | None, init: Path | None, *, quiet: bool
) -> Policy:
    policy = new_network(dataset, recipe, tokenizer, init)
    if init is not None:
        fresh = policy.start_from(init, _config_of(init, recipe.policy))
        if fresh and not quiet:
            print(f"fathom: {init} lacks these parts, which begin untrained: {', '.join(fresh)}", file=sys.stderr)
    return policy


def new_network(
    dataset: LeRobotDataset, recipe: PolicyRecipe, tokenizer: DepthTokenizer | None = None, init: Path | None = None
) -> Policy:
    """The network that a recipe trains, with weights as drawn; of ``init`` its sizes and words alone are read.

    Raises:
        UserError: the dataset or ``init`` lacks what it takes, or no network can have these sizes.
    """
    if missing := [name for name in (STATE, ACTION) if name not in dataset.info.features]:
        raise UserError(f"{dataset.root}: the dataset has no feature {missing[0]!r}, which a policy learns from")
    torch.manual_seed(recipe.training.seed)
    kind: Any = policy_type(recipe.policy)
    normalization = Normalization.from_stats(dataset.stats, recipe.normalization)
    state, action = (dataset.info.features[name].shape[0] for name in (STATE, ACTION))
    start = None if init is None else _config_of(init, recipe.policy)
    try:
        if init is None or start is None:
            text = TextTokenizer.from_instructions(dataset.tasks)
            config = replace(recipe.policy, state_dim=state, action_dim=action, vocab_size=text.vocab_size)
        else:
            text = kind.text_tokenizer_type(start).load(init)
            config = start.choosing_as(recipe.policy)
            config = replace(config, state_dim=max(state, start.state_dim), action_dim=max(action, start.action_dim))
            if isinstance(config, QDepthVLAConfig) and recipe.normalization != "quantile":
                # It bounds quantiles; a deviation may well be larger.
                config = replace(config, clip_actions=None)
        # What cannot be learned from is told before anything is begun.
        shapes = {camera_name(name): dataset.info.features[name].picture_shape for name in dataset.cameras}
        kind.check_training(config, {camera: shape[:2] for camera, shape in shapes.items()}, start)
        text(dataset.tasks, config.text_tokens)
        policy: Policy = kind(config, normalization, text, tokenizer)
    except ValueError as error:
        raise UserError(f"no policy can have these sizes: {error}") from None
    return policy


def _config_of(init: Path, like: PolicyConfig) -> Any:
    """The configuration of a start, which is of the kind that the recipe trains."""
    wanted, values = policy_type(like), read_json(init / "config.json", "policy or imported checkpoint")
    if (kind := values.pop("type", None)) != wanted.kind:
        raise UserError(f"{init}/config.json says type {kind!r}: a training starts from a {wanted.kind!r}")
    return parse_config(wanted.config_type, values, init / "config.json")


def _batches(dataset: LeRobotDataset, recipe: PolicyRecipe, policy: Policy, world: World) -> Batches:
    if not recipe.training.in_memory:
        return from_workers(dataset, recipe.training, world)
    memory = load_into_memory(dataset, policy.config.stored_size, quiet=not world.is_first)
    tokenizer = policy.depth_tokenizer
    if recipe.learns_fixed_codes and tokenizer and dataset.codes is None:
        codes = encode_all(tokenizer, lambda frames: depth_in(memory.batch(frames)), len(memory))
        return from_memory(memory.with_codes(codes), recipe.training, world)
    return from_memory(memory, recipe.training, world)
