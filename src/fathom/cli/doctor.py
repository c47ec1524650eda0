"""``fathom doctor``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Doctor:
    """Check Python, torch, the renderer and the codecs, and say how to mend what is missing."""

    def run(self) -> int:
        from rich.console import Console

        from fathom.doctor import examine, is_healthy

        console = Console(highlight=False)
        findings = []
        for finding in examine():  # each line appears as soon as it is known
            console.print(finding.line(), soft_wrap=True)
            findings.append(finding)
        return 0 if is_healthy(findings) else 1
