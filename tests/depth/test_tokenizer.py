import math

import pytest
import torch
import torch.nn.functional as F

from fathom.depth.depth_map import LogRange, valid
from fathom.depth.metrics import codebook_use, depth_edges, depth_error
from fathom.depth.tokenizer import DepthTokenizer, DepthTokenizerConfig
from fathom.errors import UserError

CONFIG = DepthTokenizerConfig(image_size=32, grid=8, codes=16, code_dim=12, width=16, depth_range=LogRange(0.5, 4))


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    tokenizer = DepthTokenizer(CONFIG).train()
    tokenizer.loss(scenes(16))  # k-means
    return tokenizer


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


def test_training_reconstructs_scenes(tokenizer):
    optimizer = torch.optim.AdamW(tokenizer.parameters(), 3e-3)
    for _ in range(300):
        loss = tokenizer.loss(scenes(16)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokenizer.eval()
    depth = scenes(16)
    error = depth_error(tokenizer.decode(tokenizer.encode(depth)), depth, valid(depth))
    assert error.delta_1 > 0.9
    assert codebook_use(tokenizer.encode(depth), 16).usage > 0.1


def test_codes_survive_saving(tokenizer, tmp_path):
    tokenizer.eval().save(tmp_path)
    loaded = DepthTokenizer.load(tmp_path)
    depth = scenes(3, size=64)
    codes = tokenizer.encode(depth)
    assert codes.shape == (3, 64)
    assert torch.equal(loaded.encode(depth), codes)
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))


def test_codes_stand_row_by_row(tokenizer):
    tokenizer.eval()
    depth = scenes(1)
    latent = tokenizer.encoder(tokenizer.prepare(depth)[0])[0]
    codes = tokenizer.encode(depth)[0]
    for row, column in ((0, 0), (2, 5), (7, 1)):
        distance = (tokenizer.codebook - latent[:, row, column]).square().sum(-1)
        assert codes[8 * row + column] == distance.argmin()
    assert len(codes.unique()) > 1


def test_the_paper_size_has_the_papers_grid():
    tokenizer = DepthTokenizer(DepthTokenizerConfig())
    assert tokenizer.codebook.shape == (256, 160)
    assert tokenizer.encoder(torch.zeros(1, 1, 256, 256)).shape == (1, 160, 16, 16)
    assert tokenizer.decode(torch.zeros(1, 256, dtype=torch.long)).shape == (1, 1, 256, 256)


def test_a_folder_without_a_tokenizer_is_told(tmp_path):
    with pytest.raises(UserError, match="no depth tokenizer"):
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
    seen = torch.tensor([[[[True, True, False, True]]]])
    error = depth_error(predicted, true, seen)
    assert error.abs_rel == pytest.approx((0.1 + 0.3 + 0.0) / 3)
    assert error.delta_1 == pytest.approx(2 / 3)  # 1/0.7 = 1.43
    assert error.edge_abs_rel == pytest.approx(0.0)  # the only valid edge pixel is the last one
    assert depth_edges(true)[0, 0, 0].tolist() == [False, False, True, True]


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
