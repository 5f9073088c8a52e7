"""Which references a leaderboard has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headsweep.data.prompts import Prompts


@dataclass(frozen=True)
class References:
    """Names of the references in `finalists.references`, and the prompts of zero-shot."""

    names: tuple[str, ...] = ()
    prompts: Prompts | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what `provenance.json` holds under `references`; {} without references."""
        if not self.names:
            return {}
        digest = {} if self.prompts is None else {"prompts_sha256": self.prompts.digest}
        return {"references": {"names": list(self.names), **digest}}


NONE = References()


def recorded_names(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the references on a board; none on boards of before."""
    recorded = provenance.get("references")
    return () if recorded is None else tuple(recorded["names"])
