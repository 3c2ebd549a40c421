"""Detectors of a rise of the error rate: false alarms, delays and cost."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from river import drift
from river.drift import binary

from bench_stats.figures import Figure, Result, Target, mean, quantile
from bench_stats.scale import Scale
from kedge_services.core.sequential import LossDetector

__all__ = ["run"]

Errors = NDArray[np.int64]
#: Losses between false alarms, at least: e-SR's threshold.
LOSSES_PER_ALARM = 1e5
REFERENCE, BEFORE, AFTER = 5_000, 2_000, 10_000
CHANGES = ((0.2, 0.3), (0.2, 0.4), (0.05, 0.10))
RATES = (0.05, 0.2)
KEDGE = "Kedge e-SR, cells of 25"
ADWIN = "River ADWIN"
#: Slow by a factor of hundreds, so it sees fewer events; it remembers only 100 of them.
SLOW = "River KSWIN"
SLOW_REFERENCE, SLOW_AFTER, SLOW_SEEDS = 500, 3_000, 5
_COST = "us/event"


class Detector(Protocol):
    """Something that has seen a reference and gives the places of its alarms."""

    def alarms(self, errors: Errors) -> Iterator[int]:
        """Give, for every alarm, how many of the events had been seen."""


class Sequential:
    """Kedge's, held to the reference's errors; fed in cells, begun anew after an alarm."""

    def __init__(self, reference: Errors, cell: int) -> None:
        self._detector = LossDetector.of_errors(float(reference.size), float(reference.sum()))
        self._cell = cell

    def alarms(self, errors: Errors) -> Iterator[int]:
        cell = self._cell
        sums = np.add.reduceat(errors, np.arange(0, errors.size, cell)).tolist()
        for number, wrong in enumerate(sums):
            n = min(cell, errors.size - number * cell)
            losses = [(0.0, n - wrong), (1.0, wrong)]
            evidence = self._detector.update(losses, start_ms=number)
            if evidence is not None and evidence >= LOSSES_PER_ALARM:
                self._detector.reset(number)
                yield number * cell + n


class River:
    """One of River's; the reference is what it sees first."""

    def __init__(self, reference: Errors, make: Callable[[], Any]) -> None:
        self._detector = make()
        for error in reference.tolist():
            self._detector.update(error)

    def alarms(self, errors: Errors) -> Iterator[int]:
        detector = self._detector
        for number, error in enumerate(errors.tolist(), 1):
            detector.update(error)
            if detector.drift_detected:
                yield number


def _detectors(scale: Scale) -> dict[str, Callable[[Errors], Detector]]:
    river: dict[str, Callable[[], Any]] = {
        ADWIN: drift.ADWIN,
        "River DDM": binary.DDM,
        "River EDDM": binary.EDDM,
        "River HDDM_A": binary.HDDMA,
        "River HDDM_W": binary.HDDMW,
        "River Page-Hinkley": lambda: drift.PageHinkley(mode="up"),
    }
    if scale.has_peers:
        river[SLOW] = lambda: drift.KSWIN(seed=0)
    found: dict[str, Callable[[Errors], Detector]] = {
        KEDGE: lambda reference: Sequential(reference, 25),
        "Kedge e-SR, cells of 1": lambda reference: Sequential(reference, 1),
    }
    for name, make in river.items():
        found[name] = lambda reference, make=make: River(reference, make)  # type: ignore[misc]
    return found


