"""Prefix reuse: keys and values of requests, kept for those that begin alike.

`connector` is what vLLM sees. In the scheduler's process `manager` decides, by `index`, `budget`
and `cost`; in the worker's process `executor` does what it is told, on a session.
"""
