# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: ratios to the tools that a user would pick instead.

``python -m bench``, with ``tools`` in ``PYTHONPATH``; ``tools/bench.sh``
prepares an environment for it. A module for each theme registers its
benchmarks, see :mod:`bench.registry`.
"""
