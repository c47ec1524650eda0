import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from fathom.config import parse_config
from fathom.depth.depth_map import LogRange, valid
from fathom.depth.metrics import codebook_use, depth_edges, depth_error, still_tokens, token_flicker
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig, load_tokenizer
from fathom.errors import UserError

CONFIG = DepthTokenizerConfig(image_size=32, grid=8, codes=16, code_dim=12, width=16, depth_range=LogRange(0.5, 4))
KINDS = {
    "vq": CONFIG,
    "ema": replace(CONFIG, quantizer="ema"),
    "fsq": replace(CONFIG, quantizer="fsq", codes=12, levels=(4, 3)),
    "none": replace(CONFIG, quantizer="none"),
}


def build(kind):
    torch.manual_seed(0)
    tokenizer = DepthTokenizer(KINDS[kind]).train()
    tokenizer.loss(scenes(16))  # k-means
    return tokenizer


@pytest.fixture
def tokenizer():
    return build("vq")


@pytest.fixture
def averaged():
    return build("ema")


@pytest.fixture
def scalar():
    return build("fsq")


@pytest.fixture
def continuous():
    return build("none")


def scenes(count: int, size: int = 32) -> torch.Tensor:
    """A near box before a far wall, somewhere."""
    generator = torch.Generator().manual_seed(count)
    depth = torch.full((count, 1, size, size), 3.0)
    for picture in depth:
        x, y = torch.randint(0, size // 2, (2,), generator=generator).tolist()
        picture[0, y : y + size // 3, x : x + size // 3] = 0.8
    return depth


def test_the_loss_is_equation_2(tokenizer):
    tokenizer.eval()
    losses = tokenizer.loss(scenes(4))
    target, _ = tokenizer.prepare(scenes(4))
    latent = tokenizer.encoder(target)
    vectors = latent.movedim(1, -1).flatten(0, 2)
    nearest = torch.stack([(vectors - code).square().sum(-1) for code in tokenizer.codebook], -1).argmin(-1)
    code = tokenizer.codebook[nearest].unflatten(0, (4, 8, 8)).movedim(-1, 1)
    torch.testing.assert_close(losses.codebook, (code - latent).square().mean())
    torch.testing.assert_close(losses.commitment, losses.codebook)
    torch.testing.assert_close(losses.reconstruction, (tokenizer.decoder(code) - target).abs().mean())
    torch.testing.assert_close(losses.total, losses.reconstruction + 1.25 * losses.codebook)


def test_each_term_moves_its_own_side(tokenizer):
    """The codebook term moves the codes alone, the commitment term the encoder alone."""
    tokenizer.eval()
    codes, encoder = tokenizer.quantizer._codebook.embed, tokenizer.encoder[0].weight
    losses = tokenizer.loss(scenes(4))
    grads = torch.autograd.grad(losses.codebook, (codes, encoder), retain_graph=True, allow_unused=True)
    assert grads[0].abs().max() > 0
    assert grads[1] is None or grads[1].abs().max() == 0
    grads = torch.autograd.grad(losses.commitment, (codes, encoder), retain_graph=True, allow_unused=True)
    assert grads[0] is None or grads[0].abs().max() == 0
    assert grads[1].abs().max() > 0
    reconstruction = tokenizer.train().loss(scenes(4)).reconstruction
    assert torch.autograd.grad(reconstruction, encoder)[0].abs().max() > 0  # straight through


def test_invalid_pixels_do_not_count(tokenizer):
    tokenizer.eval()
    depth = scenes(2)
    depth[0, 0, :4] = 0.0
    depth[1, 0, 0, 0] = torch.nan
    target, mask = tokenizer.prepare(depth)
    assert mask.sum() == depth.numel() - 4 * 32 - 1
    straight, _, _ = tokenizer.quantizer(tokenizer.encoder(target))
    expected = (tokenizer.decoder(straight) - target).abs()[mask.bool()].mean()
    torch.testing.assert_close(tokenizer.loss(depth).reconstruction, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_training_reconstructs_scenes(kind):
    tokenizer, depth = build(kind), scenes(16)

    def error():
        return depth_error(tokenizer.eval().reconstruct(depth), depth, valid(depth))

    before = error()
    tokenizer.train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), 3e-3)
    for _ in range(300):
        loss = tokenizer.loss(depth).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error().delta_1 > 0.9 > before.delta_1
    assert error().abs_rel < 0.2 * before.abs_rel
    if tokenizer.config.has_codes:
        assert codebook_use(tokenizer.encode(depth), tokenizer.config.codes).usage > 0.1


@pytest.mark.parametrize("kind", ["vq", "ema", "fsq"])
def test_codes_survive_saving(kind, tmp_path):
    tokenizer = build(kind).eval()
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.config == KINDS[kind]
    depth = scenes(3, size=64)
    codes = tokenizer.encode(depth)
    assert codes.shape == (3, 64) and codes.dtype == torch.int64
    assert torch.equal(loaded.encode(depth), codes)
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))
    assert torch.equal(loaded.codebook, tokenizer.codebook)
    assert torch.equal(tokenizer.reconstruct(depth), tokenizer.decode(codes))


