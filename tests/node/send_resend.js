// Does with the resend package what an application does; prints what it was told, as JSON.
// usage: node send_resend.js URL KEY
"use strict";

const { Resend } = require("resend");

const [baseUrl, key] = process.argv.slice(2);
const resend = new Resend(key, { baseUrl });
const email = {
    from: "Shop <shop@src.example>",
    to: ["Ann <ann@dest.example>", "bob@dest.example"],
    subject: "Grüße from Node",
    html: "<p>Hello.</p>",
    text: "Hello.",
    replyTo: "help@src.example",
    headers: { "X-Entity-Ref-ID": "17" },
    tags: [{ name: "campaign", value: "may" }],
    attachments: [{ filename: "a.bin", content: Buffer.from([0, 1, 255]) }],
};

// What was asked for, or a failure that ends the test.
function done({ data, error }) {
    if (error) throw new Error(JSON.stringify(error));
    return data;
}

function refused({ error }) {
    return error && [error.statusCode, error.name];
}

async function main() {
    const once = { idempotencyKey: "order/2" };
    const sent = done(await resend.emails.send(email, once));
    const again = done(await resend.emails.send(email, once));
    const other = { ...email, subject: "another" };
    const nobody = { ...email, to: "nobody" };
    const batch = done(await resend.batch.send([other, other, other], { idempotencyKey: "batch/2" }));
    const permissive = { headers: { "x-batch-validation": "permissive" } };
    const half = done(await resend.batch.send([other, nobody], permissive));
    const later = done(await resend.emails.send({ ...email, scheduledAt: "in 1 hour" })).id;
    const scheduled = done(await resend.emails.get(later));
    const tooFar = refused(await resend.emails.update({ id: later, scheduledAt: "in 9 years" }));
    done(await resend.emails.update({ id: later, scheduledAt: "in 2 hours" }));
    const canceled = done(await resend.emails.cancel(later));
    const stranger = new Resend("re_123", { baseUrl });
    console.log(JSON.stringify({
        sent: sent.id,
        again: again.id,
        batch: batch.data.map((item) => item.id),
        half: [half.data.length, half.errors.map((item) => item.index)],
        scheduled: scheduled.last_event,
        from: scheduled.from,
        to: scheduled.to,
        subject: scheduled.subject,
        text: scheduled.text.trim(),
        canceled: canceled.id === later,
        after: done(await resend.emails.get(later)).last_event,
        refused: [
            refused(await resend.emails.send(other, once)),
            refused(await resend.emails.send(nobody)),
            refused(await resend.batch.send([other, nobody])),
            refused(await resend.emails.get("0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b")),
            refused(await resend.emails.send({ from: "shop@src.example", to: "a@dest.example" })),
            tooFar,
            refused(await stranger.emails.get(later)),
        ],
    }));
}

main().catch((error) => {
    console.error(error);
    process.exitCode = 1;
});
