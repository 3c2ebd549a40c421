"""How a receiver can tell that a request comes from Kedge."""

from __future__ import annotations

import hashlib
import hmac

__all__ = ["HEADER", "signature"]

#: The header that carries the signature.
HEADER = "X-Kedge-Signature"


def signature(body: bytes, secret: str) -> str:
    """Sign the raw body with HMAC-SHA256.

    >>> signature(b"{}", "secret")[:19]
    'sha256=77325902caca'
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