def test_latents_survive_saving(continuous, tmp_path):
    continuous.eval().save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.config == KINDS["none"]
    depth = scenes(3, size=64)
    latents = continuous.latents(depth)
    assert latents.shape == (3, 64, 12) and not latents.requires_grad
    assert torch.equal(loaded.latents(depth), latents)
    assert torch.equal(loaded.decode_latents(latents), continuous.decode_latents(latents))
    assert torch.equal(continuous.reconstruct(depth), continuous.decode_latents(latents))


def test_a_tokenizer_saved_before_there_were_kinds_loads(tokenizer, tmp_path):
    """The folder's names, written out: what was trained must stay readable."""
    tokenizer.eval().save(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    assert values.pop("type") == "vq_vae"
    old = {"image_size": 32, "grid": 8, "codes": 16, "code_dim": 12, "width": 16, "commitment": 0.25}
    old["depth_range"] = {"near": 0.5, "far": 4}
    assert old.items() <= values.items()
    path.write_text(json.dumps({"type": "vq_vae", **old}))
    assert load_tokenizer(tmp_path).config == CONFIG
    state = {name.split(".", 2)[-1] for name in tokenizer.state_dict() if name.startswith("quantizer._codebook.")}
    assert {"embed", "embed_avg", "cluster_size", "initted"} <= state
    assert tokenizer.state_dict()["encoder.1.2.weight"].shape == (8, 8, 3, 3)
    assert tokenizer.state_dict()["decoder.0.weight"].shape == (16, 12, 3, 3)


def test_codes_stand_row_by_row(tokenizer):
    tokenizer.eval()
    depth = scenes(1)
    latent = tokenizer.encoder(tokenizer.prepare(depth)[0])[0]
    codes = tokenizer.encode(depth)[0]
    for row, column in ((0, 0), (2, 5), (7, 1)):
        distance = (tokenizer.codebook - latent[:, row, column]).square().sum(-1)
        assert codes[8 * row + column] == distance.argmin()
    assert len(codes.unique()) > 1


def vectors_of(tokenizer, depth) -> torch.Tensor:
    return tokenizer.encoder(tokenizer.prepare(depth)[0]).movedim(1, -1).flatten(0, 2)


def test_running_means_follow_the_vectors(averaged):
    """One step by hand, decay 0.99: counts and sums of the vectors, smoothed as in appendix A.1 of its source."""
    state = averaged.quantizer._codebook
    state.cluster_size.fill_(50.0)  # no code is dead
    state.embed_avg.copy_(50 * state.embed)
    codes = averaged.codebook.clone()
    vectors = vectors_of(averaged, scenes(8)).detach()
    nearest = torch.stack([(vectors - code).square().sum(-1) for code in codes], -1).argmin(-1)
    counts = 0.99 * 50 + 0.01 * torch.bincount(nearest, minlength=16)
    sums = 0.99 * 50 * codes
    for code in range(16):
        sums[code] += 0.01 * vectors[nearest == code].sum(0)
    smoothed = (counts + 1e-5) / (counts.sum() + 16e-5) * counts.sum()

    losses = averaged.loss(scenes(8))
    torch.testing.assert_close(averaged.codebook, sums / smoothed[:, None])
    assert not torch.equal(averaged.codebook, codes)
    torch.testing.assert_close(losses.commitment, (vectors - codes[nearest]).square().mean())
    torch.testing.assert_close(losses.total, losses.reconstruction + 0.25 * losses.commitment)
    assert losses.terms().keys() == {"reconstruction", "total", "commitment"}
    for name in ("commitment", "reconstruction"):  # the second straight through
        again = getattr(averaged.loss(scenes(8)), name)
        assert torch.autograd.grad(again, averaged.encoder[0].weight)[0].abs().max() > 0
    assert not any(parameter is state.embed for parameter in averaged.parameters())


def test_running_means_stand_still_when_they_are_used(averaged):
    averaged.eval()
    before = {name: value.clone() for name, value in averaged.state_dict().items()}
    averaged.loss(scenes(8))
    averaged.encode(scenes(8))
    assert all(torch.equal(value, before[name]) for name, value in averaged.state_dict().items())


@pytest.mark.parametrize("kind", ["vq", "ema"])
def test_a_dead_code_starts_again_from_a_vector(kind):
    tokenizer = build(kind)
    state = tokenizer.quantizer._codebook
    state.cluster_size.fill_(50.0)
    with torch.no_grad():
        state.embed[0, 3] = 1e3  # as far from all vectors as a code can be
    state.embed_avg.copy_(50 * state.embed)
    for uses, alive in ((50.0, True), (2.0, False)):  # 0.99 of it is above and below what a dead code is
        state.cluster_size[0, 3] = uses
        tokenizer.loss(scenes(8))
        assert (tokenizer.codebook[3].abs().max() > 100) == alive
    distance = (vectors_of(tokenizer, scenes(8)) - tokenizer.codebook[3]).abs().amax(-1)
    assert distance.min() < 1e-5


def test_running_means_are_summed_in_fp32(averaged):
    twin = build("ema")
    with torch.autocast("cpu", torch.bfloat16):
        encoded = averaged.encoder(averaged.prepare(scenes(8))[0])
        averaged.quantizer.bottleneck(encoded)
    assert encoded.dtype == torch.bfloat16
    twin.quantizer.bottleneck(encoded.float())
    assert torch.equal(averaged.codebook, twin.codebook)


@pytest.mark.parametrize("kind", ["vq", "ema"])
def test_a_picture_that_is_no_number_leaves_the_codes_alone(kind):
    """A training may skip its step: by then the codes must not have moved."""
    quantizer = build(kind).train().quantizer
    vectors = torch.randn(2, quantizer.codebook.shape[1], 4, 4)
    quantizer.bottleneck(vectors)
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    vectors[0, 0, 0, 0] = torch.nan
    _, terms = quantizer.bottleneck(vectors)
    assert sum(terms.values()).isnan() and terms
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


def test_scalar_codes_are_all_combinations_of_levels(scalar):
    """Counted by hand: code i has value i % 4 of the first number's levels and i // 4 of the second's."""
    first, second = torch.tensor([-1.0, -0.5, 0.0, 0.5]), torch.tensor([-1.0, 0.0, 1.0])
    numbers = torch.stack([first.repeat(3), second.repeat_interleave(4)], 1)
    project = scalar.quantizer.project_out
    torch.testing.assert_close(scalar.codebook, numbers @ project.weight.T + project.bias)


def test_scalar_codes_are_what_the_decoder_was_trained_on(scalar):
    scalar.eval()
    target, _ = scalar.prepare(scenes(4))
    latent, terms = scalar.quantizer.bottleneck(scalar.encoder(target))
    codes = scalar.encode(scenes(4))
    assert terms == {} and len(codes.unique()) > 1
    torch.testing.assert_close(scalar.codebook[codes].mT.unflatten(2, (8, 8)), latent)
    rebuilt = scalar.config.depth_range.denormalize(scalar.decoder(latent).clamp(0, 1))
    torch.testing.assert_close(scalar.decode(codes), rebuilt)
    losses = scalar.loss(scenes(4))
    assert losses.terms().keys() == {"reconstruction", "total"} and losses.total == losses.reconstruction
    assert torch.autograd.grad(losses.total, scalar.encoder[0].weight)[0].abs().max() > 0  # straight through


def test_the_divergence_is_that_of_the_drawn_distribution(continuous):
    continuous.eval()
    target, _ = continuous.prepare(scenes(4))
    mean, log_variance = continuous.encoder(target).split(12, dim=1)
    divergence = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    losses = continuous.loss(scenes(4))
    torch.testing.assert_close(losses.kl, divergence)
    torch.testing.assert_close(losses.reconstruction, (continuous.decoder(mean) - target).abs().mean())
    torch.testing.assert_close(losses.total, losses.reconstruction + 1e-4 * divergence)
    assert losses.terms().keys() == {"reconstruction", "total", "kl"}
    torch.testing.assert_close(continuous.latents(scenes(4)), mean.flatten(2).mT)


def test_training_draws_from_the_distribution(continuous):
    mean, log_variance = torch.full((64, 12, 8, 8), 0.7), torch.full((64, 12, 8, 8), math.log(0.25))
    encoded = torch.cat([mean, log_variance], 1)
    drawn, _ = continuous.train().quantizer.bottleneck(encoded)
    count = drawn.numel()
    assert drawn.mean().item() == pytest.approx(0.7, abs=4 * 0.5 / count**0.5)
    assert drawn.std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.equal(continuous.eval().quantizer.bottleneck(encoded)[0], mean)


def test_a_kind_refuses_what_it_has_not(tokenizer, averaged, scalar, continuous):
    depth = scenes(2)
    for call in (
        lambda: continuous.codebook,
        lambda: continuous.encode(depth),
        lambda: continuous.decode(torch.zeros(2, 64, dtype=torch.long)),
    ):
        with pytest.raises(UserError, match=r"continuous VAE.*has no codes"):
            call()
    for kind, discrete in (("vq", tokenizer), ("ema", averaged), ("fsq", scalar)):
        for refused in (
            lambda d=discrete: d.latents(depth),
            lambda d=discrete: d.decode_latents(torch.zeros(2, 64, 12)),
        ):
            with pytest.raises(UserError, match=f"has codes \\(quantizer '{kind}'\\) and no latents"):
                refused()


def test_levels_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"codes is 256, but levels \(8, 6, 5\) make 240"):
        DepthTokenizerConfig(quantizer="fsq")
    assert DepthTokenizerConfig(quantizer="fsq", codes=240).levels == (8, 6, 5)
    for levels in ((), (8, 2)):
        with pytest.raises(ValueError, match="at least 3 values"):
            DepthTokenizerConfig(quantizer="fsq", codes=16, levels=levels)
    with pytest.raises(UserError, match=r"config\.json: .*make 240"):
        parse_config(DepthTokenizerConfig, {"quantizer": "fsq", "codes": 256}, tmp_path / "config.json")


