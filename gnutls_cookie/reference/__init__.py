"""The cookie exchange in pure Python: the specification that the compiled half is held against.

Read wire.py (the messages), then cookie.py (the two functions of libgnutls), gate.py (what one
datagram is answered with) and client.py (what a client makes of the answer). Standard library only;
nothing of the rest of the package is used: where there is no libgnutls, this folder can be copied
into another project, under any name.
"""
