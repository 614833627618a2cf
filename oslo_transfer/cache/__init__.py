# SPDX-License-Identifier: Apache-2.0
"""Blocks of remote objects, kept on this host as they are read."""
