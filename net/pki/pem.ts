import { ClusterError } from "../../core/errors.ts";

const LINE_LENGTH = 64;

/**
 * PEM in one canonical form: 64 columns, LF, newline at the end, as Go's encoding/pem writes it.
 * The join token's digest is over these bytes, so every certificate is brought to this form first.
 */
export function encodePem(label: string, der: Uint8Array): string {
  const lines: string[] = [`-----BEGIN ${label}-----`];
  const text = Buffer.from(der).toString("base64");
  for (let at = 0; at < text.length; at += LINE_LENGTH)
    lines.push(text.slice(at, at + LINE_LENGTH));
  lines.push(`-----END ${label}-----`, "");
  return lines.join("\n");
}

/**
 * The certificates in a PEM text, as DER, in order.
 * @throws {ClusterError} invalid-argument when there is none.
 */
export function decodeCertificates(pem: string): Uint8Array[] {
  const pattern = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/g;
  const found = [...pem.matchAll(pattern)].map((match) => Buffer.from(match[1] ?? "", "base64"));
  if (found.length === 0) {
    throw new ClusterError("invalid-argument", "Cannot read PEM: no certificate in it");
  }
  return found;
}
