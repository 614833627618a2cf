# SPDX-License-Identifier: Apache-2.0
"""The demonstration: real copies of real images, shown as they happen.

``python -m demo``, with ``tools`` in ``PYTHONPATH``; ``tools/demo.sh``
prepares an environment for it. A module for each theme registers its rows,
see :mod:`demo.scene`.
"""
