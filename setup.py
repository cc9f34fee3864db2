"""The C extension: only what has to be compiled; everything else is in setup.cfg."""

from setuptools import setup

setup()
