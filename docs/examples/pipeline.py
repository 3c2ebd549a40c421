# ruff: noqa: INP001 -- an example is no package
"""A pipeline elsewhere, for the executor `webhook`: the interface of docs/executors.md, whole.

    PIPELINE_SECRET=... python docs/examples/pipeline.py --kafka 127.0.0.1:9192 --port 8099

It needs confluent-kafka, scikit-learn and skops. `train` is what you would replace;
the rest is how a receiver answers: one run a key, however often it is asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def train(payload: dict[str, Any], kafka: str) -> tuple[bytes, dict[str, Any]]:
    """Give a model file and the rest of the result."""
    import numpy as np
    import skops.io
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    rows = [row for row in read_examples(payload, kafka) if row["model"] == payload["model"]]
    columns, classes = payload["feature_schema"], [str(c) for c in payload["classes"]]
    # What Kedge reads as `skops`: text columns first, each group in the order of the schema.
    texts = [c["name"] for c in columns if c["type"] != "numeric"]
    names = texts + [c["name"] for c in columns if c["type"] == "numeric"]
    table = [[row["features"].get(name) for name in names] for row in rows]
    labels = [classes.index(str(row["label"])) for row in rows]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    categories = ("categories", encoder, list(range(len(texts))))
    boosting = HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=1)
    steps = [("encode", ColumnTransformer([categories], remainder="passthrough"))]
    model = Pipeline([*steps, ("model", boosting)])
    matrix = np.array(table, dtype=object)
    accuracy = float(np.mean(cross_val_score(model, matrix, labels, cv=3)))
    data = skops.io.dumps(model.fit(matrix, labels))
    return data, {"rows": len(rows), "seed": 1, "metrics": {"accuracy": accuracy}}


def read_examples(payload: dict[str, Any], kafka: str) -> list[dict[str, Any]]:
    """Read exactly the ranges of the payload; of each example the highest revision."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    open_ = {(r["topic"], r["partition"]): r for r in payload["examples"] if r["start"] < r["end"]}
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": "pipeline", "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(t, p, r["start"]) for (t, p), r in open_.items()])
    found: dict[str, dict[str, Any]] = {}
    while open_:
        message = consumer.poll(10)
        if message is None:
            raise TimeoutError("the examples could not be read to the end of their ranges")
        error, place = message.error(), (message.topic(), message.partition())
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            raise RuntimeError(error.str())
        end = open_[place]["end"] if place in open_ else 0
        if error is None and message.offset() < end:
            example = json.loads(message.value())
            known = found.get(example["prediction_id"], example)
            if known.get("revision", 0) <= example.get("revision", 0):
                found[example["prediction_id"]] = example
        # An end of the partition counts too: the last offsets may be transaction markers.
        if message.offset() + (error is None) >= end:
            open_.pop(place, None)
    consumer.close()
    return list(found.values())


class Pipeline:
    """Runs by key; `reports` is what their status URLs say."""

    def __init__(self, kafka: str, secret: str | None) -> None:
        self.kafka, self.secret = kafka, secret
        self.reports: dict[str, dict[str, Any]] = {}
        self.models: dict[str, bytes] = {}
        self.url = ""
        self._lock = threading.Lock()

    def is_signed(self, body: bytes, given: str | None) -> bool:
        """Say whether Kedge has sent this; without a secret everybody may."""
        if self.secret is None:
            return True
        expected = "sha256=" + hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        return hmac.compare_digest(expected, given or "")

    def start(self, key: str, body: bytes) -> None:
        """Start the run of this key, unless it was started before."""
        with self._lock:
            if key in self.reports:
                return
            self.reports[key] = {"status": "queued"}
        threading.Thread(target=self._run, args=(key, json.loads(body)), daemon=True).start()

    def _run(self, key: str, payload: dict[str, Any]) -> None:
        self.reports[key] = {"status": "running"}
        try:
            data, result = train(payload, self.kafka)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the run has failed
            self.reports[key] = {"status": "failed", "message": repr(error)}
            return
        sha256 = hashlib.sha256(data).hexdigest()
        self.models[sha256] = data
        model = {"uri": f"{self.url}/models/{sha256}", "sha256": sha256, "format": "skops"}
        self.reports[key] = {"status": "succeeded", "result": {"model": model, **result}}


def serve(pipeline: Pipeline, port: int) -> ThreadingHTTPServer:
    """Give the server of a pipeline, which listens on this machine only."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = self.headers.get("Idempotency-Key", "")
            if not pipeline.is_signed(body, self.headers.get("X-Kedge-Signature")):
                self._answer(401, b"")
                return
            pipeline.start(key, body)
            self._json({"run_id": key, "status_url": f"/runs/{key}"})

        def do_GET(self) -> None:
            _, kind, name = self.path.split("/", 2)
            if kind == "models" and name in pipeline.models:
                self._answer(200, pipeline.models[name])
            elif kind != "runs" or name not in pipeline.reports:
                self._answer(404, b"")
            elif pipeline.is_signed(name.encode(), self.headers.get("X-Kedge-Signature")):
                self._json(pipeline.reports[name])
            else:
                self._answer(401, b"")

        def log_message(self, *_: object) -> None:
            pass

        def _json(self, value: dict[str, Any]) -> None:
            self._answer(200, json.dumps(value).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    pipeline.url = f"http://127.0.0.1:{server.server_address[1]}"
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=f"The receiver of {Path(__file__).name}.")
    parser.add_argument("--kafka", default="127.0.0.1:9192", help="where the examples are")
    parser.add_argument("--port", type=int, default=8099)
    options = parser.parse_args()
    serve(Pipeline(options.kafka, os.environ.get("PIPELINE_SECRET")), options.port).serve_forever()
