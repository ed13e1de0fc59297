"""System checks. Their ids stay what they are."""

from __future__ import annotations


def register() -> None:
    """x"""
