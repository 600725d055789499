"""A finished run as a page and a JSON API."""

LOCAL = ("127.0.0.1", "localhost", "::1")  # names of this machine that nobody else can reach
