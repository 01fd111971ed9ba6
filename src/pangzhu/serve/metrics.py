"""What `/metrics` tells, in Prometheus' words: counts and times, nothing of what was asked or answered."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pangzhu.serve.answers import Ended
from pangzhu.serve.line import Line

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
CHAT = "/v1/chat/completions"
ROUTES = ("/", "/health", "/ready", "/metrics", "/v1/models", "/v1/examples", "/v1/compare", "/v1/completions", CHAT)
OTHER = "other"


class Metrics:
    """The counters of one server.

    Args:
        line: whose places are told.
    """

    def __init__(self, line: Line) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pangzhu_requests", "Requests that ended.", ("route", "status"), registry=self._registry
        )
        self._tokens = Counter("pangzhu_tokens", "Tokens read and written.", ("model", "kind"), registry=self._registry)
        self._first = self._seconds("pangzhu_first_piece_seconds", "Seconds to an answer's first piece.")
        self._whole = self._seconds("pangzhu_answer_seconds", "Seconds to an answer's end.")
        self._gauge("pangzhu_answers_at_work", "Answers at work.", lambda: line.at_work)
        self._gauge("pangzhu_answers_waiting", "Answers waiting.", lambda: line.waiting)

    def request(self, path: str, status: int) -> None:
        """Count a request; paths that are no routes count as one, or whoever asks for many fills the memory."""
        self._requests.labels(path if path in ROUTES else OTHER, str(status)).inc()

    def answer(self, model: str, end: Ended, *, first: float, whole: float) -> None:
        """Count an answer that ended; times are seconds since it was asked for."""
        self._tokens.labels(model, "prompt").inc(end.num_prompt)
        self._tokens.labels(model, "answer").inc(end.num_written)
        self._first.observe(first)
        self._whole.observe(whole)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)

    def _seconds(self, name: str, meaning: str) -> Histogram:
        return Histogram(name, meaning, buckets=SECONDS, registry=self._registry)

    def _gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        Gauge(name, meaning, registry=self._registry).set_function(value)
