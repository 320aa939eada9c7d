"""Sends with Python's smtplib what the JSON on standard input says; prints who was refused."""

import json
import smtplib
import ssl
import sys

job = json.load(sys.stdin)
trust = ssl.create_default_context(cafile=job["authority"]) if job["tls"] != "none" else None
if job["tls"] == "implicit":
    smtp = smtplib.SMTP_SSL(job["host"], job["port"], context=trust)
else:
    smtp = smtplib.SMTP(job["host"], job["port"])
with smtp:
    if job["tls"] == "starttls":
        smtp.starttls(context=trust)
    if job["user"]:
        smtp.login(job["user"], job["password"])
    refused = []
    for mail in job["mails"]:
        with open(mail["content"], "rb") as content:
            answer = smtp.sendmail(mail["from"], mail["to"], content.read())
        refused += [[address, code] for address, (code, _) in answer.items()]
print(json.dumps(refused))
