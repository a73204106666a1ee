"""The cookie exchange in pure Python: the specification that the compiled half is held against.

Read wire.py (the messages), then cookie.py (the two functions of libgnutls), then gate.py (what
one datagram is answered with). Standard library only; nothing of the rest of the package is used.
"""
