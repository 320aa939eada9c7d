"""Does with the resend package what an application does; prints what it was told, as JSON.

usage: send_resend.py URL KEY
"""

import json
import sys

import resend

resend.api_url, resend.api_key = sys.argv[1:]
EMAIL = {
    "from": "Shop <shop@src.example>",
    "to": ["Ann <ann@dest.example>", "bob@dest.example"],
    "subject": "Grüße from Python",
    "html": "<p>Hello.</p>",
    "text": "Hello.",
    "reply_to": "help@src.example",
    "headers": {"X-Entity-Ref-ID": "17"},
    "tags": [{"name": "campaign", "value": "may"}],
    "attachments": [{"filename": "a.bin", "content": list(b"\0\1\xff")}],
}


def refused(call):
    try:
        call()
    except resend.exceptions.ResendError as error:
        return [int(error.code), error.error_type]
    return None


def main():
    key = {"idempotency_key": "order/1"}
    sent = resend.Emails.send(EMAIL, key)
    again = resend.Emails.send(EMAIL, key)
    other = {**EMAIL, "subject": "another"}
    batch = resend.Batch.send([other, other, other], {"idempotency_key": "batch/1"})
    half = resend.Batch.send([other, {**other, "to": "nobody"}], {"batch_validation": "permissive"})
    later = resend.Emails.send({**EMAIL, "scheduled_at": "in 1 hour"})["id"]
    scheduled = resend.Emails.get(later)
    too_far = refused(lambda: resend.Emails.update({"id": later, "scheduled_at": "in 9 years"}))
    resend.Emails.update({"id": later, "scheduled_at": "in 2 hours"})
    canceled = resend.Emails.cancel(later)
    told = {
        "sent": sent["id"],
        "again": again["id"],
        "batch": [item["id"] for item in batch["data"]],
        "half": [len(half["data"]), [item["index"] for item in half["errors"]]],
        "scheduled": scheduled["last_event"],
        "from": scheduled["from"],
        "to": scheduled["to"],
        "subject": scheduled["subject"],
        "text": scheduled["text"].strip(),
        "canceled": canceled["id"] == later,
        "after": resend.Emails.get(later)["last_event"],
        "refused": [
            refused(lambda: resend.Emails.send(other, key)),
            refused(lambda: resend.Emails.send({**EMAIL, "to": "nobody"})),
            refused(lambda: resend.Batch.send([other, {**other, "to": "nobody"}])),
            refused(lambda: resend.Emails.get("0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b")),
            refused(lambda: resend.Emails.send({"from": "shop@src.example", "to": "a@dest.example"})),
            too_far,
        ],
    }
    resend.api_key = "re_123"
    told["refused"].append(refused(lambda: resend.Emails.get(later)))
    print(json.dumps(told))


main()
