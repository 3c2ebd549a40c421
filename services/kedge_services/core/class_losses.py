"""How a version erred on each class of its held-out rows: what recall and precision are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kedge.base import Scalar, label_text

__all__ = ["class_losses", "precision_losses", "recall_losses"]


def class_losses(
    predictions: Sequence[Scalar | None], labels: Sequence[Scalar | None], *, errors: float
) -> dict[str, float]:
    """Count, by class, the labels and the missed of them, the answers and the wrong of them.

    Parameters
    ----------
    predictions, labels
        Of the same rows.
    errors
        How many of the held-out rows were wrong; with another number the predictions
        are not those the losses are of, and nothing is known.

    >>> class_losses(["a", "b", "b"], ["a", "a", "b"], errors=1)["missed:a"]
    1.0
    """
    if len(predictions) != len(labels):
        return {}
    found: dict[str, float] = {}
    wrong = 0
    for prediction, label in zip(predictions, labels, strict=True):
        if prediction is None or label is None:
            return {}
        said, true = label_text(prediction), label_text(label)
        is_wrong = said != true
        wrong += is_wrong
        for name, by in (
            (f"labelled:{true}", 1), (f"missed:{true}", is_wrong),
            (f"answered:{said}", 1), (f"wrong:{said}", is_wrong),
        ):  # fmt: skip
            found[name] = found.get(name, 0.0) + by
    return found if wrong == errors else {}


def recall_losses(loss: Mapping[str, float], name: str) -> tuple[float, float]:
    """Give the labels of a class among the reference's rows, and the missed of them."""
    return loss.get(f"labelled:{name}", 0.0), loss.get(f"missed:{name}", 0.0)


def precision_losses(loss: Mapping[str, float], name: str) -> tuple[float, float]:
    """Give the answers with a class among the reference's rows, and the wrong of them."""
    return loss.get(f"answered:{name}", 0.0), loss.get(f"wrong:{name}", 0.0)
