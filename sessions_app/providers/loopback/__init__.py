"""Loopback: a voice backend in this process that answers with the caller's own audio, a moment later.

For trying the platform without any voice service, and for seeing what it does when a backend is slow, fails, hangs or dies: its options
make it do so (``options``). ``echo`` paces the answer, ``provider`` is the contract. No secrets are needed; any are ignored.
Limits: it lives and dies with its process, and lists only what this process holds. An echo remembers nothing, so a session opened
again elsewhere goes on as before.
"""
