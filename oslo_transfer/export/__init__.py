# SPDX-License-Identifier: Apache-2.0
"""Servers that let others read what is in the cache."""
