"""How open-pi-zero computes an action chunk and a training step, over the parameters of one of our policies.

It is the procedure of github.com/allenzren/open-pi-zero (``src/model/vla/pizero.py``, ``joint_model.py``), written
anew: four mixtures (proprio and action share weights but run apart), eager attention over keys and values copied for
every head, a floating mask, the rotary table made anew in every layer, caches as lists that every layer of every flow
step joins and copies again. The depth expert, which open-pi-zero lacks, is one more mixture, cached like proprio.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fathom.policies.qdepth_vla import QDepthVLA
from fathom.policies.qdepth_vla.inputs import Inputs

READS = {
    "vlm": ("vlm",),
    "depth": ("vlm", "depth"),
    "proprio": ("vlm", "proprio"),
    "action": ("vlm", "depth", "proprio", "action"),
}
STREAM_OF = {"vlm": "vlm", "depth": "depth", "proprio": "action", "action": "action"}


class KeyValueLists:
    """One mixture's keys and values, a list entry per layer."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []


class OpenPiZero:
    """The peer: a second way to run ``policy``, whose parameters it shares.

    Raises:
        ValueError: the policy has another visibility or other conventions than open-pi-zero.
    """

    def __init__(self, policy: QDepthVLA) -> None:
        self.policy, self.config = policy, policy.config
        visibility = self.config.depth.visibility if self.config.depth else "hybrid"
        if self.config.conventions != "open_pi_zero" or visibility != "hybrid":
            raise ValueError("the peer knows open-pi-zero's conventions and the hybrid visibility alone")
        self.streams: dict[str, Any] = {name: policy.mixture.streams[STREAM_OF[name]] for name in self._mixtures}
        place = torch.arange(0, self.config.head_dim, 2, device=policy.device) / self.config.head_dim
        theta = {name: self.config.rope_theta if name == "vlm" else self.config.expert_rope_theta for name in READS}
        self.frequency = {name: theta[name] ** -place for name in self._mixtures}

    @property
    def _mixtures(self) -> list[str]:
        return [name for name in READS if self.config.depth or name != "depth"]

    @torch.no_grad()
    def chunk(
        self, inputs: Inputs, noise: Float[Tensor, "batch horizon action"]
    ) -> Float[Tensor, "batch horizon action"]:
        """The normalised actions: prefix, depth and proprio once, then the action tokens alone in every flow step."""
        seen = self._embed(inputs)
        mask = self._mask(inputs)
        caches = {name: KeyValueLists() for name in seen}
        prefix = sum(tokens.shape[1] for tokens in seen.values())
        self._joint(seen, mask[..., :prefix, :prefix], caches)

        def velocity(point: Tensor, time: Tensor) -> Tensor:
            tokens = {"action": self._encode_actions(point, time)}
            return self.policy.action_decoder(self._joint(tokens, mask[..., prefix:, :], caches)["action"])

        return self._integrate(velocity, noise.to(inputs.pixels.dtype))

    def loss(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "batch horizon action"],
        noise: Float[Tensor, "batch horizon action"],
        time: Float[Tensor, " batch"],
        codes: Any,
        depth_weight: float,
    ) -> Float[Tensor, ""]:
        """The training loss, from one joint pass over all tokens."""
        left = 1 - self.config.convention.flow.sigma_min
        when = time[:, None, None]
        point = (1 - left * when) * noise + when * actions
        tokens = {**self._embed(inputs), "action": self._encode_actions(point, time)}
        outputs = self._joint(tokens, self._mask(inputs), caches={})
        velocity = self.policy.action_decoder(outputs["action"]).float()
        loss = (velocity - (actions - left * noise)).square().mean()
        head = self.policy.depth_head
        if head is None:
            return loss
        return loss + depth_weight * head.target.error(head(outputs["depth"]), codes).mean()

    def _integrate(self, velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        point, step = noise, 1 / self.config.flow_steps
        time = torch.zeros(len(noise), device=noise.device)
        for _ in range(self.config.flow_steps):
            point = point + step * velocity(point, time)
            time = time + step
        bound = self.config.clip_actions
        return (point if bound is None else point.clamp(-bound, bound)).float()

    def _embed(self, inputs: Inputs) -> dict[str, Tensor]:
        """The tokens of all mixtures but the action's, not yet scaled."""
        batch, cameras = inputs.pixels.shape[:2]
        visual = self._see(inputs.pixels.flatten(0, 1)).unflatten(0, (batch, cameras)).flatten(1, 2)
        image = self.policy.multi_modal_projector(visual) / self.config.vlm_width**0.5
        text = self.streams["vlm"].embed_tokens(inputs.text)
        vlm = image.new_zeros(batch, image.shape[1] + text.shape[1], image.shape[2])
        valid = torch.cat([inputs.text_valid.new_zeros(image.shape[:2]), inputs.text_valid], 1)
        vlm[valid] = text[inputs.text_valid].to(vlm.dtype)
        for row in range(batch):
            vlm[row, : image.shape[1]] = image[row]
        tokens = {"vlm": vlm}
        if self.policy.depth_head:
            tokens["depth"] = self.policy.depth_head.project_in(visual[:, : self.config.vision.grid**2])
        return {**tokens, "proprio": self.policy.proprio_encoder(inputs.state.to(visual.dtype))[:, None]}

    def _see(self, pixels: Tensor) -> Tensor:
        """SigLIP with eager attention."""
        tower: Any = self.policy.vision_tower
        hidden = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        hidden = hidden + tower.embeddings.position_embedding(tower.embeddings.position_ids)
        for layer in tower.encoder.layers:
            attention, normed = layer.self_attn, layer.layer_norm1(hidden)
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            query, key, value = (
                project(normed).unflatten(2, (-1, attention.head_dim)).transpose(1, 2) for project in projections
            )
            weights = (query @ key.transpose(2, 3) * attention.head_dim**-0.5).softmax(-1)
            hidden = hidden + attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
            mlp = layer.mlp
            hidden = hidden + mlp.fc2(F.gelu(mlp.fc1(layer.layer_norm2(hidden)), approximate="tanh"))
        return tower.post_layernorm(hidden)

    def _encode_actions(self, point: Tensor, time: Tensor) -> Tensor:
        encoder = self.policy.action_encoder
        embedded = encoder.linear_1(point)
        half = embedded.shape[-1] // 2
        decay = math.log(self.config.convention.time_embedding.max_period) / (half - 1)
        angle = time[:, None] * torch.exp(torch.arange(half, device=time.device) * -decay)
        when = torch.cat([angle.sin(), angle.cos()], -1).to(embedded.dtype)[:, None].expand_as(embedded)
        return encoder.linear_3(F.silu(encoder.linear_2(torch.cat([when, embedded], -1))))

    def _mask(self, inputs: Inputs) -> Tensor:
        """0 where a token is read and the type's lowest number elsewhere, over all tokens, row by row."""
        grid = self.config.vision.grid**2
        length = {"vlm": grid * inputs.pixels.shape[1] + inputs.text.shape[1], "depth": grid}
        length |= {"proprio": 1, "action": self.config.horizon}
        place, start = {}, 0
        for name in self._mixtures:
            place[name] = slice(start, start + length[name])
            start += length[name]
        kind = inputs.pixels.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.pixels.dtype
        mask = torch.full((len(inputs.text), start, start), torch.finfo(dtype).min, dtype=dtype)
        for row, padding in enumerate((~inputs.text_valid).sum(1).tolist()):
            for query in self._mixtures:
                for key in READS[query]:
                    if key in place:
                        mask[row, place[query], place[key]] = 0
            mask[row, :, length["vlm"] - padding : length["vlm"]] = torch.finfo(dtype).min
        return mask[:, None].to(inputs.pixels.device)

    def _joint(
        self, tokens: dict[str, Tensor], mask: Tensor, caches: dict[str, KeyValueLists]
    ) -> dict[str, Float[Tensor, "batch tokens width"]]:
        """All layers over the mixtures in ``tokens``; the VLM's last output, which nobody reads, is left out."""
        first = {name: 2 if name == "action" else 1 for name in tokens}
        positions = {
            name: torch.arange(first[name], first[name] + t.shape[1], device=t.device).repeat(len(t), 1)
            for name, t in tokens.items()
        }
        hidden = {name: t * t.shape[-1] ** 0.5 for name, t in tokens.items()}
        for index in range(self.config.layers):
            if index == self.config.layers - 1:
                hidden = self._layer(index, hidden, positions, mask, caches, leave=("vlm",))
            else:
                hidden = self._layer(index, hidden, positions, mask, caches)
        return {name: _norm(self.streams[name].norm, h) for name, h in hidden.items()}

    def _layer(
        self,
        index: int,
        hidden: dict[str, Tensor],
        positions: dict[str, Tensor],
        mask: Tensor,
        caches: dict[str, KeyValueLists],
        leave: Iterable[str] = (),
    ) -> dict[str, Tensor]:
        layers = {name: self.streams[name].layers[index] for name in hidden}
        normed = {name: _norm(layers[name].input_layernorm, h) for name, h in hidden.items()}
        attended = self._attention(index, layers, normed, positions, mask, caches)
        finished = {}
        for name in hidden:
            if name not in leave:
                after = hidden[name] + layers[name].self_attn.o_proj(attended[name])
                inner, mlp = _norm(layers[name].post_attention_layernorm, after), layers[name].mlp
                gate = F.gelu(mlp.gate_proj(inner), approximate="tanh")
                finished[name] = after + mlp.down_proj(gate * mlp.up_proj(inner))
        return finished

    def _attention(
        self,
        index: int,
        layers: dict[str, Any],
        normed: dict[str, Tensor],
        positions: dict[str, Tensor],
        mask: Tensor,
        caches: dict[str, KeyValueLists],
    ) -> dict[str, Tensor]:
        dim = self.config.head_dim
        queries, keys, values = {}, {}, {}
        for name, cache in caches.items():
            if name not in normed:
                keys[name], values[name] = cache.keys[index], cache.values[index]
        for name, x in normed.items():
            attention = layers[name].self_attn
            cos, sin = self._rotary(name, positions[name], x)
            queries[name] = _rotate(attention.q_proj(x).unflatten(2, (-1, dim)).transpose(1, 2), cos, sin)
            keys[name] = _rotate(attention.k_proj(x).unflatten(2, (-1, dim)).transpose(1, 2), cos, sin)
            values[name] = attention.v_proj(x).unflatten(2, (-1, dim)).transpose(1, 2)
            if name in caches:
                caches[name].keys.append(keys[name])
                caches[name].values.append(values[name])
        times = self.config.heads // self.config.kv_heads
        query = torch.cat(tuple(queries.values()), 2)
        key = torch.cat([_repeat(k, times) for k in keys.values()], 2)
        value = torch.cat([_repeat(v, times) for v in values.values()], 2)
        logits = query @ key.transpose(2, 3) / math.sqrt(dim)
        if (cap := self.config.softcap) is not None:
            logits = torch.tanh(logits / cap) * cap
        weights = (logits + mask).softmax(-1)
        attended = (weights.to(value.dtype) @ value).transpose(1, 2).contiguous().flatten(2)
        lengths = [x.shape[1] for x in normed.values()]
        return dict(zip(normed, attended.split(lengths, 1), strict=True))

    def _rotary(self, name: str, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        angle = (positions[..., None] * self.frequency[name]).repeat(1, 1, 2)[:, None]
        return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _norm(norm: Any, x: Tensor) -> Tensor:
    """Gemma's root-mean-square norm."""
    normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps)
    return (normed * (1 + norm.weight)).type_as(x)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _repeat(x: Tensor, times: int) -> Tensor:
    """A copy of each key head for every query head that reads it."""
    batch, heads, tokens, dim = x.shape
    return x[:, :, None].expand(batch, heads, times, tokens, dim).reshape(batch, heads * times, tokens, dim)
