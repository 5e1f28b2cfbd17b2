/** The world's name server: on each given address, `*.example` is that address, anything else unknown. */
import process from "node:process";

const NAME_ERROR = 3;

const addresses = process.argv.slice(2);
for (const address of addresses) {
  await Bun.udpSocket({
    hostname: address,
    port: 53,
    socket: {
      data: (socket, bytes, port, asker) => {
        socket.send(answer(bytes, address), port, asker);
      },
    },
  });
}
console.log("serves");

function answer(query: Buffer, address: string): Buffer {
  let end = 12;
  let name = "";
  for (let length = query[end] ?? 0; length > 0; length = query[end] ?? 0) {
    name += `${query.toString("latin1", end + 1, end + 1 + length)}.`;
    end += length + 1;
  }
  const type = query.readUInt16BE(end + 1);
  const isKnown = name.endsWith(".example.");
  const head = Buffer.from(query.subarray(0, end + 5));
  head.writeUInt16BE(0x8180 | (isKnown ? 0 : NAME_ERROR), 2);
  head.writeUInt16BE(isKnown && type === 1 ? 1 : 0, 6);
  head.writeUInt16BE(0, 10);
  if (!isKnown || type !== 1) return head;
  const record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address.split(".").map(Number)];
  return Buffer.concat([head, Buffer.from(record)]);
}
