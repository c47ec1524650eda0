"""``fathom vlm demo``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VlmDemo:
    """Show a web page on which pictures are asked."""

    model: str
    """A depth-aware VLM's folder or hub id, or that of a published Qwen2.5-VL or Qwen3-VL."""

    estimator: str | None = None
    """What gives pictures their depth: `transformers` and others, as for `fathom annotate`."""

    weights: str | None = None
    """The estimator's: a file, folder or hub id."""

    port: int = 7860
    """Where the page is, on this machine alone."""

    def run(self) -> None:
        from fathom.training.device import pick_device
        from fathom.vlm.ask import open_for_asking
        from fathom.vlm.demo import Desk
        from fathom.vlm.demo_page import check_port, serve

        check_port(self.port)
        model = open_for_asking(self.model, self.estimator, self.weights, device=pick_device())
        serve(Desk(model), port=self.port)
