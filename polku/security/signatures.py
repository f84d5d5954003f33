"""Signatures of webhooks (HMAC-SHA256) in the forms of those who send and take most of them.

Sources: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries,
https://docs.stripe.com/webhooks#verify-manually, https://api.slack.com/authentication/verifying-requests-from-slack.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum


class Style(StrEnum):
    """Whose form the signature has."""

    GITHUB = "github"
    STRIPE = "stripe"
    SLACK = "slack"


GITHUB_SIGNATURE = "X-Hub-Signature-256"
STRIPE_SIGNATURE = "Stripe-Signature"
SLACK_SIGNATURE, SLACK_TIME = "X-Slack-Signature", "X-Slack-Request-Timestamp"


def digest(style: Style, secret: str, body: bytes, when: str) -> str:
    """Return the signature of a body in hex; `when` is Unix time in seconds, which GitHub's form does not sign."""
    before = {Style.GITHUB: b"", Style.STRIPE: f"{when}.".encode(), Style.SLACK: f"v0:{when}:".encode()}[style]
    signing = hmac.new(secret.encode(), before, hashlib.sha256)
    signing.update(body)
    return signing.hexdigest()


def signature_headers(style: Style, secret: str, body: bytes, when: int) -> dict[str, str]:
    """Return the headers that sign a body now, at `when` in Unix seconds."""
    signature = digest(style, secret, body, str(when))
    match style:
        case Style.GITHUB:
            return {GITHUB_SIGNATURE: f"sha256={signature}"}
        case Style.STRIPE:
            return {STRIPE_SIGNATURE: f"t={when},v1={signature}"}
        case Style.SLACK:
            return {SLACK_SIGNATURE: f"v0={signature}", SLACK_TIME: str(when)}
