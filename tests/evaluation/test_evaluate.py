"""An evaluation is a folder that an interruption leaves ready to go on."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from fathom.data.batch import Observation
from fathom.errors import UserError
from fathom.evaluation.evaluate import evaluate
from fathom.evaluation.protocol import Protocol
from fathom.evaluation.results import Result
from fathom.simulation.journal import Journal
from fathom.simulation.rollout import RandomPolicy, ScriptedPolicy

PROTOCOL = Protocol(
    "metaworld", ("handle-press", "reach"), episodes=2, image_size=48, execute=10, options={"action_repeat": 8}
)


class Pusher:
    """Presses down: solves some layouts, needs pictures; breaks off when told to fly."""

    noise_shape = (10, 4)
    action_width = 4
    cameras = ("main",)

    def sample_actions(self, observation: Observation, noise: torch.Tensor | None = None) -> torch.Tensor:
        assert noise is not None and observation.images["main"].shape[1:] == (3, 48, 48)
        return (0.3 * noise + torch.tensor([0.0, 0.6, -0.4, 0.0])).clip(-1, 1)


def without_time(result: Result) -> list[Any]:
    return [replace(episode, wall_s=0.0) for episode in result.episodes]


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(Pusher(), PROTOCOL, tmp_path / "whole", name="pusher", environments=2)
    assert [(e.task, e.seed, e.init_state) for e in whole.episodes] == [
        (task, 10_000 + i, i) for task in PROTOCOL.tasks for i in range(2)
    ]
    assert Result.load(tmp_path / "whole" / "results.json") == whole

    folder, noted, note = tmp_path / "resumed", [], Journal.append

    def interrupted(self: Journal, entry: dict[str, Any]) -> None:
        note(self, entry)
        noted.append((entry["task"], entry["init_state"]))
        if len(noted) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Pusher(), PROTOCOL, folder, name="pusher", environments=1)
    assert not (folder / "results.json").exists()
    with pytest.raises(UserError, match="other arguments"):
        evaluate(Pusher(), replace(PROTOCOL, execute=2), folder, name="pusher")
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"task": "rea')  # cut in the middle of a line
    resumed = evaluate(Pusher(), PROTOCOL, folder, name="pusher", environments=1)
    assert without_time(resumed) == without_time(whole)
    assert len(noted) == len(set(noted)) == 4, "what was there is not tried again"
    again = evaluate(Pusher(), PROTOCOL, folder, name="pusher")
    assert again == resumed and len(noted) == 4


def test_clips_show_the_first_episodes_and_play_in_a_browser(tmp_path: Path) -> None:
    result = evaluate(ScriptedPolicy(), replace(PROTOCOL, options={}), tmp_path, name="expert", processes=1)
    assert all(episode.success for episode in result.episodes)
    clips = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert clips == ["handle-press-00.mp4", "reach-00.mp4"]
    with av.open(str(tmp_path / "clips" / "handle-press-00.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == result.episodes[0].steps + 1 and frames[0].shape == (48, 48, 3)
    assert frames[0].std() > 10


def test_a_broken_episode_is_a_failure_with_its_error(tmp_path: Path) -> None:
    class Nan(RandomPolicy):
        def sample_actions(self, observation: Observation, noise: torch.Tensor | None = None) -> torch.Tensor:
            return torch.full((len(observation), 4, 4), float("nan"))

    protocol = Protocol("metaworld", ("reach",), episodes=1, image_size=48)
    result = evaluate(Nan(4), protocol, tmp_path, name="nan", processes=1)
    assert not result.episodes[0].success and "finite" in (result.episodes[0].error or "")
    assert json.loads((tmp_path / "results.json").read_text())["summary"]["reach"]["rate"] == 0


def test_a_protocol_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no task called 'fly'"):
        Protocol("metaworld", ("fly",))
    with pytest.raises(UserError, match="each named once"):
        Protocol("metaworld", ("reach", "reach"))
    with pytest.raises(UserError, match="at least one episode"):
        Protocol("metaworld", ("reach",), episodes=0)
    with pytest.raises(UserError, match="20 actions of a chunk of 16"):
        evaluate(RandomPolicy(4), Protocol("metaworld", ("reach",), execute=20), tmp_path, name="random")


def test_another_interpreter_simulates_the_same(tmp_path: Path) -> None:
    protocol = replace(PROTOCOL, tasks=("handle-press",))
    here = evaluate(Pusher(), protocol, tmp_path / "here", name="pusher", processes=1)
    there = evaluate(Pusher(), protocol, tmp_path / "there", name="pusher", processes=1, sim_python=sys.executable)
    assert without_time(there) == without_time(here)
    assert there.versions == here.versions and "mujoco" in there.versions
    with pytest.raises(UserError, match="cannot be run as a Python interpreter"):
        evaluate(Pusher(), protocol, tmp_path / "nowhere", name="pusher", sim_python=tmp_path / "python")
    with pytest.raises(UserError, match="later with NumPy"):
        evaluate(Pusher(), protocol, tmp_path / "bare", name="pusher", sim_python="/bin/false")
    assert not (tmp_path / "bare").exists(), "nothing is begun"


def test_a_policy_for_another_robot_is_told(tmp_path: Path) -> None:
    class Wrist(Pusher):
        cameras = ("main", "wrist")

    with pytest.raises(UserError, match="camera 'wrist', which metaworld does not have"):
        evaluate(Wrist(), PROTOCOL, tmp_path / "wrist", name="wrist")

    class Overstated(Pusher):
        def sample_actions(self, observation: Observation, noise: torch.Tensor | None = None) -> torch.Tensor:
            return super().sample_actions(observation, noise)[..., :3]

    with pytest.raises(UserError, match=r"expected \(1, horizon, 4\)"):
        evaluate(Overstated(), PROTOCOL, tmp_path / "short", name="short", environments=1)
    with pytest.raises(UserError, match="have 7 components, those of metaworld have 4"):
        evaluate(RandomPolicy(7), PROTOCOL, tmp_path / "panda", name="panda")
    assert not (tmp_path / "wrist").exists() and not (tmp_path / "panda").exists()


def test_presets_fix_the_protocol_and_give_way_to_what_is_said() -> None:
    official = Protocol.preset("official", "metaworld", episodes=3, image_size=None)
    assert (official.quality, official.image_size, official.episodes) == ("official", 480, 3)
    assert len(official.tasks) == 50 and len(official.plan()) == 150
    quick = Protocol.preset("quick", "metaworld", ["reach"])
    assert (quick.quality, quick.episodes, quick.tasks) == ("fast", 10, ("reach",))
    judged = Protocol.preset("official", "simpler_widowx", options=None)
    assert judged.options == {"judged": "at_the_end"} and len(judged.plan()) == 4 * 24
    assert all(episode.recorded for episode in judged.plan())
    assert Protocol.preset("official", "simpler_widowx", options={"judged": "at_once"}).options["judged"] == "at_once"
    with pytest.raises(UserError, match="has 24 initial states"):
        Protocol.preset("quick", "simpler_widowx", episodes=25)
    with pytest.raises(UserError, match="at least 16 pixels"):
        Protocol("metaworld", ("reach",), image_size=0)
    with pytest.raises(UserError, match="no option called 'gravity'"):
        Protocol("metaworld", ("reach",), options={"gravity": 0})
