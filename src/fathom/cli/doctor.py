"""``fathom doctor``."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Doctor:
    """Check Python, torch, the renderer, the codecs and the benchmarks, and say how to mend what is missing."""

    suite: str | None = None
    """Check one benchmark alone, by building a task of it and looking at it."""

    sim_python: Path | None = None
    """A Python that has the benchmark's simulator, where this one has not."""

    def run(self) -> int:
        from rich.console import Console

        from fathom.doctor import examine, examine_suite, is_healthy

        console = Console(highlight=False)
        findings = []
        for finding in examine_suite(self.suite, self.sim_python) if self.suite else examine():
            console.print(finding.line(), soft_wrap=True)  # each line appears as soon as it is known
            findings.append(finding)
        return 0 if is_healthy(findings) else 1
