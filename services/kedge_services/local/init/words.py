"""What the names of columns say."""

from __future__ import annotations

import re

__all__ = [
    "CODE",
    "COUNT",
    "IDENTIFIER",
    "LABEL",
    "LABEL_FLAT",
    "NEGATIVE",
    "POSITIVE",
    "PREDICTION",
    "PROBABILITY",
    "SCORE",
    "SPLIT",
    "SPLIT_NAME",
    "TIME",
    "flat",
    "words",
]


def _all(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")

#: Names that are those of labels, written together.
LABEL_FLAT = _all(
    "label labels class target y ytrue truelabel trueclass groundtruth gt actual actuals truth "
    "outcome observed response"
)
#: Words in the names of labels.
LABEL = _all(
    "label target truth actual outcome class churn churned fraud default defaulted clicked "
    "converted survived approved spam"
)
PREDICTION = _all("pred preds predict predicted prediction predictions yhat forecast forecasted")
PROBABILITY = _all("proba probas prob probs probability probabilities")
SCORE = PROBABILITY | {"score", "scores", "confidence"}
TIME = _all(
    "time timestamp ts datetime date at when event eventtime day ms millis epoch occurred created"
)
IDENTIFIER = _all("id ids uuid guid key identifier index idx rownum rowid row")
#: Numbers that are names.
CODE = _all("zip zipcode postcode postal code type category kind group")
#: Small whole numbers that are amounts all the same.
COUNT = _all(
    "num number n count counts qty quantity total amount size length age years months days hours "
    "minutes rooms bedrooms bathrooms children dependents members visits clicks items level rank "
    "rating sum avg mean ave max min"
)
SPLIT_NAME = _all("partition split fold subset dataset")
SPLIT = _all(
    "train training test testing validation valid val dev holdout eval evaluation reference "
    "analysis production current"
)
POSITIVE = _all(
    "yes true up positive pos fraud fraudulent churn churned default bad approve approved spam "
    "sick disease malignant anomaly failure fail click buy high y t won win survived >50k"
)
NEGATIVE = _all(
    "no false down negative neg ok normal genuine legit legitimate good decline declined ham "
    "healthy benign low n f lost lose none <=50k"
)


def words(name: str) -> tuple[str, ...]:
    """Split a name into its words.

    >>> words("clf_target"), words("yPredProba"), words("AveBedrms2")
    (('clf', 'target'), ('y', 'pred', 'proba'), ('ave', 'bedrms', '2'))
    """
    return tuple(part.lower() for part in _PART.findall(name))


def flat(name: str) -> str:
    """Write a name's words together.

    >>> flat("Y_true")
    'ytrue'
    """
    return "".join(words(name))
