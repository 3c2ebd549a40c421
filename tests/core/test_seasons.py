"""Seasonal references: hours by a zone's clocks, strata, mixtures, and how much they vary."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kedge import FeatureReference, Monitor, Reference
from kedge.codec import decode, encode
from kedge_services.core.binning import Binner, FeatureBinner, bin_values
from kedge_services.core.budget import Budget
from kedge_services.core.detectors import DriftJudge
from kedge_services.core.references import build_reference, learn_counts
from kedge_services.core.seasons import (
    EXTRAS,
    HOURS,
    SeasonalReferences,
    hour_of_week,
    pack,
    seasonal_reference,
    slots,
    unpack,
)
from kedge_services.core.strata import MOST_BYTES, RowTimes, counted_by_slot, slot_counts

OSLO = "Europe/Oslo"
HOUR_MS = 3_600_000
WEEK_MS = HOURS * HOUR_MS
#: A Monday, 0h UTC.
MONDAY_MS = 1_767_571_200_000


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


# ------------------------------------------------------------------------------ clocks


@pytest.mark.parametrize("begin", ["2026-03-28", "2026-10-24", "2026-01-01", "1999-12-30"])
@pytest.mark.parametrize("zone", [OSLO, "UTC", "Asia/Kolkata", "America/New_York"])
def test_hours_are_those_of_the_zones_clocks(begin: str, zone: str) -> None:
    first = datetime.fromisoformat(begin).replace(tzinfo=UTC)
    moments = [first + timedelta(minutes=17 * i) for i in range(400)]
    local = [moment.astimezone(ZoneInfo(zone)) for moment in moments]
    times = [round(moment.timestamp() * 1000) for moment in moments]
    found = slots(times, zone)
    assert (found % HOURS).tolist() == [clock.weekday() * 24 + clock.hour for clock in local]
    assert [hour_of_week(ms, zone) for ms in times] == (found % HOURS).tolist()
    # Every Monday begins a week.
    monday = [clock.date() - timedelta(days=clock.weekday()) for clock in local]
    assert len(set(zip(found // HOURS, monday, strict=True))) == len(set(monday))


def test_in_spring_an_hour_is_missing_and_in_autumn_one_is_there_twice() -> None:
    # UTC    00:30  01:30 | 02:30          UTC    23:30  00:30 | 01:30  02:30
    # Oslo   01:30  03:30 | 04:30          Oslo   01:30  02:30 | 02:30  03:30
    sunday = 6 * 24
    spring = [at(f"2026-03-29T{hour:02}:30Z") for hour in range(3)]
    assert (slots(spring, OSLO) % HOURS - sunday).tolist() == [1, 3, 4]
    autumn = [at("2026-10-24T23:30Z"), *(at(f"2026-10-25T{hour:02}:30Z") for hour in range(3))]
    assert (slots(autumn, OSLO) % HOURS - sunday).tolist() == [1, 2, 2, 3]
    # What people do at eight in the morning is the same stratum in winter and in summer.
    assert hour_of_week(at("2026-03-27T07:00Z"), OSLO) == hour_of_week(
        at("2026-04-03T06:00Z"), OSLO
    )


@given(st.lists(st.integers(0, 1 << 40)))
def test_packed_counts_come_back(counts: list[int]) -> None:
    assert unpack(pack(np.array(counts, dtype=np.int64))).tolist() == counts


# ------------------------------------------------------------------------------ strata


def table(weeks: int, per_hour: int, *, seed: int = 0) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Rows that mean something else by day than by night, and a category likewise."""
    chance = np.random.default_rng(seed)
    times = MONDAY_MS + chance.integers(0, weeks * WEEK_MS, weeks * HOURS * per_hour)
    times.sort()
    is_day = (slots(times, "UTC") % 24 >= 8) & (slots(times, "UTC") % 24 < 20)
    x = chance.normal(size=times.size) + 3 * is_day
    letters = np.where(chance.random(times.size) < np.where(is_day, 0.8, 0.2), "a", "b")
    return times, {
        "x": [None if chance.random() < 0.02 else float(v) for v in x],
        "c": letters.tolist(),
        "still": [1.0] * times.size,
        "none": [None] * times.size,
    }


KINDS: dict[str, Any] = {"x": "numeric", "c": "categorical", "still": "numeric", "none": "numeric"}


def seasonal(times: Any, columns: Any, **more: Any) -> Reference:
    timezone = more.pop("timezone", "UTC")
    return build_reference(
        model="m", version="1", columns=columns, kinds={name: KINDS[name] for name in columns},
        times=RowTimes(timezone, times), **more,
    )  # fmt: skip


