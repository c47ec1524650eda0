"""Where a depth-aware VLM comes from, and the model card that says so on the hub."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from fathom.config import read_json
from fathom.files import write_json
from fathom.hub import hub_id
from fathom.vlm.config import DepthVLMConfig

_FILE = "provenance.json"


def save_provenance(provenance: Mapping[str, Any], folder: Path) -> None:
    """Write ``provenance.json``: what a model was made from, and how, as JSON values by topic."""
    write_json(folder / _FILE, dict(provenance))


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read it; a model without one says nothing of where it comes from."""
    return read_json(folder / _FILE, "model's provenance") if (folder / _FILE).is_file() else {}


def model_card(config: DepthVLMConfig, provenance: Mapping[str, Any]) -> ModelCard:
    """The README.md of a depth-aware VLM on the hub: use, fusion, and each topic of its provenance as a table."""
    data = ModelCardData(
        library_name="fathom",
        pipeline_tag="image-text-to-text",
        base_model=hub_id(config.base) if config.base else None,  # a folder of this machine means nothing there
        license=provenance.get("licence"),
        tags=["depth", "spatial-reasoning", "vision-language-model", *(["lora"] if config.lora else [])],
    )
    depth = "metric depth" if config.depth_kind == "metric" else "relative inverse depth"
    head = (
        f"# Depth-aware VLM ({config.fusion})\n\n"
        f"A vision-language model that also sees {depth}, made with Fathom from {_began(config.base)}."
    )
    use = (
        "## Use\n\n```python\nfrom fathom.vlm.model import DepthVLM\n\n"
        'model = DepthVLM.from_pretrained("owner/name")\n'
        'model.answer("photo.jpg", "How far is the yellow car?", "depth.png", unit="mm")\n```'
    )
    topics = [f"## {name.capitalize()}\n\n{_told(value)}" for name, value in provenance.items() if name != "licence"]
    licence = f"## Licence\n\n{provenance.get('licence') or 'Not stated.'}"
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join([head, use, *topics, licence]) + "\n")


def _began(base: str | None) -> str:
    if base is None:
        return "random weights"
    return hub_id(base) or Path(base).name


def _told(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {entry} |" for name, entry in _flat(value))])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)