def test_the_paper_size_has_the_papers_grid():
    tokenizer = DepthTokenizer(DepthTokenizerConfig())
    assert tokenizer.codebook.shape == (256, 160)
    assert tokenizer.encoder(torch.zeros(1, 1, 256, 256)).shape == (1, 160, 16, 16)
    assert tokenizer.decode(torch.zeros(1, 256, dtype=torch.long)).shape == (1, 1, 256, 256)


def test_a_folder_without_a_tokenizer_is_told(tmp_path):
    with pytest.raises(UserError, match="no depth tokenizer"):
        DepthTokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text('{"type": "qdepth_vla"}')
    with pytest.raises(UserError, match="does not describe a depth tokenizer"):
        DepthTokenizer.load(tmp_path)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="power of two"):
        DepthTokenizerConfig(image_size=96, grid=16)


def test_log_range():
    scale = LogRange(0.5, 2.0)
    value = scale.normalize(torch.tensor([0.1, 0.5, 1.0, 2.0, 80.0, math.nan]))
    torch.testing.assert_close(value, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(scale.denormalize(value[1:4]), torch.tensor([0.5, 1.0, 2.0]))
    with pytest.raises(ValueError, match="near"):
        LogRange(2.0, 1.0)


def test_depth_error_by_hand():
    true = torch.tensor([[[[1.0, 1.0, 1.0, 2.0]]]])
    predicted = torch.tensor([[[[1.1, 0.7, 9.0, 2.0]]]])
    seen = torch.tensor([[[[False, True, True, True]]]])
    error = depth_error(predicted, true, seen)
    assert error.abs_rel == pytest.approx((0.3 + 8.0 + 0.0) / 3)
    assert error.delta_1 == pytest.approx(1 / 3)  # 1/0.7 = 1.43
    assert error.edge_abs_rel == pytest.approx((8.0 + 0.0) / 2)  # the last two pixels
    assert depth_edges(true, seen)[0, 0, 0].tolist() == [False, False, True, True]


@pytest.mark.parametrize("unknown", [0.0, math.nan, 9.0])
def test_a_hole_is_no_edge(unknown):
    true = torch.tensor([[[[1.0, 1.0, unknown, 1.02, 1.1]]]])
    seen = torch.tensor([[[[True, True, False, True, True]]]])
    assert depth_edges(true, seen)[0, 0, 0].tolist() == [False, False, False, True, True]
    predicted = torch.tensor([[[[2.0, 2.0, 2.0, 1.02, 2.2]]]])
    assert depth_error(predicted, true, seen).edge_abs_rel == pytest.approx((0.0 + 1.0) / 2)


def test_the_error_of_relative_depth_by_hand():
    """Below 0.05 it counts as 0.05, on both sides."""
    true = torch.tensor([[[[0.5, 0.001, 0.1, 0.02]]]])
    predicted = torch.tensor([[[[0.4, 0.04, 0.1, 0.1]]]])
    error = depth_error(predicted, true, true > 0, "relative_inverse")
    assert error.abs_rel == pytest.approx((0.2 + 0.0 + 0.0 + 1.0) / 4)
    assert error.delta_1 == pytest.approx(2 / 4)  # 0.5 / 0.4 is no less than 1.25
    assert error.edge_abs_rel == pytest.approx((0.2 + 0.0 + 0.0 + 1.0) / 4)


def test_tokens_that_stand_still_by_hand():
    """Four tokens of 2 x 2 pixels: at rest, moving, losing a pixel, and never seen."""
    before = torch.tensor([[1.0, 2.0, 3.0, 3.0], [1.0, 2.0, 3.0, 3.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    after = before.clone()
    after[0, :2] *= 1.004  # of itself, less than 0.005
    after[1, 3] *= 0.99
    after[3, 0] = torch.nan
    still = still_tokens(before[None, None], after[None, None], grid=2)
    assert still.tolist() == [[True, False, False, False]]
    before[3, 3] = 7.0
    after[3, 3] = 7.0  # a patch that is known in part, the same part in both
    assert still_tokens(before[None, None], after[None, None], grid=2).tolist() == [[True, False, False, True]]


def test_relative_depth_stands_still_by_its_range():
    before = torch.tensor([[[[0.02, 0.9]]]]).expand(1, 1, 2, 2)
    for step, still in ((0.004, True), (0.006, False)):
        assert still_tokens(before, before + step, 1, "relative_inverse").tolist() == [[still]]
    assert still_tokens(before, before + 0.004, 1, "metric").tolist() == [[False]]  # a fifth of 0.02


def test_flicker_by_hand():
    before, after = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 9, 3], [9, 9, 6]])
    still = torch.tensor([[True, True, True], [False, True, False]])
    assert token_flicker(before, after, still) == 2 / 4
    assert token_flicker(before, after, torch.zeros_like(still)) is None


def test_codebook_use_by_hand():
    use = codebook_use(torch.tensor([[0, 0, 1, 3]]), codes=8)
    assert use.usage == 3 / 8
    assert use.top_share == 0.5
    assert use.perplexity == pytest.approx(math.exp(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))))


