import { expect, test } from "bun:test";
import {
  REVISIONS_MAX,
  STACK_LENGTH_MAX,
  type StackRevision,
  withRevision,
} from "../../../core/objects/stack.ts";
import { stackDraft } from "../store/objects.ts";

const model = stackDraft("k").revisions[0]?.model ?? expect.unreachable();
const revision = (text: string) => ({
  atMs: 1,
  files: [{ name: "a", text }],
  model,
  images: {},
});

test("withRevision() numbers revisions for ever and keeps the newest", () => {
  let revisions: StackRevision[] = [];
  for (let i = 0; i < REVISIONS_MAX + 3; i += 1) revisions = withRevision(revisions, revision(""));
  expect(revisions.map(({ number }) => number)).toEqual([4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
});

test("withRevision() keeps fewer of large ones, and the newest whatever its size", () => {
  const half = "x".repeat(STACK_LENGTH_MAX / 2 - 1_000);
  let revisions: StackRevision[] = [];
  for (let i = 0; i < 4; i += 1) revisions = withRevision(revisions, revision(half));
  expect(revisions.map(({ number }) => number)).toEqual([3, 4]);
  expect(JSON.stringify(revisions).length).toBeLessThan(STACK_LENGTH_MAX);
  const huge = withRevision(revisions, revision("x".repeat(2 * STACK_LENGTH_MAX)));
  expect(huge.map(({ number }) => number)).toEqual([5]);
});
