/** Clients that people use besides the CLI, and all of what they can say; each script prints a line a step. */
import { join } from "node:path";
import { type Case, sh } from "../case.ts";

const script = (name: string) => join(import.meta.dir, "../clients", name);

export const CLIENT_CASES: readonly Case[] = [
  {
    name: "client: docker-py",
    steps: [sh(`/usr/bin/python3 ${script("docker-py.py")}`, { timeoutMs: 60_000 })],
  },
  {
    name: "client: dockerode",
    steps: [sh(`${process.execPath} ${script("dockerode.mjs")}`, { timeoutMs: 60_000 })],
  },
];
