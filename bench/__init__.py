"""Benchmarks of marey against its peers.

``python -m bench`` runs them, ``python -m bench.report`` draws them.

A folder is a family. Its ``workloads.py`` says what the work is and how marey does it; each
``bench_<peer>.py`` beside it says how one peer does the same work.
"""
