// Sends with nodemailer what the JSON on standard input says; prints who was refused.
"use strict";

const fs = require("node:fs");
const nodemailer = require("nodemailer");

async function main() {
    const job = JSON.parse(fs.readFileSync(0, "utf8"));
    const transport = nodemailer.createTransport({
        pool: true,
        maxConnections: 1,
        host: job.host,
        port: job.port,
        secure: job.tls === "implicit",
        ignoreTLS: job.tls === "none",
        requireTLS: job.tls === "starttls",
        tls: job.authority ? { ca: fs.readFileSync(job.authority) } : {},
        auth: job.user ? { user: job.user, pass: job.password } : undefined,
        authMethod: "LOGIN",
    });
    const refused = [];
    for (const mail of job.mails) {
        const { from, to } = mail;
        const raw = fs.readFileSync(mail.content);
        const info = await transport.sendMail({ envelope: { from, to }, raw });
        for (const error of info.rejectedErrors ?? []) {
            refused.push([error.recipient, error.responseCode]);
        }
    }
    transport.close();
    console.log(JSON.stringify(refused));
}

main().catch((error) => {
    console.error(error);
    process.exitCode = 1;
});
