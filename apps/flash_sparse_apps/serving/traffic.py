"""What `/metrics` shows, under text-embeddings-inference's names: counts and times, never a word of a document."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Traffic:
    """Counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("te_request", "Requests for predictions", **own)
        self.successes = Counter("te_request_success", "Requests that were answered", **own)
        self.failures = Counter("te_request_failure", "Requests that were refused", ["err"], **own)
        self.seconds = Histogram("te_request_duration", "Seconds of a request", buckets=SECONDS, **own)
        self.queue = Gauge("te_queue_size", "Documents that wait for the model", **own)
        self.documents = Histogram("te_batch_next_size", "Documents of a pack", buckets=SIZES, **own)
        self.tokens = Counter("te_batch_tokens", "Tokens that went through the model", **own)

    def note_pack(self, documents: int, tokens: int):
        self.documents.observe(documents)
        self.tokens.inc(tokens)

    def render(self, waiting: int) -> bytes:
        self.queue.set(waiting)
        return generate_latest(self.registry)
