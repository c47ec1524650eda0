"""A training foreseen: held to transformers' own counts, to arithmetic, and to what real tensors take."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import GemmaModel, SiglipVisionModel

from fathom.cli.main import main
from fathom.errors import UserError
from fathom.lora import LoRA
from fathom.policies.text import TextTokenizer
from fathom.recipes import policy_recipe
from fathom.training.config import TrainingConfig
from fathom.training.plan import Machine, make_plan, planned_for
from fathom.training.step_cost import step_cost
from fathom.training.throughput import GPUS, Peak

from .conftest import POLICY, STEPS, TRAINING, WITHOUT_DEPTH

BIG = Machine(1, 1e12, "a test", Peak(1e12, "a test"))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestStepCost:
    def net(self, **where) -> nn.Sequential:
        return nn.Sequential(nn.Linear(64, 256, bias=False, **where), nn.GELU(), nn.Linear(256, 8, bias=False, **where))

    def test_by_hand(self):
        """The worst moment is when the backward pass reaches GELU: both its sides, its gradient, the one to come."""
        net, batch = self.net(device="meta"), torch.zeros(100, 64, device="meta")
        cost = step_cost(net, lambda: net(batch).sum(), bf16=False)
        products = 100 * 64 * 256 + 100 * 256 * 8  # each once forward; backward by weight and, the second, by input
        assert cost.flops == 2 * (products + products + 100 * 256 * 8)
        hidden, out = 4 * 100 * 256, 4 * 100 * 8
        assert 3 * hidden <= cost.bytes <= 3 * hidden + 3 * out + 4 * 256 * (64 + 8)

    def test_bf16_halves_what_is_kept_and_copies_the_weights(self):
        batch = torch.zeros(10_000, 64, device="meta")
        bytes_ = {}
        for bf16 in (False, True):
            net = self.net(device="meta")
            bytes_[bf16] = step_cost(net, lambda net=net: net(batch).sum(), bf16=bf16).bytes
        assert 0.45 * bytes_[False] < bytes_[True] < 0.75 * bytes_[False]

    def test_what_is_turned_off_is_in_fp32(self):
        seen, before = [], torch.autocast
        net, batch = self.net(device="meta"), torch.zeros(10, 64, device="meta")

        def loss():
            hidden = net(batch)
            with torch.autocast("meta", enabled=False):
                seen.extend([hidden.dtype, F.linear(batch, net[0].weight).dtype])
            return hidden.sum()

        step_cost(net, loss, bf16=True)
        assert seen == [torch.bfloat16, torch.float32]
        assert torch.autocast is before

    def test_computing_again_takes_less_memory_and_more_work(self):
        costs = {}
        for again in (False, True):
            layers = nn.ModuleList(self.net(device="meta").append(nn.Linear(8, 64, device="meta")) for _ in range(24))
            batch = torch.zeros(1000, 64, device="meta")

            def loss(layers=layers, batch=batch, again=again):
                hidden = batch
                for layer in layers:
                    hidden = checkpoint(layer, hidden, use_reentrant=False) if again else layer(hidden)
                return hidden.sum()

            costs[again] = step_cost(layers, loss, bf16=True)
        assert costs[True].bytes < 0.5 * costs[False].bytes
        assert costs[False].flops * 1.2 < costs[True].flops < costs[False].flops * 1.5


@pytest.fixture(scope="module")
def plan(dataset, tokenizer_folder):
    return make_plan(dataset, POLICY, BIG, tokenizer=tokenizer_folder)


class TestPlan:
    def test_parameters_are_transformers(self, plan):
        config = replace(
            POLICY.policy, vocab_size=TextTokenizer.from_instructions(["open it", "push the box"]).vocab_size
        )
        with torch.device("meta"):
            expected = {
                "vision_tower": parameters(SiglipVisionModel(config.vision.siglip())),
                "vlm": parameters(GemmaModel(config.gemma("vlm"))),
                "action": parameters(GemmaModel(config.gemma("expert")).layers)
                + config.expert_width,  # and the norm behind them
                "multi_modal_projector": 24 * 32 + 32,
            }
        assert {name: plan.parts[name].parameters for name in expected} == expected
        tokenizer = plan.parts["depth_tokenizer"]
        assert tokenizer.parameters > 0 and tokenizer.trained == 0

    def test_memory_by_hand(self, plan):
        trained = sum(part.trained for part in plan.parts.values())
        every = sum(part.parameters for part in plan.parts.values())
        memory = plan.memory
        assert (memory.weights, memory.gradients) == (4 * every, 4 * trained)
        assert (memory.optimizer, memory.average, memory.gathered) == (8 * trained, 4 * trained, 0)
        assert memory.activations > 0
        assert memory.total == 4 * every + 16 * trained + memory.activations

    def test_activations_are_those_of_the_part_that_is_computed_at_once(self, plan, dataset, tokenizer_folder):
        halved = replace(POLICY, training=replace(TRAINING, micro_batch=2))
        half = make_plan(dataset, halved, BIG, tokenizer=tokenizer_folder)
        assert half.memory.activations < 0.6 * plan.memory.activations
        assert half.flops == pytest.approx(plan.flops, rel=0.01)

    def test_several_devices_share_weights_but_each_adds_up_gradients(self, plan, dataset, tokenizer_folder):
        frozen = plan.parts["depth_tokenizer"].parameters
        trained = sum(part.trained for part in plan.parts.values())
        two = make_plan(dataset, POLICY, replace(BIG, devices=2), tokenizer=tokenizer_folder)
        assert two.part == 2
        assert two.memory.weights == 4 * (frozen + -(-trained // 2))
        assert two.memory.optimizer == 8 * -(-trained // 2) and two.memory.gradients == 4 * -(-trained // 2)
        assert two.memory.gathered > 0
        parts = replace(POLICY, training=replace(TRAINING, micro_batch=1))
        assert make_plan(dataset, parts, replace(BIG, devices=2), tokenizer=tokenizer_folder).memory.gradients == (
            4 * trained
        )

    def test_steps_and_time(self, plan, dataset, tokenizer_folder):
        assert plan.frames == 24 and plan.training.steps == STEPS
        assert plan.seconds == pytest.approx(STEPS * plan.flops / (0.4 * 1e12))
        epochs = replace(POLICY, training=replace(TRAINING, steps=TrainingConfig().steps, epochs=2))
        told = replace(BIG, peak=Peak(2e12, "as told"), sustained=True)
        other = make_plan(dataset, epochs, told, tokenizer=tokenizer_folder)
        assert other.training.steps == 12  # 2 · 24 frames in batches of 4
        assert other.seconds == pytest.approx(12 * other.flops / 2e12)

    def test_frozen_parts_and_adapters_need_no_optimiser(self, plan, dataset):
        free = make_plan(dataset, WITHOUT_DEPTH, BIG)
        frozen = make_plan(dataset, replace(WITHOUT_DEPTH, freeze=("vlm", "vision")), BIG)
        assert frozen.parts["vision_tower"].trained == 0
        assert frozen.memory.weights == free.memory.weights and frozen.memory.optimizer < 0.6 * free.memory.optimizer
        lora = make_plan(dataset, replace(WITHOUT_DEPTH, lora=LoRA(rank=2)), BIG)
        assert 0 < lora.parts["vlm"].trained < 0.2 * lora.parts["vlm"].parameters

    def test_what_cannot_fit_is_refused_with_a_way_out(self, plan):
        rest = plan.memory.total - plan.memory.activations
        with pytest.raises(UserError, match=r"on each of 1 devices.*--training\.recompute"):
            replace(plan, machine=replace(BIG, memory=(plan.memory.total - 1) / 0.95), other_activations=1).check()
        with pytest.raises(UserError, match=r"--training\.micro-batch, which is 4"):
            replace(plan, machine=replace(BIG, memory=1.5 * rest)).check()
        with pytest.raises(UserError, match="more devices"):
            replace(plan, machine=replace(BIG, memory=rest)).check()
        plan.check()

    def test_groups_that_share_the_weights(self, dataset):
        """What the run refuses the plan does too, and a device keeps its share of a group, not of all."""
        eight = replace(WITHOUT_DEPTH, training=replace(TRAINING, shard=8))
        for devices in (1, 4):
            with pytest.raises(UserError, match=f"training.shard is 8, .*number of processes, {devices}"):
                make_plan(dataset, eight, replace(BIG, devices=devices))
        groups = replace(WITHOUT_DEPTH, training=replace(TRAINING, shard=2))
        of_two = make_plan(dataset, groups, replace(BIG, devices=4))
        trained = sum(part.trained for part in of_two.parts.values())
        assert of_two.memory.weights == 4 * -(-trained // 2)
        assert of_two.memory.optimizer == 8 * -(-trained // 2)

    def test_batches_that_cannot_be_shared(self, dataset):
        with pytest.raises(UserError, match="3 processes cannot share"):
            make_plan(dataset, WITHOUT_DEPTH, replace(BIG, devices=3))


def test_machines():
    h200 = planned_for(8, "bf16", gpu="H200")
    assert h200.memory == GPUS["H200"].memory and h200.peak is not None and h200.peak.flops == 989e12
    told = planned_for(1, "fp32", memory_gb=24, tflops=30)
    assert told.memory == 24e9 and told.sustained and told.peak is not None and told.peak.flops == 30e12
    assert planned_for(1, "fp32", memory_gb=24).peak is None
    with pytest.raises(UserError, match="'V100' is not known"):
        planned_for(1, "fp32", gpu="V100")
    with pytest.raises(UserError, match="devices is 0"):
        planned_for(0, "fp32")


def test_the_command_prints_refuses_and_trains_nothing(dataset, tmp_path, capsys):
    command = ["train", str(dataset), "--out", str(tmp_path / "run"), "--policy.depth", "none", "--dry-run"]
    assert main([*command, "--gpu", "H200"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("vision_tower", "AdamW", "TFLOP a step", "H200", "recompute"))
    assert main([*command, "--memory-gb", "0.01"]) == 2
    refused = capsys.readouterr()
    assert "not known: give --gpu" in refused.out and "this training needs" in refused.err
    assert not (tmp_path / "run").exists()


def test_deepvision_vla_is_planned_too(dataset):
    plan = make_plan(dataset, policy_recipe("deepvision_quickstart"), BIG)
    assert plan.parts["expert"].trained == plan.parts["expert"].parameters > 0
    assert plan.memory.activations > plan.other_activations > 0


@pytest.mark.slow
def test_the_paper_at_full_size(dataset, tmp_path):
    """2.9 B of PaliGemma's parts with a vocabulary of this dataset's, plus two experts of 0.3 B (Table 1)."""
    (tmp_path / "config.json").write_text(json.dumps({"type": "depth_tokenizer"}))
    recipe = policy_recipe("qdepth_libero")
    plan = make_plan(dataset, recipe, planned_for(8, "bf16", gpu="H200"), tokenizer=tmp_path)
    assert plan.part == 32
    layer = 2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 16384 + 2 * 2048
    words = plan.parts["vlm"].parameters - 18 * layer - 2048
    assert words % 2048 == 0 and words < 100 * 2048
    expert = 2 * 1024 * 2048 + 2 * 1024 * 256 + 3 * 1024 * 4096 + 2 * 1024
    assert plan.parts["action"].parameters == 18 * expert + 1024
    plan.check()
    with pytest.raises(UserError, match="GB on each of 8 devices"):
        replace(plan, machine=replace(plan.machine, memory=24e9)).check()
