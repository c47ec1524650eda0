"""What a worker process has of a suite, asked before anything long is begun."""

from fathom.simulation import find_suite, make_env


def versions(suite: str) -> dict[str, str]:
    """Of this Python and of what decides an episode's outcome.

    Raises:
        UserError: the suite cannot be used here.
    """
    found = find_suite(suite)
    found.prepare()
    return found.versions()


def prepare(suite: str) -> None:
    """Raise a UserError if the suite cannot be used here."""
    find_suite(suite).prepare()


def look(suite: str, task: str) -> str:
    """Build a task, and tell what the first look at it shows.

    Raises:
        UserError: the suite cannot be used here.
        RuntimeError: the picture shows nothing.
    """
    env = make_env(suite, task, depth=True)
    seen, info = env.reset(seed=0)
    env.close()
    depth, picture = seen["depth"]["main"], seen["images"]["main"]
    if picture.std() < 1:
        raise RuntimeError("the picture is of one colour: the renderer does not draw")
    return f"“{info['instruction']}”, seen from {depth.min():.2f} to {depth.max():.2f} m"
