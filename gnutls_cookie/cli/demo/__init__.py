"""gnutls-cookie demo: the cookie exchange on loopback, in three acts.

- exchange.py: step by step, with our own client, openssl s_client and gnutls-cli;
- restart.py: a client in mid-exchange as the key changes, at the gate and at the manual's recipe;
- flood.py: strangers by the hundred thousand, and clients that are served meanwhile;
- screen.py: lines, colours and the line that changes.
"""
