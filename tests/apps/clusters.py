"""Ray clusters on this machine, as small as they can be, and patient where it is busy."""

import importlib.util
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra [ray]")
PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


@contextmanager
def two_nodes() -> Iterator[tuple]:
    """A cluster of two nodes with a core each, and the node that may be killed."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_agent_register_timeout_ms", "300000")
        patch.setenv("RAY_worker_niceness", "0")  # otherwise tasks wait for all else that the machine does
        cluster = Cluster()
        try:
            _patiently(lambda: cluster.add_node(**_small(), include_dashboard=False))
            yield cluster, _patiently(lambda: cluster.add_node(**_small()))
        finally:
            cluster.shutdown()


def _patiently(start: Callable[[], Any]) -> Any:
    """What a start gives, which Ray gives up after 30 seconds: on a busy machine, a later one ends in time."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def _small() -> dict:
    """Of a node: its size, and ports, for which Ray would otherwise wait a few seconds only."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in PORTS]
        for each in sockets:
            each.bind(("", 0))
        ports = [each.getsockname()[1] for each in sockets]
    return {"num_cpus": 1, "object_store_memory": 80 * 2**20, **dict(zip(PORTS, ports, strict=True))}
