"""The benchmark of the vision expert: what it counts, and that it says what it measured."""

import json
from dataclasses import replace

import deepvision
from deepvision import SIZES, contenders, operations


def test_it_runs_and_says_what_it_measured(capsys):
    options = ["--size", "tiny", "--device", "cpu", "--repeats", "2", "--threads", "1", "--keep", "0.25"]
    assert deepvision.main(options) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert list(result["ms"]) == ["baseline", "expert, all tokens", "expert, K = 64 of 256"]
    assert list(result["expert_tokens"].values()) == [0, 261, 69]  # CLS, four registers, and the patches
    assert result["difference"] <= 1e-4
    flops = result["gflop"]
    assert flops["baseline"] < flops["expert, K = 64 of 256"] < flops["expert, all tokens"]


def test_operations_of_one_more_expert_token_as_calculated():
    """Two for each weight that meets the token; for each pair of tokens 4 x heads x head_dim, logits and values.

    In the last layer that meets, the expert's own outputs are read by nobody: its output map and MLP are left out, and
    its rows of the attention.
    """
    config = SIZES["tiny"]
    few, more = (
        replace(config, expert=replace(config.expert, pruning=replace(config.expert.pruning, keep=keep)))
        for keep in (100, 101)
    )
    expert = config.expert
    assert expert.coupled == 2
    language, tokens = config.tokens["prompt"] + config.horizon, few.tokens["expert_main"]
    query_key_value = 3 * expert.width**2 + expert.width * config.head_dim * (config.heads + 2 * expert.kv_heads)
    rest = expert.width**2 + expert.width * config.head_dim * config.heads + 3 * expert.width * expert.mlp
    pairs = (language + tokens + 1) ** 2 - (language + tokens) ** 2
    weights = 2 * (2 * query_key_value + rest)
    expected = weights + 4 * config.heads * config.head_dim * (pairs + language)
    assert operations(more) - operations(few) == expected


def test_the_baseline_has_no_expert_and_all_others_have():
    found = contenders(SIZES["tiny"], [0.5])
    assert [config.expert is None for config in found.values()] == [True, False, False]
    assert found["expert, all tokens"].expert.pruning is None