def strata_of(feature: FeatureReference) -> NDArray[np.int64]:
    assert feature.seasonal is not None
    return unpack(feature.seasonal.counts).reshape(-1, len(feature.counts) + len(EXTRAS))


def test_every_hour_with_rows_enough_has_counts_of_its_own() -> None:
    times, columns = table(4, 150)
    reference = seasonal(times, columns)
    assert reference.seasons is not None
    assert reference.seasons.hours == reference.seasons.answers == list(range(HOURS))
    hours = slots(times, "UTC") % HOURS
    for name, feature in reference.features.items():
        by_hour = strata_of(feature)
        for hour in (0, 57, 167):
            mine = [columns[name][i] for i in np.flatnonzero(hours == hour)]
            counts = bin_values(feature, mine)
            assert by_hour[hour].tolist() == [
                *counts.bins.tolist(), *(getattr(counts, extra) for extra in EXTRAS)
            ]  # fmt: skip
    assert decode(Reference, encode(reference)) == reference


def test_an_hour_with_few_rows_is_counted_with_others() -> None:
    # Monday to Saturday as above; Sundays in two weeks of four only, and no Wednesday 3h.
    times, columns = table(4, 150)
    slot = slots(times, "UTC")
    hour = slot % HOURS
    kept = (hour // 24 < 6) | (slot // HOURS % 2 == 0)
    kept &= hour != 2 * 24 + 3
    reference = seasonal(times[kept], {"c": [columns["c"][i] for i in np.flatnonzero(kept)]})
    assert reference.seasons is not None
    groups = reference.seasons.hours
    # Of Sunday's hours there are two weeks: they go with Saturday's, which have their own.
    assert groups[5 * 24 + 7] != groups[6 * 24 + 7]
    by_group = strata_of(reference.features["c"])
    weekend = kept & (hour % 24 == 7) & (hour // 24 >= 5)
    assert by_group[groups[6 * 24 + 7]].sum() == weekend.sum()
    weekdays = kept & (hour % 24 == 3) & (hour // 24 < 5)
    assert by_group[groups[2 * 24 + 3]].sum() == weekdays.sum()
    assert reference.lineage["hours_of_week"] == {
        "own": 143, "weekdays or weekend": 25, "every day": 0, "all hours": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("weeks", "per_hour", "level"), [(3, 50, "every day"), (1, 600, "all")])
def test_short_tables_are_told_apart_less(weeks: int, per_hour: int, level: str) -> None:
    times, columns = table(weeks, per_hour)
    found = seasonal(times, {"c": columns["c"]}).lineage["hours_of_week"]
    if level == "all":
        # Three weeks are needed to see what repeats.
        assert found["all hours"] == HOURS
    else:
        assert found["weekdays or weekend"] == 120
        assert found["every day"] == 48


def test_strata_of_a_wide_table_are_coarser_so_that_the_reference_fits_into_a_record() -> None:
    times, columns = table(3, 200)
    wide = {f"c{i}": columns["c"] for i in range(2)}
    tall = {f"x{i}": [i * 1e-9 + (v or 0) for v in columns["x"]] for i in range(12)}
    kinds: dict[str, Any] = dict.fromkeys(wide, "categorical") | dict.fromkeys(tall, "numeric")
    reference = build_reference(
        model="m", version="1", columns=wide | tall, kinds=kinds, times=RowTimes("UTC", times)
    )
    assert reference.lineage["hours_of_week"]["own"] == HOURS
    taken = sum(len(f.seasonal.counts) for f in reference.features.values() if f.seasonal)
    # 12 numeric features are estimated on the safe side, within a half.
    assert 0.5 < taken / (12 * 168 * (32 + 7) * 4 / 3 + 2 * 168 * 11 * 4 / 3) < 1.5
    assert taken * 600 / 14 < 2 * MOST_BYTES


def brute_dispersion(kind: str, bins: NDArray[np.int64], places: Any, groups: Any) -> float:
    """The raw value by its definition; ``groups`` gives (hour, week) of every row."""
    values = []
    size = bins.size
    rows = [(h, w, p) for (h, w), p in zip(groups, places, strict=True) if p < size]
    weeks_of: dict[int, dict[int, Counter[int]]] = {}
    for hour, week, place in rows:
        weeks_of.setdefault(hour, {}).setdefault(week, Counter())[place] += 1
    for weeks in weeks_of.values():
        whole: Counter[int] = sum(weeks.values(), Counter())
        n = sum(whole.values())
        for place in range(size - (kind == "numeric")):
            wanted = range(place + 1) if kind == "numeric" else [place]
            share = sum(whole[p] for p in wanted) / n
            if kind == "numeric" and not 0.1 <= share <= 0.9:
                continue
            if kind == "categorical" and (share * n / len(weeks) < 5 or share == 1):
                continue
            spread = sum(
                sum(c.values()) * (sum(c[p] for p in wanted) / sum(c.values()) - share) ** 2
                for c in weeks.values()
            )
            values.append(spread / ((len(weeks) - 1) * share * (1 - share)))
    return math.fsum(values) / len(values)


def test_dispersion_is_what_its_definition_says() -> None:
    times, columns = table(3, 220)
    slot = slots(times, "UTC")
    cells = list(zip((slot % HOURS).tolist(), (slot // HOURS).tolist(), strict=True))
    level = np.random.default_rng(4).normal(size=3 * HOURS)[slot - slot.min()].tolist()
    batches = {
        "x": [None if v is None else v + d for v, d in zip(columns["x"], level, strict=True)],
        "c": np.where(np.array(level) > 1, "z", columns["c"]).tolist(),
        "still": columns["still"],
    }
    for data, expected in ((columns, (0.9, 1.1)), (batches, (10, 100))):
        reference = seasonal(times, {"x": data["x"], "c": data["c"], "still": data["still"]})
        assert reference.lineage["hours_of_week"]["own"] == HOURS
        for name in ("x", "c"):
            feature = reference.features[name]
            places = FeatureBinner(feature).places(data[name])
            raw = brute_dispersion(feature.kind, np.array(feature.counts), places, cells)
            assert expected[0] < raw < expected[1]
            assert feature.seasonal is not None
            assert feature.seasonal.dispersion == pytest.approx(max(1.0, raw), rel=1e-8)
        still = reference.features["still"].seasonal
        assert still is not None
        assert still.dispersion == 1.0


# ---------------------------------------------------------------------------- mixtures


def test_the_mixture_is_that_of_the_windows_rows() -> None:
    times, columns = table(4, 150)
    reference = seasonal(times, columns)
    rows = {3: 40, 9: 250, 10: 7, 100: 0}
    held = seasonal_reference(reference, rows)
    for name, feature in reference.features.items():
        strata = strata_of(feature).tolist()
        bins = len(feature.counts)
        totals = {h: sum(strata[h][: bins + 5]) for h in rows}
        n = sum(rows.values())
        n_eff = 1 / sum(Fraction(k, n) ** 2 / totals[h] for h, k in rows.items())
        expected = [
            n_eff * sum(Fraction(k, n) * Fraction(strata[h][b], totals[h]) for h, k in rows.items())
            for b in range(bins + len(EXTRAS))
        ]
        mine = held.features[name]
        found = [*mine.counts, mine.null, mine.nan, mine.inf, mine.type_error]
        assert all(abs(a - b) <= Fraction(1, 2) for a, b in zip(found, expected, strict=False))
        assert mine.total == sum(found)
        assert (mine.cuts, mine.blocks, mine.seasonal) == (feature.cuts, [], None)
        assert feature.seasonal is not None
        assert mine.dispersion == feature.seasonal.dispersion


def test_a_window_of_one_stratum_is_held_to_its_very_counts() -> None:
    times, columns = table(4, 150)
    reference = seasonal(times, columns)
    held = seasonal_reference(reference, {42: 9})
    for name, feature in reference.features.items():
        assert held.features[name].counts == strata_of(feature)[42][: len(feature.counts)].tolist()
    assert held.reference_id != reference.reference_id
    assert seasonal_reference(reference, {}) == reference


def test_how_features_go_together_is_not_held_to_all_hours() -> None:
    times, columns = table(4, 150)
    wanted = {name: columns[name] for name in ("x", "c")}
    kinds: dict[str, Any] = {name: KINDS[name] for name in wanted}
    plain = build_reference(model="m", version="1", columns=wanted, kinds=kinds)
    assert plain.projection is not None
    # As when it was learnt: counted before its hours were told apart.
    learnt = seasonal(times, wanted).model_copy(update={"projection": plain.projection})
    assert seasonal_reference(learnt, {12: 100}).projection is None


def test_an_hour_without_values_of_a_feature_says_nothing_about_it() -> None:
    # Only columns whose extras count as values of any kind: here x has rows of hour 5 in no way.
    times, columns = table(4, 150)
    reference = seasonal(times, {"c": columns["c"]})
    held = seasonal_reference(reference, {0: 10, 1: 20})
    assert sum(held.features["c"].counts) > 600
    with pytest.raises(ValueError, match="no strata"):
        seasonal_reference(build_reference(model="m", version="1", columns={"c": ["a"]},
                                           kinds={"c": "categorical"}), {0: 1})  # fmt: skip


def test_answers_have_hours_of_their_own() -> None:
    times, columns = table(4, 150)
    reference = build_reference(
        model="m", version="1", columns={"c": columns["c"]}, kinds={"c": "categorical"},
        predictions=["a", "b"] * 300, scores=[0.25, 0.75] * 300, labels=["a"] * 600,
        times=RowTimes("UTC", times, times[:600]),
    )  # fmt: skip
    assert reference.seasons is not None
    assert set(reference.seasons.answers) == {0}
    held = seasonal_reference(reference, {9: 100})
    for before, now in (
        (reference.prediction, held.prediction), (reference.score, held.score),
        (reference.label, held.label),
    ):  # fmt: skip
        assert before is not None
        assert now is not None
        assert now.counts == before.counts


def test_a_learnt_reference_gets_the_strata_a_table_would() -> None:
    times, columns = table(3, 170)
    whole = seasonal(times, columns, timezone=OSLO)
    bins = whole.model_copy(
        update={"seasons": None, "features": {
            name: f.model_copy(update={"seasonal": None}) for name, f in whole.features.items()
        }}
    )  # fmt: skip
    slot, binner = slots(times, OSLO), Binner(whole)
    counted: dict[int, str] = {}
    total = None
    for one in np.unique(slot):
        mine = np.flatnonzero(slot == one)
        delta = binner.count({n: [v[i] for i in mine] for n, v in columns.items()}, rows=mine.size)
        counted[int(one)] = pack(slot_counts(delta, bins))
        if total is None:
            total = delta
        else:
            total.add(delta)
    assert total is not None
    learnt = counted_by_slot(learn_counts(bins, total), counted, OSLO)
    assert learnt.seasons == whole.seasons
    for name, feature in learnt.features.items():
        assert feature.seasonal == whole.features[name].seasonal


# ------------------------------------------------------------------------------ verdicts

MONITOR = Monitor.model_validate(
    {
        "model": "m", "task": "binary", "classes": ["a", "b"],
        "features": {"x": "numeric", "c": "categorical"},
        "windows": {"pane": "1h", "scales": [1, 2, 4, 8]},
        "reference": {"from": "same-hour"},
    }
)  # fmt: skip


def test_day_and_night_are_no_drift_but_a_night_like_a_day_is() -> None:
    times, columns = table(4, 150)
    wanted = {name: columns[name] for name in ("x", "c")}
    reference = seasonal(times, wanted)
    later, live = table(1, 150, seed=1)
    later = later + 4 * WEEK_MS
    references, hour = SeasonalReferences(), slots(later, "UTC")
    plain = alarms = 0
    for first in range(int(hour.min()), int(hour.min()) + HOURS, 4):
        mine = np.flatnonzero((hour >= first) & (hour < first + 4))
        rows = Counter((later[mine] // HOUR_MS * HOUR_MS).tolist())
        delta = Binner(reference).count(
            {name: [live[name][i] for i in mine] for name in wanted}, rows=mine.size
        )
        held = references.of(reference, MONITOR, rows)
        alarms += bool(DriftJudge(held).judge(delta, budget=Budget.of(MONITOR)).detections)
        plain += bool(DriftJudge(reference).judge(delta, budget=Budget.of(MONITOR)).detections)
        if first % 24 == 12:
            night = {start - 12 * HOUR_MS: number for start, number in rows.items()}
            held = references.of(reference, MONITOR, night)
            found = DriftJudge(held).judge(delta, budget=Budget.of(MONITOR)).detections
            assert {d.feature for d in found} == {"x", "c"}
    assert alarms == 0
    assert plain == 42


def test_a_monitor_of_another_kind_leaves_the_reference_alone() -> None:
    times, columns = table(1, 20)
    reference = seasonal(times, {"c": columns["c"]})
    plain = MONITOR.model_copy(update={"reference": Monitor.model_fields["reference"].default})
    assert SeasonalReferences().of(reference, plain, {MONDAY_MS: 3}) is reference
    without = reference.model_copy(update={"seasons": None})
    assert SeasonalReferences().of(without, MONITOR, {MONDAY_MS: 3}) is without
