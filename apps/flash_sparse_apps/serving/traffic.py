"""What `/metrics` shows, under text-embeddings-inference's names: counts and times, never a word of a document."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Traffic:
    """Counters of one server."""

    def __init__(self):
        self.registry = one = CollectorRegistry()
        self.requests = Counter("te_request", "Requests for predictions", registry=one)
        self.successes = Counter("te_request_success", "Requests that were answered", registry=one)
        self.failures = Counter("te_request_failure", "Requests that were refused", ["err"], registry=one)
        self.seconds = Histogram("te_request_duration", "Seconds of a request", registry=one, buckets=SECONDS)
        self.queue = Gauge("te_queue_size", "Documents that wait for the model", registry=one)
        self.documents = Histogram("te_batch_next_size", "Documents of a pack", registry=one, buckets=SIZES)
        self.tokens = Counter("te_batch_tokens", "Tokens that went through the model", registry=one)

    def note_pack(self, documents: int, tokens: int):
        self.documents.observe(documents)
        self.tokens.inc(tokens)

    def render(self, waiting: int) -> bytes:
        self.queue.set(waiting)
        return generate_latest(self.registry)