def test_resizing_invents_no_surface(tokenizer):
    depth = torch.full((1, 1, 50, 50), 3.0)
    depth[..., :25] = 0.8
    values = tokenizer.config.depth_range.denormalize(tokenizer.prepare(depth)[0]).unique()
    torch.testing.assert_close(values, torch.tensor([0.8, 3.0]))
    assert F.interpolate(depth, (32, 32), mode="bilinear").unique().numel() > 2


def test_relative_depth_goes_in_and_out_as_it_is():
    config = replace(CONFIG, depth_range=None)
    assert (config.kind, CONFIG.kind) == ("relative_inverse", "metric")
    torch.manual_seed(0)
    tokenizer = DepthTokenizer(config).train()
    depth = torch.linspace(0.001, 1, 32).expand(2, 1, 32, 32).clone()
    depth[0, 0, :5] = 0.0
    depth[1, 0, 0, 0] = torch.nan
    picture, known = tokenizer.prepare(depth)
    assert torch.equal(known.bool(), valid(depth))
    assert torch.equal(picture[known > 0], depth[known > 0]) and picture[known == 0].eq(0).all()
    truth = tokenizer.true_depth(depth)
    torch.testing.assert_close(truth[known > 0], depth[known > 0])
    assert truth[known == 0].isnan().all()

    optimizer = torch.optim.AdamW(tokenizer.parameters(), 3e-3)
    for _ in range(60):
        loss = tokenizer.loss(depth).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rebuilt = tokenizer.eval().reconstruct(depth)
    assert rebuilt.min() > 0 and rebuilt.max() <= 1  # 0 would say that it is not known
    assert (rebuilt - depth)[known > 0].abs().mean() < 0.1


def test_relative_depth_survives_saving(tmp_path):
    DepthTokenizer(replace(CONFIG, depth_range=None)).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["depth_range"] is None
    assert load_tokenizer(tmp_path).config.kind == "relative_inverse"


def test_the_true_depth_is_within_the_range(tokenizer):
    depth = scenes(2)
    depth[0, 0, :3] = 40.0
    depth[1, 0, :3] = 0.0
    truth = tokenizer.true_depth(depth)
    torch.testing.assert_close(truth[0, 0, :3], torch.full((3, 32), 4.0))
    assert truth[1, 0, :3].isnan().all()
    torch.testing.assert_close(truth[:, :, 3:], depth[:, :, 3:])