def run(scale: Scale) -> Result:
    """Run every detector over the same streams of errors."""
    detectors = _detectors(scale)
    figures = [
        *_false_alarms(detectors, scale),
        *_delays(detectors, scale),
        *_costs(detectors, scale),
    ]
    adwin = {f.column: f.value for f in figures if f.row == ADWIN}
    targets = [Target(KEDGE, _alarms_at(p), 1.0) for p in RATES]
    targets += [
        Target(KEDGE, _delay_of(p, q), 0.8 * limit)
        for p, q in CHANGES
        if (limit := adwin[_delay_of(p, q)]) is not None
    ]
    order = list(detectors)
    figures.sort(key=lambda figure: order.index(figure.row))
    return Result(
        "ERROR",
        "Error-rate detectors: false alarms per 100,000 events, median delay in events, cost",
        figures,
        targets,
        notes=[
            (
                f"Each detector first sees {REFERENCE:,} errors at the old rate (to Kedge's they "
                f"are the reference); e-SR alarms at R >= {LOSSES_PER_ALARM:,.0f} and is begun "
                "anew after an alarm. False alarms: Poisson-like counts, bootstrap over seeds."
            ),
            (
                f"Delay: {BEFORE:,} events at the old rate, then up to {AFTER:,} at the new; "
                "alarms before the change are not counted as its detection; an even later one is "
                "missed. The targets for delays are 80 % of ADWIN's median here."
            ),
            (
                f"{SLOW} sees fewer and shorter streams for its cost: {SLOW_REFERENCE} events "
                f"before the change and {SLOW_AFTER:,} after, {SLOW_SEEDS} seeds. Page-Hinkley "
                "looks upwards. us/event: median of rounds, detectors taking turns; the interval "
                "is the range."
            ),
        ],
    )


def _alarms_at(p: float) -> str:
    return f"false alarms, p = {p}"


def _delay_of(p: float, q: float) -> str:
    return f"delay {p} to {q}"


def _false_alarms(
    detectors: dict[str, Callable[[Errors], Detector]], scale: Scale
) -> Iterator[Figure]:
    rows, seeds = scale.of(100_000, 20_000, 2_000), scale.of(20, 3, 1)
    for (name, make), p in itertools.product(detectors.items(), RATES):
        is_slow = name == SLOW
        length = min(rows, 10_000) if is_slow else rows
        per_run = []
        for seed in range(min(seeds, 2) if is_slow else seeds):
            rng = np.random.default_rng(seed)
            reference = _errors(rng, p, SLOW_REFERENCE if is_slow else REFERENCE)
            found = sum(1 for _ in make(reference).alarms(_errors(rng, p, length)))
            per_run.append(found * 100_000 / length)
        if sum(per_run):
            yield mean(name, _alarms_at(p), per_run, digits=1)
        else:
            # No alarm at all: the upper end is what 3 of so many events would be.
            highest = 3 * 100_000 / (length * len(per_run))
            yield Figure(name, _alarms_at(p), 0.0, 0.0, highest, len(per_run))


def _delays(detectors: dict[str, Callable[[Errors], Detector]], scale: Scale) -> Iterator[Figure]:
    seeds = scale.of(40, 8, 2)
    for (name, make), (p, q) in itertools.product(detectors.items(), CHANGES):
        delays: list[float | None] = []
        is_slow = name == SLOW
        for seed in range(2_000, 2_000 + (min(seeds, SLOW_SEEDS) if is_slow else seeds)):
            rng = np.random.default_rng(seed)
            reference = _errors(rng, p, REFERENCE)
            stream = np.concatenate([_errors(rng, p, BEFORE), _errors(rng, q, AFTER)])
            before = BEFORE
            if is_slow:
                reference, before = reference[-SLOW_REFERENCE:], 0
                stream = stream[BEFORE : BEFORE + SLOW_AFTER]
            alarms = (at - before for at in make(reference).alarms(stream) if at > before)
            delays.append(next(alarms, None))
        yield quantile(name, _delay_of(p, q), delays)


def _costs(detectors: dict[str, Callable[[Errors], Detector]], scale: Scale) -> Iterator[Figure]:
    rows, rounds = scale.of(50_000, 10_000, 1_000), scale.of(7, 5, 3)
    rng = np.random.default_rng(0)
    reference, errors = _errors(rng, 0.2, SLOW_REFERENCE), _errors(rng, 0.2, rows)
    made = {name: make(reference) for name, make in detectors.items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, detector in made.items():
            part = errors[: rows // 100] if name == SLOW else errors
            started = time.perf_counter()
            for _ in detector.alarms(part):
                pass
            times[name].append((time.perf_counter() - started) / part.size * 1e6)
    for name, found in times.items():
        found.sort()
        middle = found[len(found) // 2]
        yield Figure(name, _COST, middle, found[0], found[-1], len(found), digits=2)


def _errors(rng: np.random.Generator, p: float, rows: int) -> Errors:
    return (rng.random(rows) < p).astype(np.int64)
