"""What there is to know about video without touching any: bitstreams, RTP packets, and what to send when.

Like the rest of the core it does no I/O and reads no clock; bytes and times are arguments. The modules are the
namespace; importing the package itself imports nothing.
"""

__all__: list[str] = []
