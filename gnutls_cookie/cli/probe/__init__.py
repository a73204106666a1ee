"""gnutls-cookie probe: how a DTLS server does the cookie exchange, seen from outside.

- script.py: what is sent, step by step;
- reading.py: what came back;
- judging.py: what that means by the RFC;
- command.py: options, sockets, questions to the user and the report.

The first three know bytes only: no socket, no clock.
"""
