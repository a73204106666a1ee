"""The version of this package: read by setup.py and build_ffi.py, compiled into the module."""

__version__ = "0.1.0"
