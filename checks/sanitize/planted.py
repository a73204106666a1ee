"""Has the extension read beyond a datagram: whoever watches memory must say so. For suite.sh."""

from __future__ import annotations

from gnutls_cookie._ffi import ffi, lib
from gnutls_cookie.reference import wire

hello = wire.client_hello()
cut = ffi.new("unsigned char[]", hello[:30])
keys = ffi.new("struct gcookie_keys *")
keys.current.size = 16
verdict, counters = ffi.new("struct gcookie_verdict *"), ffi.new("struct gcookie_counters *")
lib.gcookie_gate_counted(keys, b"", 0, cut, len(hello), verdict, counters)
