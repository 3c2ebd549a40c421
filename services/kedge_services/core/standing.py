"""What the registry knows of a model, and what one step changes.

See :mod:`kedge_services.core.succession` for the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kedge import ModelVersion, Reference
from kedge.errors import Reason
from kedge_services.core.promotion import CHALLENGE, WATCH, Differences, PairedTest

__all__ = ["Contest", "Happening", "Standing", "Step"]

Happening = Literal[
    "nothing", "failed", "repeated", "refused", "shadowed", "rejected", "promoted", "rolled-back",
    "retired", "paused", "resumed",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contest:
    """A version in shadow and its pairs with the champion so far.

    In a ``watch`` it is the champion's predecessor, otherwise a challenger.
    """

    version: str
    champion: str
    watch: bool = False
    differences: Differences = field(default_factory=dict)

    @property
    def test(self) -> PairedTest:
        """Give what this version has to show."""
        return WATCH if self.watch else CHALLENGE


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything the registry knows of one model.

    Attributes
    ----------
    sequence
        The last one written.
    numbered
        The largest k of the versions ``k1, k2, …`` assigned here.
    former
        Earlier champions, the latest last; a rollback goes back to it.
    commands
        Ids of the commands answered last.
    versions
        Every version as it was last written.
    """

    model: str
    sequence: int = 0
    numbered: int = 0
    champion: str | None = None
    former: tuple[str, ...] = ()
    contests: tuple[Contest, ...] = ()
    paused_until_ms: int = 0
    commands: tuple[str, ...] = ()
    versions: Mapping[str, ModelVersion] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        """Give JSON data of all but the versions."""
        return {
            "sequence": self.sequence,
            "numbered": self.numbered,
            "champion": self.champion,
            "former": self.former,
            "paused_until_ms": self.paused_until_ms,
            "commands": self.commands,
            "contests": [
                {
                    "version": c.version,
                    "champion": c.champion,
                    "watch": c.watch,
                    "differences": {str(d): n for d, n in sorted(c.differences.items())},
                }
                for c in self.contests
            ],
        }

    @classmethod
    def decode(
        cls, model: str, data: Mapping[str, Any], versions: Mapping[str, ModelVersion]
    ) -> Standing:
        """Read what :meth:`encode` gave."""
        contests = tuple(
            Contest(**{**c, "differences": {int(d): n for d, n in c["differences"].items()}})
            for c in data["contests"]
        )
        former, commands = tuple(data["former"]), tuple(data["commands"])
        rest = {**data, "contests": contests, "former": former, "commands": commands}
        return cls(model=model, versions=versions, **rest)


@dataclass(frozen=True, slots=True)
class Step:
    """What came of a candidate, a command or a look at the evidence.

    Attributes
    ----------
    written
        Versions to be published, in order.  A new champion comes before the
        old one steps down, so that no reader ever finds none.
    reference
        Belongs to an accepted version; to be published before it.
    refused
        The record could not be obeyed: reason and sentence of its dead letter.
    note
        What happened, in a sentence.
    """

    standing: Standing
    happened: Happening = "nothing"
    note: str = ""
    written: tuple[ModelVersion, ...] = ()
    reference: Reference | None = None
    refused: tuple[Reason, str] | None = None
