"""What `/metrics` tells, in Prometheus' words: counts and times, nothing of what was asked or answered."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pangzhu.serve.answers import Ended
from pangzhu.serve.line import Line

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
ROUTES = ("/", "/health", "/ready", "/metrics", "/v1/models", "/v1/examples", "/v1/compare", "/v1/completions")
ROUTES += ("/v1/chat/completions",)
OTHER = "other"


class Metrics:
    """The counters of one server.

    Args:
        line: whose places are told.
    """

    def __init__(self, line: Line) -> None:
        self._registry = CollectorRegistry()
        names = {"registry": self._registry, "namespace": "pangzhu"}
        self._requests = Counter("requests", "Requests that ended.", ("route", "status"), **names)
        self._tokens = Counter("tokens", "Tokens read and written.", ("model", "kind"), **names)
        self._first = Histogram("first_piece_seconds", "Seconds to an answer's first piece.", buckets=SECONDS, **names)
        self._whole = Histogram("answer_seconds", "Seconds to an answer's end.", buckets=SECONDS, **names)
        for name, told in (("answers_at_work", "at_work"), ("answers_waiting", "waiting")):
            Gauge(name, f"Answers {told.replace('_', ' ')}.", **names).set_function(
                lambda told=told: getattr(line, told)
            )

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
