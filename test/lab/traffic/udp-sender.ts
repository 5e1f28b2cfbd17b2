/**
 * Sends a datagram each 100 ms from one port to `<address> <port>` (a host of the lab) and prints each answer
 * as a line. Ends by itself after two minutes.
 */
import { argv } from "node:process";

const PERIOD_MS = 100;
const LIFE_MS = 120_000;

const [address = "", port = ""] = argv.slice(2);
const socket = await Bun.udpSocket({
  socket: {
    data: (_, bytes) => console.log(bytes.toString("latin1").trim()),
    // "Refused": nobody is there yet, or any more.
    error: () => undefined,
  },
});
setInterval(() => {
  try {
    socket.send("x", Number(port), address);
  } catch {
    // as above: the kernel tells an earlier refusal now
  }
}, PERIOD_MS);
setTimeout(() => process.exit(0), LIFE_MS);
