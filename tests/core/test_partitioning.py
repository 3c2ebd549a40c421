from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kedge.topics import murmur2, request_partition
from kedge_services.core.partitioning import key_partitions, murmur2_many


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_many_hashes_equal_one_by_one(keys: list[bytes]) -> None:
    assert murmur2_many(keys).tolist() == [murmur2(key) for key in keys]


def test_partition_of_a_key_is_that_of_its_prediction() -> None:
    ids = [f"request-{i}" for i in range(500)]
    expected = [request_partition(f"{name}#3", 8) for name in ids]
    assert key_partitions([name.encode() for name in ids], 8).tolist() == expected


def test_known_hashes_of_the_java_client() -> None:
    # From Kafka's own UtilsTest.testMurmur2.
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    assert murmur2_many(list(known)).astype("int32").tolist() == list(known.values())
