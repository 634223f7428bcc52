"""Metrics for Prometheus: gathered from the workers, offered over HTTP or in a text file.

The only place that knows prometheus_client.
"""
