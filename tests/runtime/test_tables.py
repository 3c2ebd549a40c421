from __future__ import annotations

from kedge import Event, ModelVersion, Monitor, Reference
from kedge.codec import encode
from kedge.panes import FeatureReference
from kedge_services.runtime.ports import Record
from kedge_services.runtime.tables import MonitorTable, ReferenceTable, VersionTable


def record(key: str, event: Event | bytes | None) -> Record:
    value = encode(event) if isinstance(event, Event) else event
    return Record("table", 0, 0, 0, key.encode(), value, ())


def monitor(effective_ms: int, model: str = "m") -> Record:
    declared = Monitor.model_validate(
        {"model": model, "task": "regression", "features": {"x": "numeric"}}
    )
    return record(model, declared.model_copy(update={"effective_ms": effective_ms}))


def reference(reference_id: str, effective_ms: int, rows: int = 10) -> Record:
    event = Reference(
        reference_id=reference_id,
        model="m",
        version="1",
        effective_ms=effective_ms,
        origin="training",
        rows=rows,
        features={},
    )
    return record(f"m/{reference_id}", event)


def counted(model: str, total: int) -> Record:
    counts = FeatureReference(kind="numeric", cuts=[1.0], counts=[0, total], total=total)
    event = Reference(
        reference_id="a",
        model=model,
        version="1",
        effective_ms=100,
        origin="training",
        rows=total,
        features={"x": counts},
    )
    return record(f"{model}/a", event)


def version(name: str, status: str, sequence: int) -> Record:
    event = ModelVersion.model_validate(
        {"model": "m", "version": name, "status": status, "sequence": sequence, "changed_ms": 0}
    )
    return record(f"m/{name}", event)


def test_a_pane_has_the_monitor_that_was_in_effect_when_it_started() -> None:
    # effective:   100 ──────────── 200 ───────────▶
    # asked at:  50     100   199   200        None
    table = MonitorTable()
    table.apply(monitor(100))
    table.apply(monitor(200))
    asked = [table.get("m", at) for at in (50, 100, 199, 200, None)]
    assert [found.effective_ms for found in asked if found] == [100, 100, 100, 200, 200]
    assert table.get("other") is None
    assert table.models() == ["m"]


def test_a_later_monitor_replaces_what_was_still_to_come() -> None:
    table = MonitorTable()
    for effective_ms in (100, 300, 200):
        table.apply(monitor(effective_ms))
    assert [m.effective_ms for at in (0, 250, 400) if (m := table.get("m", at))] == [100, 200, 200]


def test_a_deleted_model_is_gone() -> None:
    table = MonitorTable()
    table.apply(monitor(0))
    table.apply(record("m", None))
    assert table.get("m") is None
    assert table.models() == []


def test_a_bad_record_is_skipped() -> None:
    table = MonitorTable()
    table.apply(monitor(0))
    for bad in (b"\x00avro", b"{", b'{"model": "m"}', b""):
        table.apply(record("m", bad))
    assert table.get("m") is not None


def test_the_newest_reference_in_effect_counts() -> None:
    table = ReferenceTable()
    table.apply(reference("b", 200))
    table.apply(reference("a", 100))
    found = [table.for_version("m", "1", at) for at in (99, 100, 199, 200)]
    assert [r and r.reference_id for r in found] == [None, "a", "a", "b"]
    assert table.for_version("m", "2", 500) is None


def test_the_same_reference_again_is_replaced_by_its_counts() -> None:
    table = ReferenceTable()
    table.apply(reference("a", 100, rows=0))
    table.apply(reference("a", 100, rows=10_000))
    assert (found := table.get("a")) is not None
    assert found.rows == 10_000
    assert table.for_version("m", "1", 100) == found
    table.apply(record("m/a", None))
    assert table.get("a") is None
    assert table.for_version("m", "1", 100) is None


def test_the_highest_sequence_of_a_version_counts() -> None:
    table = VersionTable()
    table.apply(version("1", "champion", 2))
    table.apply(version("1", "shadow", 1))
    assert (found := table.get("m", "1")) is not None
    assert found.status == "champion"


def test_during_a_promotion_the_later_champion_serves() -> None:
    table = VersionTable()
    table.apply(version("1", "champion", 1))
    table.apply(version("2", "champion", 3))
    assert (champion := table.champion("m")) is not None
    assert champion.version == "2"
    table.apply(version("1", "retired", 4))
    assert [v.version for v in table.of("m")] == ["2", "1"]
    assert table.champion("m") == champion
    table.apply(record("m/2", None))
    assert table.champion("m") is None


def test_names_of_versions_may_have_slashes_of_their_own() -> None:
    table = VersionTable()
    table.apply(version("models:/m/12", "champion", 1))
    table.apply(version("12", "shadow", 2))
    assert table.model_of("m/models:/m/12") == "m"
    assert table.model_of("m/models:/m") is None
    table.apply(record("m/models:/m/12", None))
    table.apply(record("m/models:/m/12", None))
    assert [found.version for found in table.of("m")] == ["12"]


def test_models_held_to_the_same_data_have_its_counts_in_common() -> None:
    table = ReferenceTable()
    for model in ("m", "n"):
        table.apply(counted(model, 7))
    first, second = (table.for_version(model, "1", 100) for model in ("m", "n"))
    assert first is not None
    assert second is not None
    assert (first.model, second.model) == ("m", "n")
    assert first.features["x"].total == 7
    assert first.features is second.features


def test_what_differs_under_one_id_is_not_shared() -> None:
    table = ReferenceTable()
    for total in (7, 8):
        table.apply(counted("m", total))
    assert (found := table.get("a")) is not None
    assert found.features["x"].total == 8
